"""`python -m dure_workshop calibrate|quantize`: what goes in, a progress bar, and what came out."""

import argparse
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dure import artifact, gguf, model_names
from dure.errors import ModelError, SettingsError
from dure.gguf import Gguf
from dure.settings import Settings
from dure_worker.settings import WorkerSettings
from dure_workshop.calibrate import Importance, calibrate, text_of
from dure_workshop.perplexity import perplexity
from dure_workshop.progress import bar
from dure_workshop.quantize import autoround_command
from dure_workshop.quantize.gguf_file import compensated, requantized, size_of, told
from dure_workshop.quantize.mixture import Mixture, Option, least_bytes, matrices, mix, options
from dure_workshop.quantize.target import Tries, Try, smallest
from dure_workshop.texts import own

# Bits a weight over all tensors. 2bit: Q2_K's own 2.625, and what vocabulary and the most sensitive tensors need more.
PRESETS = {"2bit": 2.9}


def run_calibrate(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Raises SettingsError, ModelError, EngineError."""
    source = opened(options.model, settings)
    torch.set_num_threads(WorkerSettings.read().num_threads)
    found = _calibrated(source, options.text, options.out, console)
    return {"out": str(options.out), "tensors": len(found.columns), "num_tokens": found.num_tokens}


def run_quantize(given: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Raises SettingsError, ModelError, EngineError."""
    source, out = opened(given.model, settings), given.out
    if given.method == "importance" and (given.iterations is not None or given.group is not None):
        raise SettingsError("--iterations and --group are of --method autoround: say that, or leave them out")
    if given.method == "autoround":
        return autoround_command.run(given, source, console)
    before = size_of(source)
    most_bytes = _most_bytes(given, before.num_weights)
    if out.exists():
        raise ModelError(f"{out} is there already: choose another --out, or delete it first")
    torch.set_num_threads(WorkerSettings.read().num_threads)
    if given.importance is not None:
        importance = Importance.read(given.importance, source)
    else:
        importance = _calibrated(source, given.text, out.with_suffix(".importance.safetensors"), console)
    wanted = matrices(source)
    with bar(console, "비트를 재는 중 / Measuring what bits cost") as on_progress:
        choices = {}
        for done, tensor in enumerate(wanted):
            choices[tensor.name] = options(source, tensor, importance)
            on_progress(done + 1, len(wanted))
    rounding = _Rounding(source, choices, importance, None if given.plain else text_of(given.text), console)
    tries: list[Try] = []
    if most_bytes is None:
        most_bytes, tries = _searched(rounding, given.max_ppl_loss, out, console)
    else:
        rounding.write(out, most_bytes)
    mixture = mix(source, choices, most_bytes)
    return {
        **told(before, out),
        "kinds": _kinds(mixture),
        "mean_loss": sum(option.loss for option in mixture.values()) / len(mixture),
        "tokens_of_importance": importance.num_tokens,
        "tries": [asdict(each) for each in sorted(tries, key=lambda each: each.most_bytes)],
    }


@dataclass(frozen=True)
class _Rounding:
    """text: for which errors are compensated; None: each weight is rounded for itself."""

    source: Gguf
    choices: dict[str, list[Option]]
    importance: Importance
    text: str | None
    console: Console

    def write(self, out: Path, most_bytes: int) -> None:
        mixture = mix(self.source, self.choices, most_bytes)
        given = self.source, out, mixture, self.importance
        threads = WorkerSettings.read().num_threads
        with bar(self.console, "양자화하는 중 / Quantizing") as on_progress:
            if self.text is None:
                requantized(*given, threads, on_progress)
            else:
                compensated(*given, self.text, threads, on_progress)

    @property
    def identity(self) -> dict[str, Any]:
        """What a file depends on beside its bytes."""
        status = self.source.path.stat()
        digest = hashlib.sha256((self.text or "").encode())
        for name in sorted(self.importance.columns):
            digest.update(self.importance.columns[name].tobytes())
        return {
            "source_bytes": status.st_size, "source_mtime_ns": status.st_mtime_ns,
            "is_compensated": self.text is not None, "inputs_sha256": digest.hexdigest(),
        }  # fmt: skip


def _searched(rounding: _Rounding, most_loss: float, out: Path, console: Console) -> tuple[int, list[Try]]:
    """The bytes allowed for the smallest file that keeps the limit, and what was tried. The best so far lies beside it.

    Perplexity is that of the own Korean text, on which nothing is calibrated.
    """
    source, threads = rounding.source, WorkerSettings.read().num_threads
    best, candidate = out.with_suffix(".best.gguf"), out.with_suffix(".try.gguf")
    held_out = own("korean")

    def perplexity_of(path: Path) -> float:
        with bar(console, "혼란도를 재는 중 / Perplexity") as on_progress:
            return perplexity(path, held_out, on_progress, threads).per_token

    tries = Tries(out.with_suffix(".tries.json"), rounding.identity)
    of_source = perplexity_of(source.path)

    def measure(most_bytes: int) -> float:
        rounding.write(candidate, most_bytes)
        found = perplexity_of(candidate) / of_source
        if found <= most_loss:
            candidate.replace(best)
        candidate.unlink(missing_ok=True)
        return found

    def tell(found: Try) -> None:
        console.print(f"{found.most_bytes / 1e6:,.0f} MB: {found.loss:.3f} × ({most_loss:g} ×)")

    least = least_bytes(source, rounding.choices)
    found = smallest(least, size_of(source).num_bytes, most_loss, measure, tries, tell)
    if not best.exists() or size_of(gguf.read(best)).num_bytes > found.most_bytes:
        # Its search was stopped between a measure and its record, or somebody has deleted it.
        rounding.write(best, found.most_bytes)
    best.replace(out)
    return found.most_bytes, tries.all


def opened(name: str, settings: Settings) -> Gguf:
    """A listed model or a file. Raises ModelUnknown, ModelMissing, ModelCorrupt."""
    path = model_names.weights_of(name, settings.models_dir)
    return gguf.read(path / artifact.WEIGHTS if path.is_dir() else path)


def _most_bytes(given: argparse.Namespace, num_weights: int) -> int | None:
    """Of all tensors; None where what it may lose decides."""
    targets = (given.target_mb, given.bits, given.preset, given.max_ppl_loss)
    if sum(target is not None for target in targets) != 1:
        raise SettingsError(
            "say once how small it shall be: --target-mb, --bits or --preset; or what it may lose: --max-ppl-loss"
        )
    if given.max_ppl_loss is not None:
        return None
    if given.target_mb is not None:
        return int(given.target_mb * 1e6)
    return int(num_weights * (PRESETS[given.preset] if given.preset else given.bits) / 8)


def _calibrated(source: Gguf, paths: list[Path], out: Path, console: Console) -> Importance:
    text = text_of(paths)
    with bar(console, "중요도를 재는 중 / Calibrating") as on_progress:
        found = calibrate(source, text, on_progress)
    found.write(out, source, text)
    return found


def _kinds(mixture: Mixture) -> dict[str, int]:
    """How many tensors of each."""
    return dict(Counter(option.kind.name for option in mixture.values()).most_common())
