"""What a trimmed vocabulary saves and costs: file, memory, speed, start, perplexity, tokens a Korean syllable.

Before and after take turns, each round in new processes, so that a machine whose speed drifts hits both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import machine, texts
from benchmarks.report import footer, save
from dure import catalog, gguf
from dure.settings import Settings
from dure_worker.settings import WorkerSettings
from dure_workshop.fetch import Fetcher
from dure_workshop.perplexity import Perplexity, perplexity
from dure_workshop.trim.gguf_file import GgufModel, trim

RESULT = Path("scripts/results/trim.md")
MODELS = ("qwen2.5-coder-1.5b-instruct-q4_k_m", "qwen2.5-coder-0.5b-instruct-q4_k_m")
NUM_STARTS = 3
SPEEDS = {"decode_1": "Decode, 1 answer", "decode_4": "Decode, 4 answers", "prefill": "Prefill"}


@dataclass
class Side:
    """One file's figures; speeds: one list per kind, in order of rounds."""

    path: Path
    speeds: dict[str, list[float]]
    starts_s: list[float]
    peak_mib: float = 0
    perplexity: Perplexity = field(default_factory=lambda: Perplexity(1, 1, 0))
    fertility: float = 0


def child(what: str, path: Path, max_tokens: int) -> tuple[float, dict[str, float]]:
    """Seconds from the start of the process to its first token, and what it measured."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.one_engine", what, str(path), f"--max-tokens={max_tokens}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and line != "first\n":
            pass
        first_s = time.perf_counter() - began
        rest = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return first_s, json.loads(rest.splitlines()[-1])


def trimmed(base: Path, name: str, folder: Path) -> tuple[Path, float]:
    """The file that `dure model fetch` would make, and the seconds that it took."""
    recipe = next(m.made_by for m in catalog.CATALOG.values() if m.made_by and m.made_by.base == name)
    target = folder / "model.gguf"
    began = time.perf_counter()
    trim(gguf.read(base), target, set(recipe.languages), recipe.size)
    return target, time.perf_counter() - began


def measure_speeds(sides: tuple[Side, Side], rounds: int, max_tokens: int) -> None:
    for number in range(rounds):
        for side in sides:
            first_s, found = child("speed", side.path, max_tokens)
            if number < NUM_STARTS:
                side.starts_s.append(first_s)
            for name, value in found.items():
                side.speeds.setdefault(name, []).append(value)
            print(f"  {number + 1}/{rounds}  {found}", flush=True)


def measure_text(side: Side, num_characters: int) -> None:
    text = texts.sample(num_characters)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("perplexity", total=None)
        side.perplexity = perplexity(
            side.path,
            text,
            lambda done, total: progress.update(task, completed=done, total=total),
            WorkerSettings.read().num_threads,
        )
    segmenter = GgufModel.read(side.path).segmenter
    assert segmenter is not None
    side.fertility = len(segmenter.encode(text)) / texts.num_syllables(text)


def measure(name: str, options: argparse.Namespace) -> tuple[list[str], dict[str, object]]:
    base = Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(name))
    with tempfile.TemporaryDirectory(prefix="dure-trim-", dir=base.parent.parent) as folder:
        path, trim_s = trimmed(base, name, Path(folder))
        before, after = sides = Side(base, {}, []), Side(path, {}, [])
        for side in sides:
            child("speed", side.path, 1)  # what is read next is in the page cache
        measure_speeds(sides, options.rounds, options.max_tokens)
        for side in sides:
            side.peak_mib = child("memory", side.path, options.max_tokens)[1]["peak_mib"]
            measure_text(side, options.characters)
        rows = [
            _row("File", *(side.path.stat().st_size / 1e6 for side in sides), "{:.0f} MB"),
            _row("Peak memory of the engine, 4 slots × 2,048, full", before.peak_mib, after.peak_mib, "{:.0f} MiB"),
            *(_speed_row(title, before.speeds[kind], after.speeds[kind]) for kind, title in SPEEDS.items()),
            _row(
                "Start of the process to its first token", *(statistics.median(s.starts_s) for s in sides), "{:.1f} s"
            ),
            _row("Perplexity a token, held-out Korean", *(s.perplexity.per_token for s in sides), "{:.2f}"),
            _row("Bits a byte, held-out Korean", *(s.perplexity.bits_per_byte for s in sides), "{:.4f}"),
            _row("Tokens a Korean syllable", before.fertility, after.fertility, "{:.3f}"),
            f"| Trimming takes | | {trim_s:.1f} s | |",
        ]
    found = {"trim_s": trim_s, "before": asdict(before), "after": asdict(after)}
    return [f"| {name} | before | after | after / before |", "|---|---|---|---|", *rows, ""], found


def _row(title: str, before: float, after: float, form: str) -> str:
    return f"| {title} | {form.format(before)} | {form.format(after)} | {after / before:.3f} |"


def _speed_row(title: str, before: list[float], after: list[float]) -> str:
    """The ratio is the median of each round's, since both of a round ran in the same minute."""
    ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
    first, second = statistics.median(before), statistics.median(after)
    return f"| {title} (median of {len(before)}) | {first:.1f} tokens/s | {second:.1f} tokens/s | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench trim", description=__doc__)
    parser.add_argument("--model", action="append", help="a model of the catalogue that has a trimmed form")
    parser.add_argument("--rounds", type=int, default=5, help="of before and after")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--characters", type=int, default=12_000, help="of held-out text for the perplexity")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md and README.ko.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    options = parser.parse_args()
    names = options.model or MODELS
    tables, figures = [], {}
    for name in names:
        print(name, flush=True)
        lines, figures[name] = measure(name, options)
        tables += lines
    chosen = "".join(f" --model {name}" for name in options.model or ())
    command = f"scripts/bench trim{chosen} --rounds {options.rounds} --characters {options.characters}"
    text = "\n".join([*tables[:-1], *footer(command)])
    save(RESULT, text, in_readmes=options.readme)
    print(text)
    if options.json:
        print(json.dumps({"machine": machine.describe(), "models": figures}, default=str))


if __name__ == "__main__":
    main()
