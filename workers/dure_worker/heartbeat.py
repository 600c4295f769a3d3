"""Tells the supervisor, through a pipe, that this process lives and whether its answers advance."""

import contextlib
import os
import threading
import time
from collections.abc import Callable

from dure.heartbeat import Beat

_EVERY_S = 0.5


class Heartbeat:
    """beat() is asked twice a second. fd: the pipe's end that the supervisor opened; -1: nobody listens."""

    def __init__(self, fd: int, beat: Callable[[], Beat]) -> None:
        self._fd = fd
        self._beat = beat
        if fd >= 0:
            os.set_blocking(fd, False)
            threading.Thread(target=self._loop, name="heartbeat", daemon=True).start()

    def follow(self, beat: Callable[[], Beat]) -> None:
        """Ask this from now on, and tell at once: a supervisor is patient only with a worker that is still loading."""
        self._beat = beat
        self._tell()

    def _loop(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            self._tell()

    def _tell(self) -> None:
        # Nobody reads for a while, or nobody lives to read: this process has its own work to do.
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._fd, self._beat().to_line())
