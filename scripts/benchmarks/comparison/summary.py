"""The tables of all models with what they rest on, as Markdown and as JSON."""

import argparse
import json
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from benchmarks import machine
from benchmarks.comparison import load, table
from benchmarks.comparison.child import CONTEXT, MEMORY_SLOTS, SPEED_SLOTS
from benchmarks.comparison.table import Measured
from benchmarks.report import footer

_PACKAGES = ("torch", "auto-round-lib", "transformers", "bitsandbytes")
_METHOD = (
    f"Speeds with {SPEED_SLOTS} slots × {CONTEXT:,} tokens, memory with {MEMORY_SLOTS} × {CONTEXT:,}, all full. "
    "Decoding: greedy, over the time in which all streams run; the ark engine checks guesses from the text so far, as "
    "it does in use, on answers to different Korean questions. "
    f"Chat: {SPEED_SLOTS} clients without a pause, {load.DESCRIPTION}; an answer counts by the "
    "share that came of it. A ratio is the median of each round's."
)


def notes(found: list[Measured], options: argparse.Namespace, load_average: float) -> list[str]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES if _is_installed(name))
    return [
        "",
        f"Median of rounds (smallest–largest): {options.rounds}. Threads: {options.threads}. {_METHOD}",
        "",
        _compared_with(found[0].baseline, options.llama_server),
        "",
        f"{versions}. Load average before it began: {load_average:.1f}.",
    ]


def _compared_with(baseline: str, server: Path | None) -> str:
    if server:
        return (
            f"Compared with `{baseline}`, {_version_of(server)}, its own defaults but for threads, slots and context."
        )
    return (
        f"Compared with `{baseline}`: no `--llama-server` was given, so the ratios are to the engine in the package, "
        "not to a llama.cpp built for this CPU."
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _version_of(server: Path) -> str:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
    return next((line for line in (said.stderr + said.stdout).splitlines() if line.startswith("version")), "version ?")


def report(found: list[Measured], options: argparse.Namespace, command: str, load_average: float) -> str:
    tables = []
    for measured in found:
        for made in (table.figures_table, table.ratios_table, table.limits_table, table.missing_lines):
            if lines := made(measured):
                tables += [*lines, ""]
    return "\n".join([*tables[:-1], *notes(found, options, load_average), *footer(command)])


def as_json(found: list[Measured]) -> str:
    return json.dumps(
        {
            "machine": machine.describe(),
            "rows": [asdict(row) for measured in found for row in measured.rows()],
            "ratios": {measured.model: measured.ratios() for measured in found},
            "baseline": found[0].baseline,
            "limits": {measured.model: measured.limits for measured in found},
            "not_measured": [line for measured in found for line in table.missing_lines(measured)],
        }
    )
