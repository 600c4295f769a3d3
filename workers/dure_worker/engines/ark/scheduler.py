"""Continuous batching: one thread computes all slots' next tokens in one pass, prompts in chunks between them."""

import logging
import threading
import time
from collections import deque

import torch

from dure.errors import EngineError
from dure_worker.engines.ark.answer import Answer
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.slots import Slot, Slots
from dure_worker.engines.priority import lower_priority

log = logging.getLogger(__name__)

# Others wait while a chunk of a prompt is computed, and so does a cancellation.
_CHUNK_S = 0.15
_LEAST_CHUNK, _MOST_CHUNK = 16, 256
# With more streams a pass is no longer bound by memory, and guesses cost what they gain.
_MOST_WITH_DRAFTS = 2
# The part of its context, but for the beginning, that an answer forgets at once when it outgrows its slot.
_FORGOTTEN = 4


class Scheduler:
    def __init__(self, decoder: Decoder, cache: KvCache, slots: Slots) -> None:
        self._decoder, self._cache, self._slots = decoder, cache, slots
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._chunk = _LEAST_CHUNK
        self._thread = threading.Thread(target=self._run, name="ark", daemon=True)
        self._thread.start()

    def submit(self, answer: Answer) -> None:
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine is closed")
            self._waiting.append(answer)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        lower_priority()
        while self._admit():
            active = self._slots.active
            try:
                self._step(active)
            except Exception as error:
                log.exception("a step failed")
                for slot in active:
                    slot.ids.clear()  # half of it may be written
                    self._release(slot, EngineError(f"the ark engine failed: {error}"))

    def _admit(self) -> bool:
        """Give waiting answers a slot; wait where there is nothing to do. False: closed."""
        with self._changed:
            while not self._is_closed and not self._waiting and not self._slots.active:
                self._changed.wait()
            if self._is_closed:
                for answer in self._waiting:
                    answer.end("cancelled")
                for slot in self._slots.active:
                    self._cancel(slot)
                return False
            for answer in [answer for answer in self._waiting if answer.cancelled.is_set()]:
                self._waiting.remove(answer)
                answer.end("cancelled")
            while self._waiting and self._slots.has_free:
                self._slots.seat(self._waiting.popleft())
        return True

    def _step(self, active: list[Slot]) -> None:
        for slot in active:
            if slot.answer and slot.answer.cancelled.is_set():
                self._cancel(slot)
        active = [slot for slot in active if slot.answer is not None]
        for slot in active:
            self._make_room(slot)
        segments = self._segments(active)
        if not segments:
            return
        began_at = time.monotonic()
        logits = self._decoder.forward(segments, self._cache)
        self._learn(segments, time.monotonic() - began_at)
        row = 0
        for segment in segments:
            self._advance(self._slots.all[segment.slot], segment, logits[row : row + segment.num_wanted])
            row += segment.num_wanted

    def _make_room(self, slot: Slot) -> None:
        """An answer that may outgrow its slot forgets a part of what lies behind its beginning."""
        answer = slot.answer
        if answer is None or answer.num_kept is None or len(answer.ids) < answer.context:
            return
        count = max(1, (answer.context - answer.num_kept) // _FORGOTTEN)
        self._decoder.forget(self._cache, slot.number, answer.num_kept, count, len(slot.ids))
        slot.drop(answer.num_kept, count)
        answer.drop(count)

    def _segments(self, active: list[Slot]) -> list[Segment]:
        """Every running answer's next token, and a chunk of the prompt that came first."""
        answers = [(slot, slot.answer) for slot in active if slot.answer is not None]
        writing = [(slot, answer) for slot, answer in answers if len(slot.ids) >= answer.num_to_read]
        reading = [(slot, answer) for slot, answer in answers if len(slot.ids) < answer.num_to_read]
        has_drafts = len(writing) <= _MOST_WITH_DRAFTS and not reading
        found = sorted((_next(slot, answer, has_drafts) for slot, answer in writing), key=lambda each: len(each.ids))
        if reading:
            slot, answer = min(reading, key=lambda pair: pair[0].used_at)
            start = len(slot.ids)
            found.append(Segment(slot.number, start, answer.ids[start : start + self._chunk]))
        return found

    def _learn(self, segments: list[Segment], took_s: float) -> None:
        """The next chunk is as long as fits its time."""
        num_rows = sum(len(segment.ids) for segment in segments)
        if num_rows >= _LEAST_CHUNK:
            fitting = int(num_rows * _CHUNK_S / took_s) // _LEAST_CHUNK * _LEAST_CHUNK
            self._chunk = max(_LEAST_CHUNK, min(fitting, 2 * self._chunk, _MOST_CHUNK))

    def _advance(self, slot: Slot, segment: Segment, logits: torch.Tensor) -> None:
        answer = slot.answer
        assert answer is not None  # noqa: S101 - active slots have one
        if not bool(logits.isfinite().all()):
            slot.ids.clear()
            self._release(slot, EngineError("the model computes no numbers: check it with `dure model verify`"))
            return
        num_kept = len(segment.ids)
        if segment.end < answer.num_to_read:
            answer.progress()
        else:
            num_kept += (
                answer.advance(logits, segment.ids[len(segment.ids) - segment.num_wanted + 1 :]) - segment.num_wanted
            )
        slot.ids.extend(segment.ids[:num_kept])
        if answer.is_ended:
            self._release(slot)

    def _cancel(self, slot: Slot) -> None:
        if slot.answer is not None:
            slot.answer.end("cancelled")
        self._release(slot)

    def _release(self, slot: Slot, error: EngineError | None = None) -> None:
        if slot.answer is not None and error is not None:
            slot.answer.fail(error)
        self._slots.free(slot)


def _next(slot: Slot, answer: Answer, has_drafts: bool) -> Segment:
    """The last token, and guesses what follows it: not beyond what is asked for, nor beyond the slot."""
    room = min(answer.request.max_tokens - answer.usage.completion_tokens - 1, answer.context - len(answer.ids) - 1)
    drafted = answer.drafts.after(answer.ids)[: max(room, 0)] if has_drafts else []
    start = len(slot.ids)
    return Segment(slot.number, start, [*answer.ids[start:], *drafted], 1 + len(drafted))
