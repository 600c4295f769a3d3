"""`python -m dure_workshop.measure GGUF`: one engine in a process of its own, for `dure model bench` to start.

Prints a line when the first token is there, and ends with one JSON object: medians over the rounds, and the peak.
"""

import argparse
import json
import resource
import statistics
import sys
from pathlib import Path

from dure_worker.engines import Engine
from dure_worker.engines.llama import LlamaEngine
from dure_worker.engines.timing import (
    LONG_TEXT,
    TOKENS_OF_LONG,
    in_parallel,
    question,
    reading,
    request,
    timed,
    together,
)

_MAX_TOKENS = 64
_NUM_PREFILL = 15  # repeats of LONG_TEXT


def prefill(engine: Engine, context: int) -> float:
    """Tokens a second of a prompt of usual length, or of half the context."""
    return reading(engine, min(_NUM_PREFILL, context // 2 // TOKENS_OF_LONG))


def fill(engine: Engine, num_slots: int, context: int) -> None:
    """Every slot nearly full, twice: the second conversations push the first ones into the prompt cache."""
    num = (context - 2 * _MAX_TOKENS) // TOKENS_OF_LONG
    for turn in "12":

        def ask(slot: int, turn: str = turn) -> None:
            timed(engine, request(f"{turn}{slot} {LONG_TEXT * num}", _MAX_TOKENS))

        in_parallel(num_slots, ask)


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
        "decode_tokens_per_s": statistics.median(timed(engine, question(0, _MAX_TOKENS)).tokens_per_s for _ in rounds),
        "decode_all_tokens_per_s": statistics.median(together(engine, options.slots, _MAX_TOKENS) for _ in rounds),
    }
    fill(engine, options.slots, options.context)
    found["peak_rss_bytes"] = peak_rss_bytes()
    engine.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
