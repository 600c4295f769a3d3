"""Chat as it comes: clients in turn with short and long questions, all slots busy."""

import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.comparison import korean, load
from benchmarks.comparison.asking import Running, request, running
from benchmarks.comparison.measures import Figures, NotMeasured, Sizes
from benchmarks.comparison.trace import Trace, tokens_a_piece
from dure.job import Message, Sampling
from dure_worker.engines import Engine

SEED = 1
_seeds = itertools.count()


@dataclass
class Seen:
    """What clients saw until `end` (of time.perf_counter). answers: each with the tokens that were asked for."""

    began: float
    end: float
    answers: list[tuple[Trace, int]] = field(default_factory=list)

    def figures(self) -> Figures:
        """An answer counts by its share: what had come of it at the end, of what was asked for."""
        ratio = tokens_a_piece([trace for trace, _ in self.answers])
        num_answers = sum(
            min(1.0, trace.tokens_between(self.began, self.end, ratio) / wanted) for trace, wanted in self.answers
        )
        if not num_answers:
            raise NotMeasured(f"nothing was answered in {self.end - self.began:.0f} s")
        return {"mixed": 60 * num_answers / (self.end - self.began)}

    def firsts(self) -> Figures:
        """Seconds to the first text, of every question that was asked until the end."""
        if not all(trace.pieces for trace, _ in self.answers):
            raise NotMeasured("some questions never got a first text")
        firsts = sorted(trace.first_s for trace, _ in self.answers)
        return {"mixed_ttft_p50": statistics.median(firsts), "mixed_ttft_p95": firsts[int(0.95 * len(firsts))]}


def mixed(engine: Engine, sizes: Sizes) -> Seen:
    """As many clients as slots, each with one question at a time and no pause before the next, for window_s. Who has
    no text yet at the end waits for it.
    """
    began = time.perf_counter()
    seen = Seen(began, began + sizes.window_s)
    cap_s = sizes.window_s + sizes.cap_s
    with ThreadPoolExecutor(engine.info.num_slots) as pool, running(engine, cap_s, sizes.window_s) as now:
        clients = [
            pool.submit(_chat, load.conversations(SEED, client), seen, now) for client in range(engine.info.num_slots)
        ]
        for client in clients:
            client.result()
    return seen


def _chat(conversations: Iterator[list[load.Turn]], seen: Seen, now: Running) -> None:
    for conversation in conversations:
        messages = [Message("system", korean.SYSTEM)]
        for turn in conversation:
            if now.is_over:
                return
            messages.append(Message("user", turn.text))
            trace = Trace(time.perf_counter())
            seen.answers.append((trace, turn.num_tokens))
            now.follow(request(messages, turn.num_tokens, Sampling(seed=next(_seeds))), trace)
            if not trace.text:
                break  # no engine takes an empty answer into a prompt
            messages.append(Message("assistant", trace.text))
