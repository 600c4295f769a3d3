"""An engine that needs no weights: it recites. For tests, demos of the queue and load simulation."""

import os
import random
import signal
import threading
from collections.abc import Generator, Iterator

import psutil

from dure.errors import ContextOverflow
from dure.job import Message, Usage
from dure_worker.engines.base import EngineInfo, FinishReason, GenerateRequest, Token, check_request
from dure_worker.engines.stop import StopFinder

_SENTENCES = (
    "두레는 농사일이 바쁠 때 이웃끼리 힘을 모으던 마을의 모임입니다.",
    "모내기와 김매기처럼 혼자 하기 힘든 일을 함께 했습니다.",
    "일이 끝나면 풍물을 치고 음식을 나누며 쉬었습니다.",
    "작은 힘도 모이면 큰일을 해냅니다.",
)
# Real tokenizers give Korean about 0.7 tokens a character; here one token is up to two characters.
_CHARACTERS_PER_TOKEN = 2
_FAULT_AT = 10
_SWOLLEN = 0.985  # of the limit: a worker starts anew at 0.98, and is killed at 1
_TEMPLATE_TOKENS = 4  # per message, like a chat template's markers


class ScriptedEngine:
    """Quotes the question, then recites sentences about the dure until max_tokens.

    The same request always gives the same answer; with temperature > 0 the sentences' order depends on the seed alone.
    token_s is the pause before each token, in seconds. With has_faults a question that contains <die>, <hang>, <grow>
    or <swell> does to the process what a bad prompt may do to a real engine, at the 10th token: <grow> without end,
    <swell> until its memory is just below memory_mib, and keeps it.
    """

    def __init__(
        self,
        model: str = "scripted",
        num_slots: int = 4,
        context: int = 2048,
        token_s: float = 0.0,
        *,
        has_faults: bool = False,
        memory_mib: int = 0,
    ) -> None:
        self.info = EngineInfo("scripted", model, num_slots, context)
        self._token_s = token_s
        self._has_faults = has_faults
        self._memory_mib = memory_mib
        self._hoard: list[bytearray] = []
        self._slots = threading.BoundedSemaphore(num_slots)
        self._cancelled: dict[str, threading.Event] = {}

    def count_tokens(self, messages: list[Message]) -> int:
        return sum(len(_tokens(message.content)) + _TEMPLATE_TOKENS for message in messages)

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        check_request(request)
        num_prompt = self.count_tokens(request.messages) + len(_tokens(request.prefix))
        if num_prompt >= self.info.context:
            raise ContextOverflow(num_prompt, self.info.context - 1)
        cancelled = self._cancelled.setdefault(request.id, threading.Event())
        try:
            with self._slots:
                yield from self._recite(request, num_prompt, cancelled)
        finally:
            self._cancelled.pop(request.id, None)

    def _recite(self, request: GenerateRequest, num_prompt: int, cancelled: threading.Event) -> Iterator[Token]:
        finder = StopFinder(request.stop)
        limit = min(request.max_tokens, self.info.context - num_prompt)
        reason: FinishReason = "length"
        num_tokens = 0
        for piece in _script(request):
            if cancelled.wait(self._token_s) if self._token_s else cancelled.is_set():
                reason = "cancelled"
                break
            num_tokens += 1
            if self._has_faults and num_tokens == _FAULT_AT:
                _suffer(request.messages[-1].content)
                if "<swell>" in request.messages[-1].content:
                    self._swell()
            yield Token(finder.feed(piece))
            if finder.is_found:
                reason = "stop"
                break
            if num_tokens >= limit:
                break
        rest = finder.finish()
        yield Token(rest, "stop" if finder.is_found else reason, Usage(num_prompt, num_tokens))

    def _swell(self) -> None:
        process = psutil.Process()
        while process.memory_info().rss < self._memory_mib * (1 << 20) * _SWOLLEN:
            self._hoard.append(bytearray(os.urandom(1 << 20)))

    def cancel(self, request_id: str) -> None:
        if event := self._cancelled.get(request_id):
            event.set()

    def close(self) -> None:
        for event in list(self._cancelled.values()):
            event.set()


def _suffer(question: str) -> None:
    if "<die>" in question:
        os.kill(os.getpid(), signal.SIGKILL)
    if "<hang>" in question:
        threading.Event().wait()
    hoard: list[bytearray] = []
    while "<grow>" in question:
        hoard.append(bytearray(os.urandom(1 << 20) * 8))


def _tokens(text: str) -> list[str]:
    return [text[start : start + _CHARACTERS_PER_TOKEN] for start in range(0, len(text), _CHARACTERS_PER_TOKEN)]


def _script(request: GenerateRequest) -> Iterator[str]:
    """The endless answer, from where `prefix` ends."""
    dice = random.Random(request.sampling.seed or 0)
    order = list(_SENTENCES)
    if request.sampling.temperature:
        dice.shuffle(order)
    opening = f"“{request.messages[-1].content[:40]}”라고 물으셨습니다."
    round_text = " ".join(order)
    recited = f"{opening} {round_text}"
    while len(recited) <= len(request.prefix):
        recited += f" {round_text}"
    skip = len(request.prefix) if recited.startswith(request.prefix) else 0
    yield from _tokens(recited[skip:])
    while True:
        yield from _tokens(f" {round_text}")
