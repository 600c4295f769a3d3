"""Child processes of `dure up` and `dure worker`: started in order, started again when they die, stopped in reverse."""

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

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
    """One process. log_path None: it writes where its parent does. stop_s: until SIGKILL follows SIGTERM."""

    name: str
    command: list[str]
    environ: dict[str, str]
    log_path: Path | None
    stop_s: float = 10.0
    num_early_deaths: int = 0
    started_at: float = 0.0
    restart_at: float | None = None
    reload_until: float | None = None  # being stopped in order to start again; killed then
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        with self._open_log() as log:
            self.process = self._launch(log)
        self.started_at = time.monotonic()
        self.restart_at = self.reload_until = None

    def _launch(self, log: "IO[bytes] | None") -> "subprocess.Popen[bytes]":
        return self._spawn(log)

    def _open_log(self) -> "contextlib.AbstractContextManager[IO[bytes] | None]":
        if self.log_path is None:
            return contextlib.nullcontext()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        _rotate(self.log_path)
        return self.log_path.open("ab")

    def _spawn(
        self, log: "IO[bytes] | None", pass_fds: tuple[int, ...] = (), **environ: str
    ) -> "subprocess.Popen[bytes]":
        # A session of its own keeps the terminal's Ctrl-C away: the parent stops children in order.
        return subprocess.Popen(
            self.command,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )

    def watch(self) -> None:
        """Look after a living process. A reload that takes too long ends here."""
        if self.process is not None and self.reload_until is not None and time.monotonic() > self.reload_until:
            self.process.kill()

    def on_death(self) -> str:
        """Say how it ended."""
        return self.how_it_ended()

    def reload(self) -> None:
        """Stop it, in order; `Children` starts it again."""
        if self.process is not None and self.is_alive:
            self.reload_until = time.monotonic() + self.stop_s
            self.process.terminate()

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
        if self.log_path is None or not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text("utf-8", errors="replace").splitlines()[-num_lines:])

    @property
    def is_hopeless(self) -> bool:
        """It said itself that the next start will fail as well (sysexits.h)."""
        return self.process is not None and self.process.returncode == os.EX_CONFIG

    def how_it_ended(self) -> str:
        code = self.process.returncode if self.process else None
        if code is not None and code < 0:
            known = {number.value: number.name for number in signal.Signals}
            return f"killed by {known.get(-code, f'signal {-code}')}"
        return f"exit status {code}"


class Children:
    """say(text) tells the user what happens to them. dice: for the pauses, so that many boxes do not start as one."""

    def __init__(self, say: Callable[[str], None], dice: random.Random | None = None) -> None:
        self._children: list[Child] = []
        self._say = say
        self._dice = dice or random.Random()

    def start(self, child: Child) -> None:
        self._children.append(child)
        child.start()

    def watch_once(self) -> None:
        """Start again what died, after a pause. Raises ChildGaveUp, with the end of its log."""
        for child in self._children:
            if child.is_alive:
                child.watch()
            elif child.restart_at is None:
                child.restart_at = time.monotonic() + self._pause(child)
            elif time.monotonic() >= child.restart_at:
                child.start()

    def reload(self, kind: type[Child]) -> None:
        """Stop all children of that kind in order; the next rounds start them again."""
        for child in self._children:
            if isinstance(child, kind):
                child.reload()

    def stop(self) -> None:
        """Stop the last started first: nobody loses what it still needs."""
        for child in reversed(self._children):
            child.stop()

    def _pause(self, child: Child) -> float:
        ended = child.on_death()
        if child.reload_until is not None:
            self._say(f"{child.name}: stopped in order; starting it again")
            return 0
        is_early = time.monotonic() - child.started_at < _HEALTHY_AFTER_S
        child.num_early_deaths = child.num_early_deaths + 1 if is_early else 1
        if child.is_hopeless:
            raise ChildGaveUp(f"{child.name} cannot start:\n{child.log_tail(1)}")
        if child.num_early_deaths >= _MAX_EARLY_DEATHS:
            raise ChildGaveUp(
                f"{child.name} died {child.num_early_deaths} times ({ended}). Its last words:\n{child.log_tail()}"
            )
        pause_s: float = min(_FIRST_PAUSE_S * 2 ** (child.num_early_deaths - 1), _LONGEST_PAUSE_S)
        pause_s *= self._dice.uniform(0.5, 1.5)
        where = f" (log: {child.log_path})" if child.log_path else ""
        self._say(f"{child.name}: {ended}; starting it again in {pause_s:.2g} s{where}")
        return pause_s


def _die_with_parent() -> None:
    """Runs in the child before exec: a killed parent must not leave children behind (prctl(2), Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
