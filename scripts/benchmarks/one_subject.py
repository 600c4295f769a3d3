"""`python -m benchmarks.one_subject ENGINE[:WEIGHTS] MODEL`: a model in an engine, in a process of its own.

Ends with one JSON object: memory in MiB, seconds of short answers, tokens a second.
"""

import argparse
import json
import statistics

import psutil

from benchmarks import machine
from dure.settings import Settings
from dure_worker.engines import Engine
from dure_worker.engines.timing import question, request, timed
from dure_worker.korean import parser as korean
from dure_worker.settings import WorkerSettings
from dure_workshop.evaluate.subject import Subject
from dure_workshop.generation.engines import opened
from dure_workshop.measure import fill, prefill

NUM_SLOTS, CONTEXT = 4, 2048
# Asked as people ask who want one sentence.
SHORT = (
    "대한민국의 수도는 어디인가요? 한 문장으로 답해 주세요.",
    "물은 몇 도에서 끓나요? 한 문장으로 답해 주세요.",
    "한글을 만든 사람은 누구인가요? 한 문장으로 답해 주세요.",
    "일주일은 며칠인가요? 한 문장으로 답해 주세요.",
    "김치는 무엇으로 만드나요? 한 문장으로 답해 주세요.",
)
_SHORT_TOKENS, _LONG_TOKENS, _ROUNDS = 40, 64, 3


def measured(engine: Engine) -> dict[str, float]:
    timed(engine, question(0, 2))
    at_rest = psutil.Process().memory_info().rss / 2**20
    short = [_seconds(engine, text) for text in SHORT]
    decode = [timed(engine, question(number, _LONG_TOKENS)).tokens_per_s for number in range(_ROUNDS)]
    read = [prefill(engine, CONTEXT) for _ in range(_ROUNDS)]
    fill(engine, NUM_SLOTS, CONTEXT)
    return {
        "at_rest_mib": at_rest,
        "peak_mib": machine.peak_mib("self"),
        "short_s": statistics.median(short),
        "decode_tokens_per_s": statistics.median(decode),
        "prefill_tokens_per_s": statistics.median(read),
    }


def _seconds(engine: Engine, text: str) -> float:
    """Of a whole short answer."""
    found = timed(engine, request(text, _SHORT_TOKENS))
    return found.first_s + max(0, found.usage.completion_tokens - 1) / found.tokens_per_s


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_subject", description=__doc__)
    parser.add_argument("engine")
    parser.add_argument("model")
    options = parser.parse_args()
    subject = Subject.named(options.model, options.engine, Settings.read())
    korean.load()  # a worker holds it too
    with opened(subject, NUM_SLOTS, CONTEXT, WorkerSettings.read().num_threads) as engine:
        print(json.dumps(measured(engine)), flush=True)


if __name__ == "__main__":
    main()
