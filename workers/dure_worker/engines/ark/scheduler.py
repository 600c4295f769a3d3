"""Continuous batching: one thread computes all slots' next tokens in one pass, prompts in chunks between them."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, islice

import torch

from dure.errors import EngineError
from dure_worker.engines.ark import order
from dure_worker.engines.ark.answer import Answer
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.sampler import Row, pick
from dure_worker.engines.priority import lower_priority

log = logging.getLogger(__name__)

# Others wait while a chunk of a prompt is computed, and so does a cancellation.
_CHUNK_S = 0.15
_LEAST_CHUNK, _MOST_CHUNK = 16, 256
# With more streams a pass is no longer bound by memory, and guesses cost what they gain.
_MOST_WITH_DRAFTS = 2


@dataclass
class _Slot:
    """ids: what its keys and values stand for."""

    number: int
    ids: list[int] = field(default_factory=list)
    answer: Answer | None = None
    used_at: float = 0.0


class Scheduler:
    def __init__(self, decoder: Decoder, num_slots: int, context: int) -> None:
        self._decoder = decoder
        self._cache = KvCache(decoder.config, num_slots, context)
        self._slots = [_Slot(number) for number in range(num_slots)]
        self._waiting: list[Answer] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._chunk = _LEAST_CHUNK
        self._thread = threading.Thread(target=self._run, name="ark", daemon=True)
        self._thread.start()

    def submit(self, answer: Answer) -> None:
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine is closed")
            answer.number = next(self._numbers)
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
            active = [slot for slot in self._slots if slot.answer is not None]
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
            while not self._is_closed and not self._waiting and not any(slot.answer for slot in self._slots):
                self._changed.wait()
            if self._is_closed:
                answers = [*self._waiting, *(slot.answer for slot in self._slots if slot.answer)]
                for answer in answers:
                    answer.end("cancelled")
                return False
            for answer in [answer for answer in self._waiting if answer.cancelled.is_set()]:
                self._waiting.remove(answer)
                answer.end("cancelled")
            while self._waiting and any(slot.answer is None for slot in self._slots):
                answer = order.first(self._waiting)
                self._waiting.remove(answer)
                order.note(answer, self._waiting)
                self._seat(answer)
        return True

    def _seat(self, answer: Answer) -> None:
        """Into the slot that already holds the conversation's beginning, else into the one unused for longest, with
        the beginning copied that another slot shares with it.
        """
        free = [slot for slot in self._slots if slot.answer is None]
        source = max(self._slots, key=lambda slot: _common(slot.ids, answer.ids))
        common = _common(source.ids, answer.ids)
        # Going on from most of what it holds: the same conversation.
        if source in free and 2 * common >= len(source.ids):
            slot = source
        else:
            slot = min(free, key=lambda slot: slot.used_at)
            if slot is not source:
                self._cache.copy(source.number, slot.number, common)
        # The last token is computed in any case: what follows it is what is asked for.
        slot.ids = answer.ids[: min(common, len(answer.ids) - 1)]
        slot.answer = answer

    def _step(self, active: list[_Slot]) -> None:
        for slot in active:
            if slot.answer and slot.answer.cancelled.is_set():
                slot.answer.end("cancelled")
                self._release(slot)
        active = [slot for slot in active if slot.answer is not None]
        segments = self._segments(active)
        if not segments:
            return
        began_at = time.monotonic()
        logits = self._decoder.forward(segments, self._cache)
        self._learn(segments, time.monotonic() - began_at)
        self._write(segments, logits)

    def _segments(self, active: list[_Slot]) -> list[Segment]:
        """Every running answer's next token, and a chunk of the prompt whose turn it is."""
        answers = [(slot, slot.answer) for slot in active if slot.answer is not None]
        writing = [(slot, answer) for slot, answer in answers if len(slot.ids) >= answer.num_prompt]
        reading = [(slot, answer) for slot, answer in answers if len(slot.ids) < answer.num_prompt]
        has_drafts = len(writing) <= _MOST_WITH_DRAFTS and not reading
        found = sorted((_next(slot, answer, has_drafts) for slot, answer in writing), key=lambda each: len(each.ids))
        if reading:
            answer = order.first(answer for _, answer in reading)
            slot = next(slot for slot, other in reading if other is answer)
            start = len(slot.ids)
            found.append(Segment(slot.number, start, answer.ids[start : start + self._chunk]))
        return found

    def _learn(self, segments: list[Segment], took_s: float) -> None:
        """The next chunk is as long as fits its time."""
        num_rows = sum(len(segment.ids) for segment in segments)
        if num_rows >= _LEAST_CHUNK:
            fitting = int(num_rows * _CHUNK_S / took_s) // _LEAST_CHUNK * _LEAST_CHUNK
            self._chunk = max(_LEAST_CHUNK, min(fitting, 2 * self._chunk, _MOST_CHUNK))

    def _write(self, segments: list[Segment], logits: torch.Tensor) -> None:
        """Pick for all whose prompt is read, in one go. Logits (wanted, vocab)."""
        rows: list[Row] = []
        places: list[int] = []
        shares: list[tuple[_Slot, Segment, int]] = []
        place = 0
        for segment in segments:
            wanted, slot = range(place, place + segment.num_wanted), self._slots[segment.slot]
            place = wanted.stop
            found = self._rows(slot, segment, logits[wanted.start : wanted.stop])
            rows += found
            places += wanted[: len(found)]
            shares.append((slot, segment, len(found)))
        picks = iter(pick(rows, logits if len(rows) == len(logits) else logits[places]) if rows else [])
        for slot, segment, num_picks in shares:
            if slot.answer is not None:
                self._advance(slot, slot.answer, segment, list(islice(picks, num_picks)))

    def _rows(self, slot: _Slot, segment: Segment, logits: torch.Tensor) -> list[Row]:
        """What is to be picked for a segment: nothing before its prompt's end."""
        assert slot.answer is not None  # noqa: S101 - active slots have one
        if not bool(logits.isfinite().all()):
            slot.ids.clear()
            self._release(slot, EngineError("the model computes no numbers: check it with `dure model verify`"))
            return []
        return slot.answer.rows(_drafted(segment)) if segment.end >= slot.answer.num_prompt else []

    def _advance(self, slot: _Slot, answer: Answer, segment: Segment, picks: list[int | None]) -> None:
        num_kept = len(segment.ids)
        if picks:
            if len(answer.ids) == answer.num_prompt:
                order.note(answer, self._reading())
            num_kept += answer.advance(picks, _drafted(segment)) - segment.num_wanted
        else:
            answer.progress()
        slot.ids.extend(segment.ids[:num_kept])
        if answer.is_ended:
            self._release(slot)

    def _reading(self) -> list[Answer]:
        answers = [(slot, slot.answer) for slot in self._slots if slot.answer is not None]
        return [answer for slot, answer in answers if len(slot.ids) < answer.num_prompt]

    def _release(self, slot: _Slot, error: EngineError | None = None) -> None:
        if slot.answer is not None and error is not None:
            slot.answer.fail(error)
        slot.answer = None
        slot.used_at = time.monotonic()


def _next(slot: _Slot, answer: Answer, has_drafts: bool) -> Segment:
    """The last token, and guesses what follows it: not beyond what is asked for, nor beyond the slot."""
    room = min(answer.request.max_tokens - answer.usage.completion_tokens - 1, answer.context - len(answer.ids) - 1)
    drafted = answer.drafts.after(answer.ids)[: max(room, 0)] if has_drafts else []
    start = len(slot.ids)
    return Segment(slot.number, start, [*answer.ids[start:], *drafted], 1 + len(drafted))


def _drafted(segment: Segment) -> Sequence[int]:
    return segment.ids[len(segment.ids) - segment.num_wanted + 1 :]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    return next(
        (n for n, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), min(len(left), len(right))
    )
