"""`python -m benchmarks.one_engine speed|memory GGUF`: one engine in a process of its own, for benchmarks to start.

Says `first` on standard output when the first token is there, and ends with one JSON object.
"""

import argparse
import json
from pathlib import Path

from benchmarks import machine
from dure_worker.engines import Engine
from dure_worker.engines.llama import LlamaEngine
from dure_worker.engines.timing import question, timed, together
from dure_worker.settings import WorkerSettings
from dure_workshop.measure import fill, prefill

NUM_SLOTS, CONTEXT = 4, 2048


def speed(engine: Engine, max_tokens: int) -> dict[str, float]:
    return {
        "decode_1": timed(engine, question(0, max_tokens)).tokens_per_s,
        "decode_4": together(engine, NUM_SLOTS, max_tokens),
        "prefill": prefill(engine, CONTEXT),
    }


def memory(engine: Engine) -> dict[str, float]:
    fill(engine, NUM_SLOTS, CONTEXT)
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
    found = speed(engine, options.max_tokens) if options.what == "speed" else memory(engine)
    engine.close()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
