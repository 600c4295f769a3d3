"""One answer on its way: what was asked, what is computed, what is shown."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from dure.errors import BadRequest, EngineError
from dure.job import Usage
from dure_worker.engines.ark.sampler import Sampler, pick
from dure_worker.engines.base import NOTHING_LEFT, FinishReason, GenerateRequest, Token
from dure_worker.engines.hf.chat_text import ChatText, TextStream
from dure_worker.engines.stop import StopFinder


@dataclass
class Answer:
    """Filled by a slot's thread, read by the caller's through `tokens`. ids: prompt and answer."""

    request: GenerateRequest
    ids: list[int]
    text: ChatText
    context: int
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.num_prompt = len(self.ids)
        self.is_ended = False
        self._sampler = Sampler(self.request.sampling, self.text.vocabulary)
        self._stop = StopFinder([*self.request.stop, *self.text.stops])
        self._stream = TextStream(self.text, self.ids)
        self._pieces: queue.SimpleQueue[Token | EngineError] = queue.SimpleQueue()

    @property
    def usage(self) -> Usage:
        return Usage(self.num_prompt, len(self.ids) - self.num_prompt)

    @property
    def most_tokens(self) -> int:
        return min(self.request.max_tokens, self.context - self.num_prompt)

    def tokens(self) -> Iterator[Token]:
        is_ended = False
        while not is_ended:
            piece = self._pieces.get()
            if isinstance(piece, EngineError):
                raise piece
            if self.cancelled.is_set() and not piece.finish_reason:
                piece = Token("", "cancelled", self.usage)  # whatever is computed still
            is_ended = bool(piece.finish_reason)
            yield piece

    def cancel(self) -> None:
        self.cancelled.set()
        self.progress()

    def pick(self, logits: torch.Tensor) -> int:
        """Logits (vocab); forbidden tokens have minus infinity.

        Raises EngineError where they are no numbers, BadRequest where bias and guard leave none.
        """
        if not bool(logits.max().isfinite()):
            raise EngineError("the model computes no numbers: check it with `dure model verify`")
        [number] = pick(self._sampler.rows(self.ids, ()), logits[None])
        self._sampler.use(1)
        if number is None:
            raise BadRequest(NOTHING_LEFT)
        return number

    def take(self, number: int) -> None:
        self.ids.append(number)
        if number in self.text.ends:
            self.end("stop")
            return
        self._show(self._stop.feed(self._stream.feed(number)))
        if self._stop.is_found:
            self.end("stop")
        elif self.usage.completion_tokens >= self.most_tokens:
            self.end("length")
        elif self.cancelled.is_set():
            self.end("cancelled")

    def progress(self) -> None:
        self._pieces.put(Token(""))

    def end(self, reason: FinishReason) -> None:
        # A character that the last token only began is not shown.
        self._show(self._stop.finish())
        self.is_ended = True
        self._pieces.put(Token("", reason, self.usage))

    def fail(self, error: EngineError) -> None:
        self.is_ended = True
        self._pieces.put(error)

    def _show(self, text: str) -> None:
        self._pieces.put(Token(text))
