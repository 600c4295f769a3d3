"""The processor of this machine, as far as the system tells it (proc(5), /proc/cpuinfo)."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Cpu:
    """machine: its kind, as platform.machine() says it. name '' and no flags: the system does not tell them."""

    machine: str
    name: str = ""
    flags: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cpuinfo: str, machine: str) -> Self:
        return cls(machine, _field(cpuinfo, "model name"), frozenset(_field(cpuinfo, "flags").split()))

    @classmethod
    def here(cls) -> Self:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
        except OSError:
            cpuinfo = ""
        return cls.of(cpuinfo, platform.machine())

    @property
    def is_x86(self) -> bool:
        return self.machine in {"x86_64", "AMD64"}


def _field(cpuinfo: str, name: str) -> str:
    """Of the first processor; the others are like it."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
