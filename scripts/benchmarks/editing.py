"""What the Korean editor costs a worker: tokens a second with all its passes and with none, in turn, all slots busy.

One engine in one process; each window is as long as the other. A pair's ratio is of two windows that follow each other,
in an order that changes. On a machine that others use too it says little; what the editor takes of the cores' time, as
its threads count it, says more.
"""

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.comparison import contestants, korean
from benchmarks.comparison.asking import opening, request, unseen
from benchmarks.report import footer, save
from dure import catalog
from dure.edits import Pass
from dure.machine_memory import usable_cores
from dure.settings import Settings
from dure_worker.engines import Engine
from dure_worker.korean import parser
from dure_worker.korean.endings import Register
from dure_worker.runner import Reply
from dure_worker.settings import WorkerSettings
from dure_workshop.fetch import Fetcher

RESULT = Path("scripts/results/editing.md")
_MAX_TOKENS = 256


@dataclass(frozen=True)
class Window:
    """speed: tokens a second that all slots write together. share: of all cores' time that the editor took."""

    speed: float
    share: float


def window(engine: Engine, passes: list[str], seconds: float, numbers: "itertools.count[int]") -> Window:
    over = time.monotonic() + seconds
    lock, total, edited_s = threading.Lock(), 0, 0.0

    def client() -> None:
        nonlocal total, edited_s
        while time.monotonic() < over:
            number = next(numbers)
            question = korean.QUESTIONS[number % len(korean.QUESTIONS)]
            reply = Reply(passes=passes, register=Register.FORMAL)
            asked = opening(f"{korean.moment(number)} {question}")
            num_tokens, took_s = 0, 0.0
            for token in engine.generate(request(asked, _MAX_TOKENS)):
                began_s = time.thread_time()
                reply.feed(token.text)
                took_s += time.thread_time() - began_s
                num_tokens += bool(token.text)
                if time.monotonic() > over:
                    break
            reply.finish(is_cut=True)
            with lock:
                total += num_tokens
                edited_s += took_s

    began = time.monotonic()
    with ThreadPoolExecutor(engine.info.num_slots) as pool:
        for done in [pool.submit(client) for _ in range(engine.info.num_slots)]:
            done.result()
    took = time.monotonic() - began
    return Window(total / took, edited_s / took / usable_cores().num_threads)


def measure(engine: Engine, pairs: int, seconds: float) -> list[tuple[Window, Window]]:
    """(with all passes, with none) of each pair."""
    numbers = itertools.count()
    list(engine.generate(request(unseen(engine, 10**6, 256), 8)))
    found = []
    for number in range(pairs):
        order = [list(Pass), []] if number % 2 else [[], list(Pass)]
        by = {bool(passes): window(engine, passes, seconds, numbers) for passes in order}
        found.append((by[True], by[False]))
        print(f"  pair {number + 1}: {by[True].speed:.1f} tokens/s edited, {by[False].speed:.1f} not", flush=True)
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
    rows: dict[str, tuple[str, list[float]]] = {
        "edited, tokens/s": ("{:.1f}", [edited.speed for edited, _ in found]),
        "not edited, tokens/s": ("{:.1f}", [plain.speed for _, plain in found]),
        "edited / not edited, of each pair": ("{:.3f}", [edited.speed / plain.speed for edited, plain in found]),
        "of all cores' time the editor took": ("{:.2%}", [edited.share for edited, _ in found]),
    }
    windows = f"{given.pairs} pairs of windows of {given.seconds:g} s"
    lines = [
        f"{given.model}, engine {given.engine}, {worker.slots} streams, {windows}.",
        "",
        "| | median (smallest–largest) |",
        "|---|---:|",
        *(
            f"| {title} | {form.format(statistics.median(each))} ({form.format(min(each))}–{form.format(max(each))}) |"
            for title, (form, each) in rows.items()
        ),
        *footer(" ".join(["scripts/bench editing", *sys.argv[1:]])),
    ]
    save(RESULT, "\n".join(lines))
    print("\n".join(lines))
    if given.json:
        figures = {title: statistics.median(each) for title, (_, each) in rows.items()}
        print(json.dumps({"machine": machine.describe(), **figures}, default=str))


if __name__ == "__main__":
    main()
