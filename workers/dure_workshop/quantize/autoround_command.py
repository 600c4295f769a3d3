"""`python -m dure_workshop quantize --method autoround`: what goes in, a progress bar, and what came out."""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dure.errors import ModelError, SettingsError
from dure.gguf import Gguf
from dure_worker.settings import WorkerSettings
from dure_workshop.calibrate import text_of
from dure_workshop.progress import bar
from dure_workshop.quantize.autoround import BITS, GROUPS, largest_group, matrices, rounded_by_autoround
from dure_workshop.quantize.gguf_file import size_of, told

ITERATIONS = 200
# Options of the other method: it has no choice of kinds to make.
_OTHERS = ("target_mb", "preset", "max_ppl_loss", "importance", "plain")


def run(given: argparse.Namespace, source: Gguf, console: Console) -> dict[str, Any]:
    """Raises SettingsError, ModelUnsupported, ModelCorrupt, ModelError, EngineError."""
    out: Path = given.out
    if misplaced := [f"--{name.replace('_', '-')}" for name in _OTHERS if getattr(given, name)]:
        raise SettingsError(f"{', '.join(misplaced)} cannot go with --method autoround: leave it out, give --bits")
    if given.bits not in BITS:
        raise SettingsError(f"--method autoround needs --bits: {', '.join(map(str, BITS))}")
    if out.exists():
        raise ModelError(f"{out} is there already: choose another --out, or delete it first")
    torch.set_num_threads(WorkerSettings.read().num_threads)
    bits = int(given.bits)
    # As ark's own int2: four steps for 128 weights lose too much.
    group = given.group or (GROUPS[-1] if bits == BITS[-1] else largest_group(source))
    text = text_of(given.text)
    before = size_of(source)
    with bar(console, "반올림을 배우는 중 / Learning to round") as on_progress:
        num_tokens = rounded_by_autoround(
            source,
            out,
            bits,
            group,
            text,
            iterations=ITERATIONS if given.iterations is None else given.iterations,
            on_progress=on_progress,
        )
    return {
        **told(before, out),
        "kinds": {f"Q4_0 ({bits} bits, groups of {group})": len(matrices(source))},
        "tokens_of_text": num_tokens,
    }
