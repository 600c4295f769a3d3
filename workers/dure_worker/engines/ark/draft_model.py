"""A smaller model of the same vocabulary that guesses for a larger one. It keeps a cache of its own for each slot.

Source: speculative decoding (Leviathan et al., 2023); here a guess is right if it is what would have been picked.
"""

from collections.abc import Sequence

from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.drafts import MOST
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.kv_store import common

# Of a prompt that it has to read first, in one step: others wait for it.
_CHUNK = 16


class DraftModel:
    def __init__(self, decoder: Decoder, num_slots: int, context: int) -> None:
        self._decoder = decoder
        self._cache = KvCache(decoder.config, num_slots, context)
        self._ids: list[list[int]] = [[] for _ in range(num_slots)]

    def after(self, slot: int, ids: Sequence[int]) -> list[int]:
        """None while it still reads what it has not seen of the text."""
        if not self._catch_up(slot, ids):
            return []
        found: list[int] = []
        while len(found) < min(MOST, self._cache.context - len(ids)):
            found.append(self._next(slot, [*ids, *found]))
        return found

    def _catch_up(self, slot: int, ids: Sequence[int]) -> bool:
        """Whether no more is left than a pass takes with ease."""
        kept = self._ids[slot]
        # The last token is computed in any case.
        del kept[common(kept, ids[:-1]) :]
        missing = ids[len(kept) : -1]
        if len(missing) <= MOST:
            return True
        piece = list(missing[:_CHUNK])
        self._decoder.forward([Segment(slot, len(kept), piece)], self._cache)
        kept.extend(piece)
        return len(piece) == len(missing)

    def _next(self, slot: int, ids: Sequence[int]) -> int:
        kept = self._ids[slot]
        rest = list(ids[len(kept) :])
        logits = self._decoder.forward([Segment(slot, len(kept), rest)], self._cache)
        kept.extend(rest)
        return int(logits[0].argmax())
