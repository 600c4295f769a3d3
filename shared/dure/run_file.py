"""`run.json` in the state folder: how other commands on this machine find the running `dure up`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Running:
    """A `dure up` and where it listens. redis_url holds a password."""

    pid: int
    port: int
    redis_url: str


def write(home: Path, running: Running) -> None:
    path = _path(home)
    path.touch(mode=0o600)  # before the password is in it
    path.write_text(json.dumps(asdict(running)), encoding="utf-8")


def read(home: Path) -> Running | None:
    """None where none runs: no file, or one that a killed process left behind."""
    try:
        running = Running(**json.loads(_path(home).read_text("utf-8")))
        os.kill(running.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return running


def remove(home: Path) -> None:
    _path(home).unlink(missing_ok=True)


def _path(home: Path) -> Path:
    return home / "run.json"
