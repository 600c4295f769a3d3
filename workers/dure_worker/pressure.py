"""What a worker does when its memory runs short, before its supervisor has to kill it."""

import ctypes
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum

log = logging.getLogger(__name__)

# Shares of the limit at which the supervisor kills. A plan that is met exactly is at 0.91 (memory_plan.MARGIN).
_TRIM_AT = 0.96
_RESTART_AT = 0.98
# Trimming shows within a round; what stays so long will not go away by itself. Long prompts wait meanwhile.
_PATIENCE_S = 10.0
_LONGEST_TIGHT_S = 60.0
_EVERY_S = 0.5


class Level(IntEnum):
    EASY = 0
    TIGHT = 1  # caches were trimmed and it did not help: no long prompts
    OVER = 2  # nor did that: the worker ends its answers and starts anew


def trim_heap() -> None:
    """Give free memory back to the system: Python's and, with glibc, malloc's (malloc_trim(3))."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class Pressure:
    """Watches resident memory. rss_mib() gives it; limit_mib 0: never under pressure.

    trim() gives back what can be had again; on_over() is called once. `look` is one round, of the thread that `start`
    makes or of a test.
    """

    def __init__(
        self,
        rss_mib: Callable[[], int],
        limit_mib: int,
        on_over: Callable[[], None],
        trim: Callable[[], None] = trim_heap,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rss_mib = rss_mib
        self._limit_mib = limit_mib
        self._on_over = on_over
        self._trim = trim
        self._clock = clock
        self._tight_since: float | None = None
        self.level = Level.EASY

    def start(self) -> None:
        if self._limit_mib:
            threading.Thread(target=self._loop, name="pressure", daemon=True).start()

    @property
    def is_tight(self) -> bool:
        return self.level >= Level.TIGHT

    def look(self) -> None:
        if self.level is Level.OVER or self._share() < _TRIM_AT:
            self._ease()
            return
        if self._tight_since is None:
            self._tight_since = self._clock()
            self._trim()
            self._tell("memory.trim")
        elif self.level is Level.EASY:
            self._rise(Level.TIGHT, "memory.tight")
        elif self._clock() - self._tight_since >= (_PATIENCE_S if self._share() >= _RESTART_AT else _LONGEST_TIGHT_S):
            self._rise(Level.OVER, "memory.restart")
            self._on_over()

    def _ease(self) -> None:
        if self.level is Level.TIGHT:
            self._rise(Level.EASY, "memory.easy")
        self._tight_since = None

    def _rise(self, level: Level, action: str) -> None:
        self.level = level
        self._tell(action)

    def _tell(self, action: str) -> None:
        extra = {"action": action, "rss_mib": self._rss_mib(), "limit_mib": self._limit_mib}
        log.warning("memory: %s", action.removeprefix("memory."), extra=extra)

    def _share(self) -> float:
        return self._rss_mib() / self._limit_mib if self._limit_mib else 0.0

    def _loop(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            self.look()
