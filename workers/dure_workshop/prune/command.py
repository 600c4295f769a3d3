"""`python -m dure_workshop prune`: what is to go, a progress bar, and what went."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import TaskProgressColumn

from dure.errors import ModelError, SettingsError
from dure.gguf import Gguf
from dure.settings import Settings
from dure_worker.settings import WorkerSettings
from dure_workshop.calibrate import Importance, calibrate, text_of
from dure_workshop.commands import opened
from dure_workshop.progress import bars
from dure_workshop.prune.masks import Pattern, masked
from dure_workshop.prune.plan import Wanted
from dure_workshop.prune.pruning import OnStep, Order, prune
from dure_workshop.prune.workplace import workplace

LANGUAGES = {"english", "korean"}
# What --wanda says of its file.
NO_GAIN = "zeros gain nothing here: every engine reads and multiplies them like other weights; MB and tokens/s stay"


def run(given: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Returns what went by vocabulary, depth and width, and what it cost.

    Raises SettingsError, ModelError, EngineError.
    """
    source, out = opened(given.model, settings), given.out
    if out.exists():
        raise ModelError(f"{out} is there already: choose another --out, or delete it first")
    torch.set_num_threads(WorkerSettings.read().num_threads)
    text = text_of(given.text)
    with bars(console, TaskProgressColumn()) as on_step:
        return _masked(source, out, given, text, on_step) if given.wanda else _pruned(source, out, given, text, on_step)


def _pruned(source: Gguf, out: Path, given: argparse.Namespace, text: str, on_step: OnStep) -> dict[str, Any]:
    wanted = Wanted(given.layers, given.ffn, given.heads)
    judge = text_of([])
    order = Order(wanted, given.ratio, given.original_params, given.vocab, LANGUAGES, text, judge)
    status = source.path.stat()
    about = {
        "source": [str(source.path.resolve()), status.st_size, status.st_mtime_ns],
        "vocab": given.vocab,
        "texts": [hashlib.sha256(each.encode()).hexdigest() for each in (text, judge)],
    }
    with workplace(out, about) as place:
        return prune(source, out, order, place, on_step)


def _masked(source: Gguf, out: Path, given: argparse.Namespace, text: str, on_step: OnStep) -> dict[str, Any]:
    if any(each is not None for each in (given.ratio, given.layers, given.ffn, given.heads, given.original_params)):
        raise SettingsError("--wanda makes weights zero and leaves none out: say it without --ratio, --layers, --ffn …")
    pattern = Pattern.read(given.wanda)
    importance: Importance = calibrate(
        source, text, lambda *done: on_step("중요도를 재는 중 / Measuring what counts", *done)
    )
    zeros = masked(source, out, importance, pattern, lambda *done: on_step("쓰는 중 / Writing", *done))
    return {
        "out": str(out),
        "bytes": [source.path.stat().st_size, out.stat().st_size],
        "pattern": given.wanda,
        "num_weights": zeros.num_weights,
        "num_zeros": zeros.num_zeros,
        "gain": NO_GAIN,
        "tokens_of_importance": importance.num_tokens,
    }
