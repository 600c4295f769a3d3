"""How fast an engine reads and writes, as its callers see it."""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dure.job import Message, Sampling, Usage
from dure_worker.engines.base import Engine, GenerateRequest

LONG_TEXT = "두레는 농사일이 바쁠 때 이웃끼리 힘을 모으던 마을의 모임입니다. "
TOKENS_OF_LONG = 42  # at most, in the vocabularies that were tried
GREEDY = Sampling(temperature=0, seed=1)
_QUESTIONS = ("두레가 무엇인지", "품앗이가 무엇인지", "가을걷이를 어떻게 하는지", "장독대를 왜 두는지")
_numbers = itertools.count()


@dataclass(frozen=True)
class Timing:
    """Seconds until the first text, tokens a second behind it."""

    first_s: float
    tokens_per_s: float
    usage: Usage = Usage()

    def __str__(self) -> str:
        return f"{self.first_s * 1e3:.0f} ms, {self.tokens_per_s:.1f} tokens/s"


def timed(engine: Engine, request: GenerateRequest, began: float | None = None) -> Timing:
    """began: of time.perf_counter, when the asker began to wait; None: now."""
    began = time.perf_counter() if began is None else began
    first = 0.0
    usage = Usage()
    for token in engine.generate(request):
        if token.text and not first:
            first = time.perf_counter()
        usage = token.usage
    ended = time.perf_counter()
    first = first or ended
    return Timing(first - began, max(0, usage.completion_tokens - 1) / max(ended - first, 1e-9), usage)


def request(text: str, max_tokens: int, sampling: Sampling = GREEDY) -> GenerateRequest:
    return GenerateRequest(f"measure-{next(_numbers)}", [Message("user", text)], max_tokens, sampling=sampling)


def question(number: int, max_tokens: int, sampling: Sampling = GREEDY) -> GenerateRequest:
    text = f"{_QUESTIONS[number % len(_QUESTIONS)]} 한국어로 아주 자세히 설명해 주세요."
    return request(text, max_tokens, sampling)


def reading(engine: Engine, num_repeats: int) -> float:
    """Tokens a second of a prompt of which nothing is remembered: its beginning is always another."""
    found = timed(engine, request(f"{time.time_ns()} {LONG_TEXT * num_repeats} 요약해 주세요.", 1))
    return found.usage.prompt_tokens / found.first_s


def together(engine: Engine, num_slots: int, max_tokens: int, sampling: Sampling = GREEDY) -> float:
    """Tokens a second of answers in all slots at once, whose prompts are there already."""
    in_parallel(num_slots, lambda number: timed(engine, question(number, 1, sampling)))
    counted: list[int] = []

    def ask(number: int) -> None:
        counted.append(timed(engine, question(number, max_tokens, sampling)).usage.completion_tokens)

    began = time.perf_counter()
    in_parallel(num_slots, ask)
    return sum(counted) / (time.perf_counter() - began)


def in_parallel(number: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
