"""`python -m dure_workshop calibrate|quantize`: what goes in, a progress bar, and what came out."""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dure import artifact, gguf, model_names
from dure.errors import ModelError, SettingsError
from dure.gguf import Gguf
from dure.settings import Settings
from dure_worker.engines.ark import calibration
from dure_worker.settings import WorkerSettings
from dure_workshop.calibrate import Importance, calibrate
from dure_workshop.quantize.gguf_file import requantized, size_of
from dure_workshop.quantize.mixture import Mixture, matrices, mix, options
from dure_workshop.texts import read_text

# Bits a weight over all tensors. 2bit: Q2_K's own 2.625, and what vocabulary and the most sensitive tensors need more.
PRESETS = {"2bit": 2.9}


def run_calibrate(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Raises SettingsError, ModelError, EngineError."""
    source = opened(options.model, settings)
    found = _calibrated(source, options.text, options.out, console)
    return {"out": str(options.out), "tensors": len(found.columns), "num_tokens": found.num_tokens}


def run_quantize(given: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Raises SettingsError, ModelError, EngineError."""
    source, out = opened(given.model, settings), given.out
    before = size_of(source)
    most_bytes = _most_bytes(given, before.num_weights)
    if out.exists():
        raise ModelError(f"{out} is there already: choose another --out, or delete it first")
    if given.importance is not None:
        importance = Importance.read(given.importance, source)
    else:
        importance = _calibrated(source, given.text, out.with_suffix(".importance.safetensors"), console)
    wanted = matrices(source)
    with _bar(console, "비트를 재는 중 / Measuring what bits cost") as on_progress:
        choices = {}
        for done, tensor in enumerate(wanted):
            choices[tensor.name] = options(source, tensor, importance)
            on_progress(done + 1, len(wanted))
    mixture = mix(source, choices, most_bytes)
    with _bar(console, "양자화하는 중 / Quantizing") as on_progress:
        requantized(source, out, mixture, importance, WorkerSettings.read().num_threads, on_progress)
    after = size_of(gguf.read(out))
    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "num_weights": after.num_weights,
        "bits_per_weight": [round(before.bits_per_weight, 4), round(after.bits_per_weight, 4)],
        "kinds": _kinds(mixture),
        "mean_loss": sum(option.loss for option in mixture.values()) / len(mixture),
        "tokens_of_importance": importance.num_tokens,
    }


def opened(name: str, settings: Settings) -> Gguf:
    """A listed model or a file. Raises ModelUnknown, ModelMissing, ModelCorrupt."""
    path = model_names.weights_of(name, settings.models_dir)
    return gguf.read(path / artifact.WEIGHTS if path.is_dir() else path)


def _most_bytes(given: argparse.Namespace, num_weights: int) -> int:
    """Of all tensors."""
    targets = [given.target_mb is not None, given.bits is not None, given.preset is not None]
    if sum(targets) != 1:
        raise SettingsError("say once how small it shall be: --target-mb, --bits or --preset")
    if given.target_mb is not None:
        return int(given.target_mb * 1e6)
    return int(num_weights * (PRESETS[given.preset] if given.preset else given.bits) / 8)


def _calibrated(source: Gguf, paths: list[Path], out: Path, console: Console) -> Importance:
    text = "\n".join(map(read_text, paths)) or calibration.TEXT.read_text("utf-8")
    torch.set_num_threads(WorkerSettings.read().num_threads)
    with _bar(console, "중요도를 재는 중 / Calibrating") as on_progress:
        found = calibrate(source, text, on_progress)
    found.write(out, source, text)
    return found


def _kinds(mixture: Mixture) -> dict[str, int]:
    """How many tensors of each."""
    return dict(Counter(option.kind.name for option in mixture.values()).most_common())


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
