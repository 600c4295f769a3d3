"""Bytes a second between an idle worker and Redis, both directions: what a cheap network carries for nothing.

The server's own counters over windows without and with idle workers; the difference is shared among them.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import redis

from benchmarks import machine
from benchmarks.report import footer, save
from support import Stack

RESULT = Path("scripts/results/chatter.md")
NUM_WORKERS = 3
SETTLE_S = 15  # start-up: queues are declared, scripts are loaded


def net_bytes(client: "redis.Redis") -> int:
    stats = client.info("stats")
    return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])


def rate(client: "redis.Redis", window_s: float) -> float:
    began, first = time.monotonic(), net_bytes(client)
    time.sleep(window_s)
    return (net_bytes(client) - first) / (time.monotonic() - began)


def measure(window_s: float, repeats: int) -> list[float]:
    """Bytes per second and worker, once per repeat."""
    found = []
    with tempfile.TemporaryDirectory(prefix="dure-chatter-") as folder, Stack(Path(folder)) as stack:
        for number in range(repeats):
            without = rate(stack.store.redis, window_s)
            workers = [stack.start_worker(f"idle-{number}-{index}") for index in range(NUM_WORKERS)]
            time.sleep(SETTLE_S)
            found.append((rate(stack.store.redis, window_s) - without) / NUM_WORKERS)
            print(f"{found[-1]:.0f} B/s", flush=True)
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
    return found


def report(found: list[float], command: str) -> str:
    lines = ["| an idle worker and Redis | |", "|---|---|"]
    lines += [f"| Bytes a second, both directions (median of {len(found)}) | {statistics.median(found):.0f} |"]
    lines += [f"| Spread | {min(found):.0f}–{max(found):.0f} |"]
    return "\n".join([*lines, *footer(command)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench chatter", description=__doc__)
    parser.add_argument("--window", type=float, default=60.0, help="seconds a window")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    options = parser.parse_args()
    found = measure(options.window, options.repeats)
    text = report(found, f"scripts/bench chatter --window {options.window:g} --repeats {options.repeats}")
    save(RESULT, text)
    print(text)
    if options.json:
        print(json.dumps({"machine": machine.describe(), "bytes_per_s": statistics.median(found), "all": found}))


if __name__ == "__main__":
    main()
