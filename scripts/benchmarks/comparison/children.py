"""Child processes of the comparison: one at a time, each with one engine, and what they say at their end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

# Libraries that make threads of their own read these before anything is imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ChildFailed(Exception):
    """The message is the last line that the child said."""


def run(module: str, arguments: list[str], num_threads: int, timeout_s: float, told: str = "") -> dict[str, Any]:
    """The JSON object on the last line. Raises ChildFailed. told: on the child's standard input.

    The child leads a group of processes, so that a server which it started ends with it.
    """
    command = [sys.executable, "-m", f"benchmarks.comparison.{module}", *arguments, f"--threads={num_threads}"]
    environ = os.environ | dict.fromkeys(_THREADS, str(num_threads)) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            said, complained = process.communicate(told, timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"took longer than {timeout_s:.0f} s") from None
        finally:
            _end_group(process.pid)
    if process.returncode:
        raise ChildFailed((complained.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def own_link(weights: Path, folder: Path, name: str) -> Path:
    """The weights in a folder of their own: what an engine makes beside them is for its own way of serving alone."""
    path = folder / name / weights.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.exists() and path.samefile(weights)):
        path.unlink(missing_ok=True)
        path.hardlink_to(weights)
    return path
