"""One answer on its way: what was asked, what is computed, what is shown."""

import codecs
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from dure.errors import BadRequest, EngineError
from dure.job import Usage
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_worker.engines.ark.drafts import Lookup
from dure_worker.engines.ark.sampler import Row, Sampler
from dure_worker.engines.base import NOTHING_LEFT, FinishReason, GenerateRequest, Token
from dure_worker.engines.stop import StopFinder


@dataclass
class Answer:
    """Filled by the scheduler's thread, read by the caller's through `pieces`.

    ids          prompt and answer, without what was dropped from their middle
    num_kept     of the beginning, never dropped; None: the answer ends where the slot does
    number       in the order of arrival
    num_passed   later ones that had their turn first
    """

    request: GenerateRequest
    ids: list[int]
    sampler: Sampler
    tokenizer: ChatTokenizer
    context: int
    num_kept: int | None = None
    pieces: "queue.SimpleQueue[Token | EngineError]" = field(default_factory=queue.SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    number: int = 0
    num_passed: int = 0

    def __post_init__(self) -> None:
        self._num_prompt = self.num_to_read = len(self.ids)
        self._num_dropped = 0
        self._stop = StopFinder(self.request.stop)
        self.lookup = Lookup()
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.is_ended = False

    @property
    def usage(self) -> Usage:
        return Usage(self._num_prompt, self._num_dropped + len(self.ids) - self._num_prompt)

    def drop(self, count: int) -> None:
        """The first tokens behind those that are kept."""
        del self.ids[self.num_kept : (self.num_kept or 0) + count]
        self.num_to_read -= count
        self._num_dropped += count
        self.lookup = Lookup()  # it knows places by their number

    def rows(self, drafted: Sequence[int]) -> list[Row]:
        """What the next logits are for: the token that comes next, and the one behind each of those drafted."""
        return self.sampler.rows(self.ids, drafted)

    def advance(self, picks: Sequence[int | None], drafted: Sequence[int] = ()) -> int:
        """Take picks as long as they are those drafted, and one more; show them. Returns how many.

        picks (1 + drafted): of `rows`, so each is what would have been picked without drafts.
        """
        for count, number in enumerate(picks, 1):
            if number is None:
                self.fail(BadRequest(NOTHING_LEFT))
                break
            self._take(number)
            if self.is_ended or count > len(drafted) or number != drafted[count - 1]:
                break
        self.sampler.use(count)
        return count

    def _take(self, number: int) -> None:
        self.ids.append(number)
        if number in self.tokenizer.ends:
            self.end("stop")
            return
        self._show(self._stop.feed(self._characters.decode(self.tokenizer.piece(number))))
        if self._stop.is_found:
            self.end("stop")
        elif self.usage.completion_tokens >= self.request.max_tokens or self._is_full:
            self.end("length")

    @property
    def _is_full(self) -> bool:
        return self.num_kept is None and len(self.ids) >= self.context

    def progress(self) -> None:
        self.pieces.put(Token(""))

    def end(self, reason: FinishReason) -> None:
        # A character that the last token only began is not shown.
        self._show(self._stop.finish())
        self.is_ended = True
        self.pieces.put(Token("", reason, self.usage))

    def fail(self, error: EngineError) -> None:
        self.is_ended = True
        self.pieces.put(error)

    def _show(self, text: str) -> None:
        self.pieces.put(Token(text))
