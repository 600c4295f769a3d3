"""`python -m benchmarks.comparison.child start|speed|memory …`: one engine in a process of its own.

Ends with one JSON object: figures by metric, and why others are missing.
"""

import argparse
import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.comparison import korean
from benchmarks.comparison.asking import ask, opening, request, unseen
from benchmarks.comparison.contestants import CONTESTANTS, start
from benchmarks.comparison.measures import FULL, QUICK, Figures, NotMeasured, Sizes, decode, fill, prefill, turns
from benchmarks.comparison.mixed import mixed
from dure_worker.engines import Engine

# As many as the most streams; memory is told for what a worker has by default.
SPEED_SLOTS, MEMORY_SLOTS, CONTEXT = 8, 4, 2048
_WARM_UP_S = 60.0


@dataclass
class Found:
    figures: Figures = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, measure: Callable[[], Figures]) -> None:
        try:
            self.figures |= measure()
        except NotMeasured as reason:
            self.missing[name] = str(reason)


def speed(engine: Engine, sizes: Sizes, number: int, found: Found) -> None:
    _warm_up(engine)
    found.add("prefill", lambda: prefill(engine, sizes, number))
    for num_streams in sizes.streams:
        found.add(f"decode_{num_streams}", partial(decode, engine, sizes, num_streams))
    found.add("ttft_second_share", lambda: turns(engine, sizes, number))
    seen = mixed(engine, sizes)
    found.add("mixed", seen.figures)
    found.add("mixed_ttft_p50", seen.firsts)


def memory(engine: Engine, pid: int) -> Figures:
    fill(engine)
    return {"peak": machine.peak_mib(pid)}


def _warm_up(engine: Engine) -> None:
    """Pages, thread pools and what an engine learns of its own speed."""
    ask(engine, [request(unseen(engine, 10**6, 256), 8)], _WARM_UP_S)


def pin(num_threads: int) -> None:
    """This process and its children to so many processors: who asks takes its time from the engine's, as on a box."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison.child", description=__doc__)
    parser.add_argument("what", choices=["start", "speed", "memory"])
    parser.add_argument("name", choices=list(CONTESTANTS))
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--round", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--llama-server", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    num_slots = MEMORY_SLOTS if options.what == "memory" else SPEED_SLOTS
    engine, pid = start(
        CONTESTANTS[options.name], options.path, options.llama_server,
        num_slots=num_slots, context=CONTEXT, num_threads=options.threads,
    )  # fmt: skip
    found = Found()
    with closing(engine):
        ask(engine, [request(opening(korean.QUESTIONS[-1]), 2)], _WARM_UP_S)
        if options.what == "speed":
            found.figures["load"] = machine.age_s(pid)
            speed(engine, QUICK if options.quick else FULL, options.round, found)
        elif options.what == "memory":
            found.add("peak", lambda: memory(engine, pid))
    print(json.dumps(vars(found)), flush=True)


if __name__ == "__main__":
    main()
