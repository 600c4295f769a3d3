"""Answers with their times, and what fills a worker's memory."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dure.job import Usage
from dure_worker.engines import Engine, GenerateRequest

LONG_TEXT = "두레는 농사일이 바쁠 때 이웃끼리 힘을 모으던 마을의 모임입니다. "
NUM_LONG = 45  # repeats of LONG_TEXT that nearly fill a slot of 2,048 tokens


@dataclass
class Timing:
    first_s: float
    tokens_per_s: float
    usage: Usage = Usage()

    def __str__(self) -> str:
        return f"{self.first_s * 1e3:.0f} ms, {self.tokens_per_s:.1f} tokens/s"


def answer(engine: Engine, request: GenerateRequest, began: float) -> Timing:
    """began: of time.perf_counter, when the asker began to wait."""
    first = 0.0
    for token in engine.generate(request):
        if token.text and not first:
            first = time.perf_counter()
        last = token
    return Timing(first - began, (last.usage.completion_tokens - 1) / (time.perf_counter() - first), last.usage)


def in_parallel(number: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
