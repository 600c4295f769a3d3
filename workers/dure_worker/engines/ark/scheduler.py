"""Continuous batching: one thread computes all slots' next tokens in one pass, prompts in chunks between them."""

import logging
import threading
import time
from collections.abc import Sequence
from itertools import count, islice

import torch

from dure.errors import EngineError
from dure_worker.engines.ark import order
from dure_worker.engines.ark.answer import Answer
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.guesses import Guesses
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.sampler import Row, pick
from dure_worker.engines.ark.slots import Slot, Slots
from dure_worker.engines.priority import lower_priority

log = logging.getLogger(__name__)

# Others' streams stand still while a chunk of a prompt is computed. Where none is written, only a cancellation and a
# newcomer wait for it, and longer chunks cost less a token.
_CHUNK_S, _CHUNK_ALONE_S = 0.15, 0.75
_LEAST_CHUNK, _MOST_CHUNK = 16, 256
# With more streams a pass is no longer bound by memory, and guesses cost what they gain.
_MOST_WITH_DRAFTS = 2
# The part of its context, but for the beginning, that an answer forgets at once when it outgrows its slot.
_FORGOTTEN = 4


class Scheduler:
    def __init__(self, decoder: Decoder, cache: KvCache, slots: Slots, guesses: Guesses) -> None:
        self._decoder, self._cache, self._slots, self._guesses = decoder, cache, slots, guesses
        self._waiting: list[Answer] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._is_closed = False
        # By whether nobody writes meanwhile.
        self._chunks = {False: _LEAST_CHUNK, True: min(4 * _LEAST_CHUNK, _MOST_CHUNK)}
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
            for slot, answer in self._slots.running:
                if answer.cancelled.is_set():
                    self._cancel(slot, answer)
            try:
                self._step()
            except Exception as error:
                log.exception("a step failed", extra={"action": "engine.step"})
                for slot, answer in self._slots.running:
                    self._fail(slot, answer, error)

    def _admit(self) -> bool:
        """Give waiting answers a slot; wait where there is nothing to do. False: closed."""
        with self._changed:
            while not self._is_closed and not self._waiting and not self._slots.running:
                self._changed.wait()
            if self._is_closed:
                for answer in self._waiting:
                    answer.end("cancelled")
                for slot, answer in self._slots.running:
                    self._cancel(slot, answer)
                return False
            for answer in [answer for answer in self._waiting if answer.cancelled.is_set()]:
                self._waiting.remove(answer)
                answer.end("cancelled")
            while self._waiting and self._slots.has_free:
                answer = order.first(self._waiting)
                self._waiting.remove(answer)
                order.note(answer, self._waiting)
                self._guesses.begin(self._slots.seat(answer))
        return True

    def _step(self) -> None:
        for slot, answer in self._slots.running:
            self._make_room(slot, answer)
        segments = self._segments()
        if not segments:
            return
        began_at = time.monotonic()
        try:
            logits = self._decoder.forward(segments, self._cache)
        except Exception:
            if len(segments) == 1:
                raise
            self._step_one_by_one(segments)
            return
        self._learn(segments, time.monotonic() - began_at)
        self._write(segments, logits)

    def _step_one_by_one(self, segments: list[Segment]) -> None:
        """Something in a pass failed: whoever fails alone too ends with the reason, the others go on."""
        log.warning("a pass failed and is computed slot by slot", exc_info=True, extra={"action": "engine.step"})
        for segment in segments:
            try:
                self._write([segment], self._decoder.forward([segment], self._cache))
            except Exception as error:
                log.exception("a slot's step failed", extra={"action": "engine.step"})
                slot = self._slots.all[segment.slot]
                if slot.answer is not None:
                    self._fail(slot, slot.answer, error)

    def _make_room(self, slot: Slot, answer: Answer) -> None:
        """An answer that may outgrow its slot forgets a part of what lies behind its beginning."""
        if answer.num_kept is None or len(answer.ids) < answer.context:
            return
        count = max(1, (answer.context - answer.num_kept) // _FORGOTTEN)
        self._decoder.forget(self._cache, slot.number, answer.num_kept, count, len(slot.ids))
        slot.drop(answer.num_kept, count)
        answer.drop(count)

    def _segments(self) -> list[Segment]:
        """Every running answer's next token, and a chunk of the prompt whose turn it is."""
        reading = self._slots.reading
        writing = [(slot, answer) for slot, answer in self._slots.running if len(slot.ids) >= answer.num_to_read]
        has_drafts = len(writing) <= _MOST_WITH_DRAFTS and not reading
        nexts = [self._next(slot, answer, len(writing), has_drafts=has_drafts) for slot, answer in writing]
        found = sorted(nexts, key=lambda each: len(each.ids))
        if reading:
            answer = order.first(answer for _, answer in reading)
            slot = next(slot for slot, other in reading if other is answer)
            start = len(slot.ids)
            found.append(Segment(slot.number, start, answer.ids[start : start + self._chunks[not writing]]))
        return found

    def _next(self, slot: Slot, answer: Answer, num_rows: int, *, has_drafts: bool) -> Segment:
        """The last token, and guesses what follows it: not beyond what is asked for, nor beyond the slot."""
        room = min(answer.request.max_tokens - answer.usage.completion_tokens - 1, answer.context - len(answer.ids) - 1)
        drafted = self._guesses.after(slot, num_rows)[:room] if has_drafts and room > 0 else []
        start = len(slot.ids)
        return Segment(slot.number, start, [*answer.ids[start:], *drafted], 1 + len(drafted))

    def _learn(self, segments: list[Segment], took_s: float) -> None:
        """The next chunk is as long as fits its time. A prompt's short rest tells nothing: few rows cost more each."""
        num_rows = sum(len(segment.ids) for segment in segments)
        self._guesses.times.learn(num_rows, took_s)
        is_alone = len(segments) == 1
        if num_rows >= self._chunks[is_alone]:
            limit_s = _CHUNK_ALONE_S if is_alone else _CHUNK_S
            fitting = int(num_rows * limit_s / took_s) // _LEAST_CHUNK * _LEAST_CHUNK
            self._chunks[is_alone] = max(_LEAST_CHUNK, min(fitting, 2 * self._chunks[is_alone], _MOST_CHUNK))

    def _write(self, segments: list[Segment], logits: torch.Tensor) -> None:
        """Pick for all whose prompt is read, in one go. Logits (wanted, vocab)."""
        rows: list[Row] = []
        places: list[int] = []
        shares: list[tuple[Slot, Segment, int]] = []
        place = 0
        for segment in segments:
            wanted, slot = range(place, place + segment.num_wanted), self._slots.all[segment.slot]
            place = wanted.stop
            found = self._rows(slot, segment, logits[wanted.start : wanted.stop])
            rows += found
            places += wanted[: len(found)]
            shares.append((slot, segment, len(found)))
        picks = iter(pick(rows, logits if len(rows) == len(logits) else logits[places]) if rows else [])
        for slot, segment, num_picks in shares:
            if slot.answer is not None:
                self._advance(slot, slot.answer, segment, list(islice(picks, num_picks)))

    def _rows(self, slot: Slot, segment: Segment, logits: torch.Tensor) -> list[Row]:
        """What is to be picked for a segment: nothing before its prompt's end."""
        assert slot.answer is not None  # noqa: S101 - active slots have one
        if not bool(logits.isfinite().all()):
            slot.ids.clear()
            slot.answer.fail(EngineError("the model computes no numbers: check it with `dure model verify`"))
            self._slots.free(slot)
            return []
        return slot.answer.rows(_drafted(segment)) if segment.end >= slot.answer.num_to_read else []

    def _advance(self, slot: Slot, answer: Answer, segment: Segment, picks: list[int | None]) -> None:
        num_kept = len(segment.ids)
        if picks:
            if len(answer.ids) == answer.num_to_read:
                order.note(answer, [other for _, other in self._slots.reading])
            num_taken = answer.advance(picks, _drafted(segment))
            num_kept += num_taken - segment.num_wanted
            if segment.num_wanted > 1:
                self._guesses.learn(slot, num_taken - 1)
        else:
            answer.progress()
        slot.ids.extend(segment.ids[:num_kept])
        if answer.is_ended:
            self._slots.free(slot)

    def _cancel(self, slot: Slot, answer: Answer) -> None:
        answer.end("cancelled")
        self._slots.free(slot)

    def _fail(self, slot: Slot, answer: Answer, error: Exception) -> None:
        slot.ids.clear()  # half of it may be written
        answer.fail(EngineError(f"the ark engine failed: {error}"))
        self._slots.free(slot)


def _drafted(segment: Segment) -> Sequence[int]:
    return segment.ids[len(segment.ids) - segment.num_wanted + 1 :]
