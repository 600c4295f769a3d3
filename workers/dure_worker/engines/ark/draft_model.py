"""A smaller model of the same vocabulary that guesses for a larger one. It keeps a cache of its own for each slot."""

import time
from collections.abc import Sequence

from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.drafts import MOST, Worth
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.kv_store import common
from dure_worker.engines.ark.step_times import StepTimes

# Of a prompt that it has to read first, in one step.
_CHUNK = 64
# Without guesses once in so many steps, so that it is known how long such a step takes.
_PLAIN = 32


class DraftModel:
    def __init__(self, decoder: Decoder, num_slots: int, context: int) -> None:
        self._decoder = decoder
        self._cache = KvCache(decoder.config, num_slots, context)
        self._ids: list[list[int]] = [[] for _ in range(num_slots)]
        self._seconds = 0.0
        self._num_steps = 0
        self.worth = Worth()

    def after(self, slot: int, ids: Sequence[int], num_rows: int, times: StepTimes, plain_s: float) -> list[int]:
        """Perhaps none. num_rows, plain_s: of the pass without guesses."""
        self._num_steps += 1
        is_plain = self._num_steps % _PLAIN == 0
        if is_plain or not self.worth.pays(num_rows, times, self._seconds / plain_s if plain_s else 0.0):
            return []
        began_at = time.monotonic()
        if not self._catch_up(slot, ids):
            return []
        found: list[int] = []
        for _ in range(MOST):
            found.append(self._next(slot, [*ids, *found]))
        took_s = time.monotonic() - began_at
        self._seconds += (took_s - self._seconds) * (0.1 if self._seconds else 1)
        return found

    def _catch_up(self, slot: int, ids: Sequence[int]) -> bool:
        """Whether it has read all but the last few tokens, so that the next pass can guess."""
        kept = self._ids[slot]
        del kept[common(kept, ids[:-1]) :]
        missing = list(ids[len(kept) : -1])
        if len(missing) <= MOST + 1:
            return True
        piece = missing[:_CHUNK]
        self._decoder.forward([Segment(slot, len(kept), piece)], self._cache)
        kept.extend(piece)
        return len(piece) == len(missing)

    def _next(self, slot: int, ids: Sequence[int]) -> int:
        kept = self._ids[slot]
        rest = list(ids[len(kept) :])
        logits = self._decoder.forward([Segment(slot, len(kept), rest)], self._cache)
        kept.extend(rest)
        return int(logits[0].argmax())
