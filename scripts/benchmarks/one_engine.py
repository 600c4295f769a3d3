"""`python -m benchmarks.one_engine speed|memory GGUF`: one engine in a process of its own, for benchmarks to start.

Says `first` on standard output when the first token is there, and ends with one JSON object.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.timing import LONG_TEXT, NUM_LONG, answer, in_parallel
from dure.job import Message, Sampling
from dure_worker.engines import Engine, GenerateRequest
from dure_worker.engines.llama import LlamaEngine
from dure_worker.settings import WorkerSettings

NUM_SLOTS, CONTEXT = 4, 2048
QUESTIONS = ("두레가 무엇인지", "품앗이가 무엇인지", "가을걷이를 어떻게 하는지", "장독대를 왜 두는지")
NUM_PREFILL = 15  # repeats of LONG_TEXT
_numbers = itertools.count()


def ask(text: str, max_tokens: int) -> GenerateRequest:
    sampling = Sampling(temperature=0, seed=1)
    return GenerateRequest(f"bench-{next(_numbers)}", [Message("user", text)], max_tokens, sampling=sampling)


def question(number: int, max_tokens: int) -> GenerateRequest:
    return ask(f"{QUESTIONS[number]} 한국어로 아주 자세히 설명해 주세요.", max_tokens)


def timed(engine: Engine, request: GenerateRequest) -> "dict[str, float]":
    found = answer(engine, request, time.perf_counter())
    prompt, completion = found.usage.prompt_tokens, found.usage.completion_tokens
    return {"first_s": found.first_s, "tokens_per_s": found.tokens_per_s, "prompt": prompt, "completion": completion}


def speed(engine: Engine, max_tokens: int) -> dict[str, float]:
    alone = timed(engine, question(0, max_tokens))
    # A number before all: nothing of the prompt is remembered from before.
    long = timed(engine, ask(f"{time.time_ns()} {LONG_TEXT * NUM_PREFILL} 요약해 주세요.", 1))
    return {
        "decode_1": alone["tokens_per_s"],
        "decode_4": together(engine, max_tokens),
        "prefill": long["prompt"] / long["first_s"],
    }


def together(engine: Engine, max_tokens: int) -> float:
    """Tokens a second of four answers at once, whose prompts are in their slots already."""
    in_parallel(NUM_SLOTS, lambda number: timed(engine, question(number, 1)))
    counted: list[float] = []
    began = time.perf_counter()
    in_parallel(NUM_SLOTS, lambda number: counted.append(timed(engine, question(number, max_tokens))["completion"]))
    return sum(counted) / (time.perf_counter() - began)


def memory(engine: Engine, max_tokens: int) -> dict[str, float]:
    """Peak after every slot was filled twice."""
    for task in ("요약해 주세요.", "다시 요약해 주세요."):
        in_parallel(
            NUM_SLOTS,
            lambda number, task=task: timed(engine, ask(f"{number} {LONG_TEXT * NUM_LONG} {task}", max_tokens)),
        )
    return {"peak_mib": machine.peak_mib("self")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_engine", description=__doc__)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    num_threads = WorkerSettings.read().num_threads
    engine = LlamaEngine(options.path, "bench", num_slots=NUM_SLOTS, context=CONTEXT, num_threads=num_threads)
    timed(engine, question(0, 2))
    print("first", flush=True)
    found = speed(engine, options.max_tokens) if options.what == "speed" else memory(engine, options.max_tokens)
    engine.close()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
