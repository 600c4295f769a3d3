"""Child processes of `dure up` and `dure worker`: started in order, started again when they die, stopped in reverse."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dure.errors import DureError

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# A child that lived so long was not broken from the start; its next death begins counting anew.
_HEALTHY_AFTER_S = 30.0
_MAX_EARLY_DEATHS = 5
_LOG_BYTES = 10 << 20
_PR_SET_PDEATHSIG = 1


class ChildGaveUp(DureError):
    """A child died again and again right after its start."""


@dataclass
class Child:
    """One process. stop_s: how long it may take to end after SIGTERM before it is killed."""

    name: str
    command: list[str]
    environ: dict[str, str]
    log_path: Path
    stop_s: float = 10.0
    num_early_deaths: int = 0
    started_at: float = 0.0
    restart_at: float | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        _rotate(self.log_path)
        with self.log_path.open("ab") as log:
            # A session of its own keeps the terminal's Ctrl-C away: the parent stops children in order.
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        self.started_at = time.monotonic()
        self.restart_at = None

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process is None or not self.is_alive:
            return
        self.process.terminate()
        try:
            self.process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log_tail(self, num_lines: int = 8) -> str:
        lines = self.log_path.read_text("utf-8", errors="replace").splitlines() if self.log_path.exists() else []
        return "\n".join(lines[-num_lines:])

    def how_it_ended(self) -> str:
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"killed by {known.get(-code, f'signal {-code}')}"
        return f"exit status {code}"


class Children:
    """say(text) tells the user what happens to them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._children: list[Child] = []
        self._say = say

    def start(self, child: Child) -> None:
        self._children.append(child)
        child.start()

    def watch_once(self) -> None:
        """Start again what died, after a pause. Raises ChildGaveUp, with the end of its log."""
        for child in self._children:
            if child.is_alive:
                continue
            if child.restart_at is None:
                child.restart_at = time.monotonic() + self._pause(child)
            if time.monotonic() >= child.restart_at:
                child.start()

    def stop(self) -> None:
        """Stop the last started first: nobody loses what it still needs."""
        for child in reversed(self._children):
            child.stop()

    def _pause(self, child: Child) -> float:
        is_early = time.monotonic() - child.started_at < _HEALTHY_AFTER_S
        child.num_early_deaths = child.num_early_deaths + 1 if is_early else 1
        ended = child.how_it_ended()
        if child.num_early_deaths >= _MAX_EARLY_DEATHS:
            raise ChildGaveUp(
                f"{child.name} died {child.num_early_deaths} times ({ended}). Its last words:\n{child.log_tail()}"
            )
        pause_s: float = min(_FIRST_PAUSE_S * 2 ** (child.num_early_deaths - 1), _LONGEST_PAUSE_S)
        self._say(f"{child.name}: {ended}; starting it again in {pause_s:g} s (log: {child.log_path})")
        return pause_s


def _die_with_parent() -> None:
    """Runs in the child before exec: a killed parent must not leave children behind (prctl(2), Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
