"""What the Korean editor costs a worker: tokens a second with all its passes and with none, in turn, all slots busy.

One engine in one process; each window is as long as the other. A pair's ratio is of two windows that follow each other,
in an order that changes.
"""

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.comparison import contestants, korean
from benchmarks.comparison.asking import opening, request, unseen
from benchmarks.report import footer, save
from dure import catalog
from dure.edits import Pass
from dure.settings import Settings
from dure_worker.engines import Engine
from dure_worker.korean import parser
from dure_worker.korean.endings import Register
from dure_worker.runner import Reply
from dure_worker.settings import WorkerSettings
from dure_workshop.fetch import Fetcher

RESULT = Path("scripts/results/editing.md")
_MAX_TOKENS = 256


def window(engine: Engine, passes: list[str], seconds: float, numbers: "itertools.count[int]") -> float:
    """Tokens a second that all slots write together."""
    over = time.monotonic() + seconds
    lock, total = threading.Lock(), 0

    def client() -> None:
        nonlocal total
        while time.monotonic() < over:
            number = next(numbers)
            question = korean.QUESTIONS[number % len(korean.QUESTIONS)]
            reply = Reply(passes=passes, register=Register.FORMAL)
            asked = opening(f"{korean.moment(number)} {question}")
            num_tokens = 0
            for token in engine.generate(request(asked, _MAX_TOKENS)):
                reply.feed(token.text)
                num_tokens += bool(token.text)
                if time.monotonic() > over:
                    break
            reply.finish(is_cut=True)
            with lock:
                total += num_tokens

    began = time.monotonic()
    with ThreadPoolExecutor(engine.info.num_slots) as pool:
        for done in [pool.submit(client) for _ in range(engine.info.num_slots)]:
            done.result()
    return total / (time.monotonic() - began)


def measure(engine: Engine, pairs: int, seconds: float) -> list[tuple[float, float]]:
    """(with all passes, with none) of each pair."""
    numbers = itertools.count()
    list(engine.generate(request(unseen(engine, 10**6, 256), 8)))
    found = []
    for number in range(pairs):
        order = [list(Pass), []] if number % 2 else [[], list(Pass)]
        speeds = {bool(passes): window(engine, passes, seconds, numbers) for passes in order}
        found.append((speeds[True], speeds[False]))
        print(f"  pair {number + 1}: {speeds[True]:.1f} tokens/s edited, {speeds[False]:.1f} not", flush=True)
    return found


def main() -> None:
    options = argparse.ArgumentParser(prog="scripts/bench editing", description=__doc__)
    options.add_argument("--model", default=Settings.read().model, help="default: the one that is served")
    options.add_argument("--engine", default="llama", choices=["llama", "ark-int5", "ark-int4"])
    options.add_argument("--pairs", type=int, default=8)
    options.add_argument("--seconds", type=float, default=20, help="of a window")
    options.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = options.parse_args()
    parser.load()
    path = Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(given.model))
    worker = WorkerSettings.read()
    engine, _ = contestants.start(
        contestants.CONTESTANTS[given.engine], path, None,
        num_slots=worker.slots, context=worker.context, num_threads=worker.num_threads,
    )  # fmt: skip
    try:
        found = measure(engine, given.pairs, given.seconds)
    finally:
        engine.close()
    ratios = [edited / plain for edited, plain in found]
    edited, plain = (statistics.median(each) for each in zip(*found, strict=True))
    windows = f"{given.pairs} pairs of windows of {given.seconds:g} s"
    lines = [
        f"{given.model}, engine {given.engine}, {worker.slots} streams, {windows}.",
        "",
        "| | median (smallest–largest) |",
        "|---|---:|",
        *(
            f"| {title} | {form.format(statistics.median(each))} ({form.format(min(each))}–{form.format(max(each))}) |"
            for title, form, each in (
                ("edited, tokens/s", "{:.1f}", [one for one, _ in found]),
                ("not edited, tokens/s", "{:.1f}", [one for _, one in found]),
                ("edited / not edited, of each pair", "{:.3f}", ratios),
            )
        ),
        *footer(" ".join(["scripts/bench editing", *sys.argv[1:]])),
    ]
    save(RESULT, "\n".join(lines))
    print("\n".join(lines))
    if given.json:
        figures = {"edited": edited, "plain": plain, "ratio": statistics.median(ratios)}
        print(json.dumps({"machine": machine.describe(), **figures}, default=str))


if __name__ == "__main__":
    main()
