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
    """Answers that come now. `end` cuts off those whose text has begun, the others with their first text; `cut_off`
    cuts off all. Nothing is asked afterwards: look at is_over.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._traces: dict[str, Trace] = {}
        self._lock = threading.Lock()
        self._over, self._cut = threading.Event(), threading.Event()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def follow(self, asked: GenerateRequest, trace: Trace) -> None:
        """Fill the trace while the answer comes."""
        with self._lock:
            self._traces[asked.id] = trace
        with closing(self._engine.generate(asked)) as tokens:
            for token in tokens:
                if token.text:
                    trace.pieces.append(time.perf_counter())
                    trace.text += token.text
                if token.finish_reason:
                    trace.usage = token.usage
                    trace.is_whole = token.finish_reason in {"stop", "length"}
                if self._cut.is_set() or (self.is_over and trace.pieces):
                    break
        trace.ended = time.perf_counter()
        with self._lock:
            self._traces.pop(asked.id)

    def end(self) -> None:
        self._over.set()
        for name, trace in self._now():
            if trace.pieces:
                self._engine.cancel(name)

    def cut_off(self) -> None:
        self._over.set()
        self._cut.set()
        for name, _ in self._now():
            self._engine.cancel(name)

    def _now(self) -> list[tuple[str, Trace]]:
        with self._lock:
            return list(self._traces.items())


@contextmanager
def running(engine: Engine, cap_s: float, end_s: float | None = None) -> Iterator[Running]:
    """Ended after end_s, if that is given, and cut off after cap_s."""
    found = Running(engine)
    timers = [threading.Timer(cap_s, found.cut_off)]
    if end_s is not None:
        timers.append(threading.Timer(end_s, found.end))
    for timer in timers:
        timer.start()
    try:
        yield found
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


def ask(engine: Engine, requests: list[GenerateRequest], cap_s: float) -> list[Trace]:
    """All at once; what is not there after cap_s is cut off."""
    traces = [Trace(time.perf_counter()) for _ in requests]
    with ThreadPoolExecutor(len(requests)) as pool, running(engine, cap_s) as now:
        for done in [pool.submit(now.follow, *pair) for pair in zip(requests, traces, strict=True)]:
            done.result()
    return traces
