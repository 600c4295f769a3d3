"""Who sits in which slot, and what of a prompt is there already."""

import time
from dataclasses import dataclass, field

from dure_worker.engines.ark.answer import Answer
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.kv_store import KvStore, common

# Reading a file is worth it for so many tokens more than a slot holds.
_LEAST_GAIN = 64


@dataclass
class Slot:
    """ids: what its keys and values stand for."""

    number: int
    ids: list[int] = field(default_factory=list)
    answer: Answer | None = None
    used_at: float = 0.0
    # Behind so many, keys and values still know of tokens that were dropped since: others cannot go on from them.
    num_exact: int | None = None

    @property
    def exact_ids(self) -> list[int]:
        return self.ids[: self.num_exact]

    def drop(self, first: int, count: int) -> None:
        del self.ids[first : first + count]
        self.num_exact = min(first, first if self.num_exact is None else self.num_exact)


class Slots:
    """store: where conversations go that lose their slot; None: nowhere."""

    def __init__(self, cache: KvCache, num_slots: int, store: KvStore | None = None) -> None:
        self._cache, self._store = cache, store
        self.all = [Slot(number) for number in range(num_slots)]

    @property
    def has_free(self) -> bool:
        return any(slot.answer is None for slot in self.all)

    @property
    def running(self) -> list[tuple[Slot, Answer]]:
        return [(slot, slot.answer) for slot in self.all if slot.answer is not None]

    @property
    def reading(self) -> list[tuple[Slot, Answer]]:
        """Those whose prompt is not there yet."""
        return [(slot, answer) for slot, answer in self.running if len(slot.ids) < answer.num_to_read]

    def seat(self, answer: Answer) -> Slot:
        """Into the slot that already holds the conversation's beginning, else into the one unused for longest, with
        the beginning copied that another slot shares with it, or read from disk.
        """
        free = [slot for slot in self.all if slot.answer is None]
        source = max(self.all, key=lambda slot: common(slot.exact_ids, answer.ids))
        num_common = common(source.exact_ids, answer.ids)
        # Going on from most of what it holds: the same conversation.
        if source in free and 2 * num_common >= len(source.ids):
            slot = source
        else:
            slot = min(free, key=lambda slot: slot.used_at)
            self._keep(slot)
            if slot is not source:
                self._cache.copy(source.number, slot.number, num_common)
        num_common = max(num_common, self._restored(slot, answer, num_common))
        # The last token is computed in any case: what follows it is what is asked for.
        slot.ids, slot.num_exact = answer.ids[: min(num_common, len(answer.ids) - 1)], None
        slot.answer = answer
        return slot

    def free(self, slot: Slot) -> None:
        slot.ids, slot.num_exact = slot.exact_ids, None
        slot.answer = None
        slot.used_at = time.monotonic()

    def keep_all(self) -> None:
        """What is idle, before the end."""
        for slot in self.all:
            self._keep(slot)

    def _keep(self, slot: Slot) -> None:
        if self._store is not None and slot.answer is None and self._store.wants(slot.ids):
            self._store.save(slot.ids, self._cache.saved(slot.number, len(slot.ids)))

    def _restored(self, slot: Slot, answer: Answer, num_common: int) -> int:
        """How many tokens came from disk."""
        if self._store is None:
            return 0
        num_stored, path = self._store.longest(answer.ids)
        if path is None or num_stored < num_common + _LEAST_GAIN:
            return 0
        parts = self._store.load(path, num_stored)
        if parts is None:
            return 0
        self._cache.restore(slot.number, parts)
        return num_stored
