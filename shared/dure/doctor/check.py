"""A finding, and the few ways to make one."""

import re
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"  # nothing to do
    WARN = "warn"  # works, but worse than it could, or not for long
    BAD = "bad"  # does not work, or would lose jobs


@dataclass(frozen=True)
class Remedy:
    """The same advice twice, as a user would type it. ko is empty where it is an error's own text."""

    en: str = ""
    ko: str = ""


@dataclass(frozen=True)
class Check:
    name: str
    status: Status
    found: str
    remedy: Remedy = Remedy()


def ok(name: str, found: str) -> Check:
    return Check(name, Status.OK, found)


def warn(name: str, found: str, remedy: Remedy) -> Check:
    return Check(name, Status.WARN, found, remedy)


def bad(name: str, found: str, remedy: Remedy) -> Check:
    return Check(name, Status.BAD, found, remedy)


def of_error(name: str, error: Exception) -> Check:
    """Errors of this project read "what is wrong: what to do"; a colon in brackets belongs to the first part."""
    parts = re.fullmatch(r"((?:\([^)]*\)|[^(:])+|.*?): (.+)", str(error), re.DOTALL)
    found, remedy = parts.groups() if parts else (str(error), "")
    return bad(name, found, Remedy(remedy))


def gb(num_bytes: float) -> str:
    """As disks and downloads are sold."""
    return f"{num_bytes / 1e9:.1f} GB"


def gib(num_bytes: float) -> str:
    """As memory is sold."""
    return f"{num_bytes / (1 << 30):.1f} GiB"
