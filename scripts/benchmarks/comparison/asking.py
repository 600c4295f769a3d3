"""Asking an engine: requests, prompts of a wanted length, and answers that are cut off when their time is over."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from benchmarks.comparison import korean
from benchmarks.comparison.trace import Trace
from dure.job import Message, Sampling
from dure_worker.engines import Engine, GenerateRequest

GREEDY = Sampling(temperature=0, seed=1)
_ids = itertools.count()


def request(messages: list[Message], max_tokens: int, sampling: Sampling = GREEDY) -> GenerateRequest:
    return GenerateRequest(f"bench-{next(_ids)}", list(messages), max_tokens, sampling=sampling)


def opening(question: str) -> list[Message]:
    return [Message("system", korean.SYSTEM), Message("user", question)]


def unseen(engine: Engine, number: int, num_tokens: int) -> list[Message]:
    """A conversation of about so many tokens, another for every number from its first words on."""
    num_characters = num_tokens
    for _ in range(3):  # a token is nearly a syllable, and whole sentences are put in
        messages = _conversation(number, num_characters)
        num_characters = round(num_characters * num_tokens / engine.count_tokens(messages))
    return messages


def _conversation(number: int, num_characters: int) -> list[Message]:
    dice = korean.dice(number)
    half = num_characters // 2
    return [
        Message("system", f"{korean.moment(number)} {korean.SYSTEM}"),
        Message("user", f"{korean.passage(dice, half)}\n\n이 글을 이어서 써 주세요."),
        Message("assistant", korean.passage(dice, half)),
        Message("user", "지금까지 나온 글에서 중요한 내용을 자세히 정리해 주세요."),
    ]


class Running:
    """Answers that come now, of which all can be cut off at once; none begins afterwards."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def follow(self, asked: GenerateRequest, trace: Trace) -> None:
        """Fill the trace while the answer comes."""
        with self._lock:
            self._ids.add(asked.id)
        with closing(self._engine.generate(asked)) as tokens:
            for token in tokens:
                if token.text:
                    trace.pieces.append(time.perf_counter())
                    trace.text += token.text
                if token.finish_reason:
                    trace.usage = token.usage
                    trace.is_whole = token.finish_reason in {"stop", "length"}
                if self.is_over:
                    break
        trace.ended = time.perf_counter()
        with self._lock:
            self._ids.discard(asked.id)

    def cut_off(self) -> None:
        self._over.set()
        with self._lock:
            ids = list(self._ids)
        for name in ids:
            self._engine.cancel(name)


@contextmanager
def cut_off(engine: Engine, after_s: float) -> Iterator[Running]:
    running = Running(engine)
    timer = threading.Timer(after_s, running.cut_off)
    timer.start()
    try:
        yield running
    finally:
        timer.cancel()
        timer.join()


def ask(engine: Engine, requests: list[GenerateRequest], cap_s: float) -> list[Trace]:
    """All at once; what is not there after cap_s is cut off."""
    traces = [Trace(time.perf_counter()) for _ in requests]
    with ThreadPoolExecutor(len(requests)) as pool, cut_off(engine, cap_s) as running:
        for done in [pool.submit(running.follow, *pair) for pair in zip(requests, traces, strict=True)]:
            done.result()
    return traces
