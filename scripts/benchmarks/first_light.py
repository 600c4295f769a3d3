"""What the road costs: first token and speed against the engine alone, memory of all parts, jobs a second.

The engine alone and the whole road take turns with the same question, so that a machine whose speed drifts hits both.
"""

import argparse
import json
import statistics
import threading
import time
from pathlib import Path

import httpx

from benchmarks import machine
from benchmarks.report import footer, save
from benchmarks.village import Village
from dure import Client, catalog
from dure.job import JobPayload, Message, Sampling
from dure.settings import Settings
from dure_worker.app import load_engine
from dure_worker.choice.choosing import resolved
from dure_worker.conversation.conversation import Conversation
from dure_worker.engines import Engine, GenerateRequest
from dure_worker.engines.timing import LONG_TEXT, Timing, in_parallel, timed
from dure_worker.settings import WorkerSettings

RESULT = Path("scripts/results/first-light.md")
QUESTION = "두레가 무엇인지 한국어로 자세히 설명해 주세요."
NUM_LONG = 45  # repeats of LONG_TEXT that nearly fill a slot of 2,048 tokens
SCRIPTED_CLIENTS = 16
SCRIPTED_TOKENS = 16


def direct(engine: Engine, payload: JobPayload) -> Timing:
    """The engine called in this process, with the prompt that the worker would build."""
    began = time.perf_counter()
    prompt = Conversation(engine.count_tokens, engine.info.context).fit(payload)
    request = GenerateRequest("bench", prompt.messages, prompt.max_tokens, sampling=payload.sampling)
    return timed(engine, request, began)


def road(client: Client, max_tokens: int) -> Timing:
    """The same through HTTP, Redis, Celery and back."""
    began = time.perf_counter()
    first, num_tokens = 0.0, 0
    for event in client.stream(QUESTION, max_tokens=max_tokens, temperature=0, seed=1):
        if event.type == "token" and not first:
            first = time.perf_counter()
        if event.reply:
            num_tokens = event.reply.usage["completion_tokens"]
    return Timing(first - began, (num_tokens - 1) / (time.perf_counter() - first))


def measure_overhead(village: Village, engine: Engine, repeats: int, max_tokens: int) -> dict[str, float]:
    payload = JobPayload(
        [Message("user", QUESTION)], "polite", "helpful", max_tokens, [], Sampling(temperature=0, seed=1)
    )
    turns: list[tuple[Timing, Timing]] = []
    with Client(village.url) as client:
        for number in range(repeats + 1):
            # Who goes first alternates; the first turn fills caches and is dropped.
            if number % 2:
                alone, through = direct(engine, payload), road(client, max_tokens)
            else:
                through, alone = road(client, max_tokens), direct(engine, payload)
            turns.append((alone, through))
            print(f"  {number}/{repeats}  engine alone {alone}  whole road {through}", flush=True)
    turns = turns[1:]
    return {
        "first_token_direct_ms": statistics.median(alone.first_s for alone, _ in turns) * 1e3,
        "first_token_road_ms": statistics.median(through.first_s for _, through in turns) * 1e3,
        "first_token_overhead_ms": statistics.median(through.first_s - alone.first_s for alone, through in turns) * 1e3,
        "tokens_per_s_direct": statistics.median(alone.tokens_per_s for alone, _ in turns),
        "tokens_per_s_road": statistics.median(through.tokens_per_s for _, through in turns),
        "throughput_loss_percent": 100 * (1 - statistics.median(b.tokens_per_s / a.tokens_per_s for a, b in turns)),
    }


def measure_memory(village: Village) -> dict[str, float]:
    """Peak of every part after all four slots were filled."""
    with Client(village.url) as client:
        in_parallel(4, lambda number: client.chat(f"{number} {LONG_TEXT * NUM_LONG} 요약해 주세요.", max_tokens=128))
        in_parallel(
            4, lambda number: client.chat(f"{number} {LONG_TEXT * NUM_LONG} 다시 요약해 주세요.", max_tokens=128)
        )
    peak = village.peak_mib()
    return {f"peak_{name}_mib": value for name, value in peak.items()} | {"peak_all_mib": sum(peak.values())}


def measure_jobs(village: Village, num_jobs: int) -> dict[str, float]:
    """Jobs a second and the time of one, with a fixed number of clients that each wait for their answer."""
    times: list[float] = []
    numbers = iter(range(num_jobs))
    lock = threading.Lock()

    def client_loop(_: int) -> None:
        with httpx.Client(base_url=village.url, timeout=600) as http:
            while True:
                with lock:
                    if next(numbers, None) is None:
                        return
                began = time.perf_counter()
                http.post("/api/chat", json={"message": QUESTION, "max_tokens": SCRIPTED_TOKENS}).raise_for_status()
                times.append(time.perf_counter() - began)

    began = time.perf_counter()
    in_parallel(SCRIPTED_CLIENTS, client_loop)
    wall_s = time.perf_counter() - began
    cuts = statistics.quantiles(times, n=100)
    return {
        "jobs": num_jobs,
        "jobs_per_s": num_jobs / wall_s,
        "job_p50_ms": cuts[49] * 1e3,
        "job_p99_ms": cuts[98] * 1e3,
    }


def measure_start(model: str, models_dir: Path, **environ: str) -> float:
    """Seconds from `dure up` to ready, with the model on disk."""
    began = time.perf_counter()
    with Village(model, models_dir, **environ):
        return time.perf_counter() - began


def report(model: str, found: dict[str, float], command: str) -> str:
    """A Markdown table, with the machine under it."""
    rows = {
        "First token, engine alone / whole road (p50)": "{first_token_direct_ms:.0f} / {first_token_road_ms:.0f} ms",
        "Overhead of the road, first token (p50 of pairs)": "{first_token_overhead_ms:.1f} ms",
        "Speed, engine alone / whole road (p50)": "{tokens_per_s_direct:.1f} / {tokens_per_s_road:.1f} tokens/s",
        "Loss of speed by the road (p50 of pairs)": "{throughput_loss_percent:.1f} %",
        "Peak memory: worker (4 slots × 2,048, full)": "{peak_worker_mib:.0f} MiB",
        "Peak memory: gateway": "{peak_gateway_mib:.0f} MiB",
        "Peak memory: Valkey / Flower": "{peak_valkey_mib:.0f} / {peak_flower_mib:.0f} MiB",
        "Peak memory: these together": "{peak_all_gb:.2f} GB",
        "{jobs:.0f} scripted jobs, {clients} clients, one worker": "{jobs_per_s:.0f} jobs/s",
        "One of these jobs, p50 / p99": "{job_p50_ms:.0f} / {job_p99_ms:.0f} ms",
        "From `dure up` to ready, model on disk": "{second_start_s:.1f} s",
    }
    values = found | {"peak_all_gb": found["peak_all_mib"] * 2**20 / 1e9, "clients": SCRIPTED_CLIENTS}
    lines = [f"| {model} | |", "|---|---|"]
    lines += [f"| {name.format(**values)} | {value.format(**values)} |" for name, value in rows.items()]
    return "\n".join([*lines, *footer(command)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench first-light", description=__doc__)
    parser.add_argument("--model", default=Settings.read().model)
    parser.add_argument("--repeats", type=int, default=20, help="pairs of engine alone and whole road")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--jobs", type=int, default=1000, help="scripted jobs")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md and README.ko.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    options = parser.parse_args()
    settings = Settings.read(model=options.model)
    found: dict[str, float] = {}
    print(f"engine alone and whole road, {options.model}", flush=True)
    with Village(options.model, settings.models_dir) as village:
        # What the village's worker chose: it measured, if that was needed.
        engine = load_engine(settings, resolved(settings, WorkerSettings.read(), None))
        found |= measure_overhead(village, engine, options.repeats, options.max_tokens)
        engine.close()
        print("memory with all slots full", flush=True)
        found |= measure_memory(village)
    print(f"{options.jobs} scripted jobs", flush=True)
    with Village(catalog.SCRIPTED, settings.models_dir) as village:
        found |= measure_jobs(village, options.jobs)
    found["second_start_s"] = measure_start(options.model, settings.models_dir)
    text = report(options.model, found, f"scripts/bench first-light --repeats {options.repeats} --jobs {options.jobs}")
    save(RESULT, text, in_readmes=options.readme)
    print(text)
    if options.json:
        print(json.dumps({"model": options.model, "machine": machine.describe(), **found}))


if __name__ == "__main__":
    main()
