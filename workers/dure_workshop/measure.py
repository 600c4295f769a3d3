"""`python -m dure_workshop.measure GGUF`: one engine in a process of its own, for `dure model bench` to start.

Prints a line when the first token is there, and ends with one JSON object: medians over the rounds, and the peak.
"""

import argparse
import itertools
import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dure.job import Message, Sampling, Usage
from dure_worker.engines import Engine, GenerateRequest
from dure_worker.engines.llama import LlamaEngine

LONG_TEXT = "두레는 농사일이 바쁠 때 이웃끼리 힘을 모으던 마을의 모임입니다. "
TOKENS_OF_LONG = 42  # at most, in the vocabularies that were tried
_QUESTIONS = ("두레가 무엇인지", "품앗이가 무엇인지", "가을걷이를 어떻게 하는지", "장독대를 왜 두는지")
_MAX_TOKENS = 64
_NUM_PREFILL = 15  # repeats of LONG_TEXT
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


def request(text: str, max_tokens: int) -> GenerateRequest:
    sampling = Sampling(temperature=0, seed=1)
    return GenerateRequest(f"measure-{next(_numbers)}", [Message("user", text)], max_tokens, sampling=sampling)


def question(number: int, max_tokens: int = _MAX_TOKENS) -> GenerateRequest:
    return request(f"{_QUESTIONS[number % len(_QUESTIONS)]} 한국어로 아주 자세히 설명해 주세요.", max_tokens)


def prefill(engine: Engine, context: int) -> float:
    """Tokens a second of a prompt of which nothing is remembered: its beginning is always another."""
    num = min(_NUM_PREFILL, context // 2 // TOKENS_OF_LONG)
    found = timed(engine, request(f"{time.time_ns()} {LONG_TEXT * num} 요약해 주세요.", 1))
    return found.usage.prompt_tokens / found.first_s


def together(engine: Engine, num_slots: int, max_tokens: int = _MAX_TOKENS) -> float:
    """Tokens a second of answers in all slots at once, whose prompts are there already."""
    in_parallel(num_slots, lambda number: timed(engine, question(number, 1)))
    counted: list[int] = []
    began = time.perf_counter()
    in_parallel(
        num_slots, lambda number: counted.append(timed(engine, question(number, max_tokens)).usage.completion_tokens)
    )
    return sum(counted) / (time.perf_counter() - began)


def fill(engine: Engine, num_slots: int, context: int) -> None:
    """Every slot nearly full, twice: the second conversations push the first ones into the prompt cache."""
    num = (context - 2 * _MAX_TOKENS) // TOKENS_OF_LONG
    for turn in "12":

        def ask(slot: int, turn: str = turn) -> None:
            timed(engine, request(f"{turn}{slot} {LONG_TEXT * num}", _MAX_TOKENS))

        in_parallel(num_slots, ask)


def in_parallel(number: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def peak_rss_bytes() -> int:
    """Of this process so far; KiB on Linux, bytes on macOS (getrusage(2))."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dure_workshop.measure", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    engine = LlamaEngine(
        options.path, "measure", num_slots=options.slots, context=options.context, num_threads=options.threads
    )
    timed(engine, question(0, 2))
    sys.stdout.write("first\n")
    sys.stdout.flush()
    rounds = range(options.repeats)
    found = {
        "prefill_tokens_per_s": statistics.median(prefill(engine, options.context) for _ in rounds),
        "decode_tokens_per_s": statistics.median(timed(engine, question(0)).tokens_per_s for _ in rounds),
        "decode_all_tokens_per_s": statistics.median(together(engine, options.slots) for _ in rounds),
    }
    fill(engine, options.slots, options.context)
    found["peak_rss_bytes"] = peak_rss_bytes()
    engine.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
