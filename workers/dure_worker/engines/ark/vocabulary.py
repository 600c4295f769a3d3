"""What sampling must know of a vocabulary, made once where a request first needs it."""

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dure_worker.engines.ark import dry
from dure_worker.engines.script_guard import ScriptGuard

_NUM_GUARDS = 8  # some MB each at most


class Vocabulary:
    """pieces: what each token writes; ends: those that end a turn."""

    def __init__(self, pieces: Sequence[bytes], ends: Iterable[int] = ()) -> None:
        self.pieces = pieces
        self._ends = frozenset(ends)
        self._guard = lru_cache(maxsize=_NUM_GUARDS)(self._make_guard)

    @cached_property
    def breakers(self) -> NDArray[np.bool_]:
        return dry.breakers(self.pieces)

    def guard(self, scripts: Iterable[str]) -> ScriptGuard:
        """A second or two for a large vocabulary, the first time."""
        return self._guard(tuple(sorted(set(scripts))))

    def _make_guard(self, scripts: tuple[str, ...]) -> ScriptGuard:
        return ScriptGuard(self.pieces, scripts, self._ends)
