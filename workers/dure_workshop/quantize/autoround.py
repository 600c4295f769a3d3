"""AutoRound: whether a weight is rounded up or down, and how far the scales reach, is learnt layer by layer, so that
each layer's output over a text stays what it was.

Weights alone are rounded, symmetrically; vocabulary, norms and biases stay as they are. Source: Cheng et al. 2023,
"Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs"; the package auto-round computes it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dure import memory_plan
from dure.engines import ARK, TRANSFORMERS
from dure.errors import ModelError, ModelUnsupported, SettingsError
from dure.gguf import Gguf, Tensor, TensorType
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_worker.engines.hf.loading import load
from dure_workshop.convert import name_of, order_of
from dure_workshop.dequantize import Floats
from dure_workshop.gptq_checkpoint import blocks
from dure_workshop.trim.gguf_file import rewrite

BITS = (4, 3, 2)
# Those that ark multiplies fast; GGUF's blocks of 32 repeat the scale of a larger one.
GROUPS = (128, 64, 32)
# Its codes of 2 and 3 bits fit, too: GGUF has no symmetric kind with fewer bits and plain scales.
_KIND = TensorType.Q4_0
_BATCH = 8
# Both the 16 bits of a GGUF block and those of the kernels hold them.
_SCALES = "bf16"

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rounded:
    """A matrix: whole numbers (rows, columns) and their scales (rows, groups)."""

    codes: NDArray[np.int16]
    scales: Floats


def rounded_by_autoround(
    source: Gguf,
    target: Path,
    bits: int,
    group: int,
    text: str,
    *,
    iterations: int = 200,
    num_samples: int = 128,
    length: int = 256,
    seed: int = 0,
    on_progress: OnProgress = lambda done, total: None,
) -> int:
    """The same file with its layers' matrices rounded; in one step.

    bits           of a weight: one of BITS
    group          of weights that share a scale: one of GROUPS, of which every matrix has a whole number in a row
    text           whose outputs shall stay: num_samples pieces of `length` tokens, evenly over it, as far as it goes
    iterations     for each layer, of 8 pieces each
    on_progress    (layers done, of all)

    Returns how many tokens it was. Raises SettingsError, ModelUnsupported, ModelCorrupt, ModelError, EngineError; then
    nothing is left.
    """
    _check(source, bits, group)
    if iterations < 1:
        raise SettingsError(f"AutoRound learns in iterations, of which {iterations} are none: allow at least 1")
    pieces = _pieces(source, text, num_samples, length)
    found = _rounded(source, bits, group, pieces, iterations, seed, on_progress)
    rewrite(source, target, dict.fromkeys(found, _KIND), lambda tensor: [_blocks(found[tensor.name])])
    return pieces.numel()


def matrices(source: Gguf) -> list[Tensor]:
    """Those that are rounded."""
    return [each for name, each in source.tensors.items() if len(each.shape) > 1 and name.startswith("blk.")]


def largest_group(source: Gguf) -> int:
    """Of GROUPS, of which every matrix has a whole number in a row. Raises ModelUnsupported."""
    for group in GROUPS:
        if all(each.shape[0] % group == 0 for each in matrices(source)):
            return group
    raise ModelUnsupported(f"{source.path.name}: rows of its matrices are no multiples of {GROUPS[-1]}: {_OTHERS}")


_OTHERS = "take --method importance, which knows more models"


def _check(source: Gguf, bits: int, group: int) -> None:
    if bits not in BITS:
        raise SettingsError(f"AutoRound makes weights of {', '.join(map(str, BITS))} bits here, not of {bits}")
    if group not in GROUPS:
        raise SettingsError(f"AutoRound makes groups of {', '.join(map(str, GROUPS))} weights here, not of {group}")
    known = ARK & TRANSFORMERS
    if source.architecture not in known:
        raise ModelUnsupported(
            f"{source.path.name} is {source.architecture or '(no architecture)'}; AutoRound is there for "
            f"{', '.join(sorted(known))}: {_OTHERS}"
        )
    for tensor in matrices(source):
        if tensor.shape[0] % group:
            raise SettingsError(
                f"{tensor.name} has rows of {tensor.shape[0]} weights, no multiple of {group}: take groups of "
                f"{largest_group(source)}"
            )


def _pieces(source: Gguf, text: str, num_samples: int, length: int) -> torch.Tensor:
    """(pieces, length)"""
    ids = ChatTokenizer(source).plain(text)
    there = len(ids) // length
    number = min(num_samples, there)
    if number < 1:
        raise SettingsError(f"the text has {len(ids)} tokens, and a piece of it {length}: give more of it")
    return torch.tensor(ids[: there * length]).view(there, length)[[at * there // number for at in range(number)]]


def _rounded(
    source: Gguf, bits: int, group: int, pieces: torch.Tensor, iterations: int, seed: int, on_progress: OnProgress
) -> dict[str, Rounded]:
    """By the file's names of tensors, in its order of rows."""
    auto_round, config, orchestrator = _package()
    loaded = load(source.path, "bf16")
    with _told(orchestrator, on_progress):
        model, _ = auto_round(
            loaded.model,
            loaded.tokenizer,
            alg_configs=config(iters=iterations, bits=bits, group_size=group, sym=True),
            # Pieces instead of a name: otherwise it would fetch a text.
            dataset=[pieces[at : at + _BATCH] for at in range(0, len(pieces), _BATCH)],
            seqlen=pieces.shape[1],
            nsamples=len(pieces),
            batch_size=min(_BATCH, len(pieces)),
            device_map="cuda" if torch.cuda.is_available() else "cpu",
            enable_torch_compile=False,
            seed=seed,
            scale_dtype=_SCALES,
        ).quantize()
    shape = memory_plan.of_gguf(source)[1]
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "scale"):
            place = name_of(f"{name}.weight", source.path) or name
            found[place] = _taken(place, module, bits, order_of(place, source.architecture, shape))
    if missing := {each.name for each in matrices(source)} ^ found.keys():
        raise ModelUnsupported(f"{source.path.name}: AutoRound does not round {min(missing)}: {_OTHERS}")
    return found


def _package() -> tuple[Any, Any, Any]:
    """AutoRound, SignRoundConfig, and the module that shows the progress."""
    try:
        from auto_round import AutoRound  # noqa: PLC0415 - of all that the workshop does only this needs it
        from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig  # noqa: PLC0415
        from auto_round.compressors import orchestrator  # noqa: PLC0415
    except ImportError:
        raise SettingsError("--method autoround needs one more package: pip install 'dure[workshop]'") from None
    # It says how its options are better given, and how much memory it uses.
    logging.getLogger("autoround").setLevel(logging.ERROR)
    return AutoRound, SignRoundConfig, orchestrator


@contextmanager
def _told(orchestrator: Any, on_progress: OnProgress) -> Iterator[None]:
    """AutoRound tells how far it is by a bar of tqdm alone, on the terminal."""
    shown = orchestrator.tqdm
    orchestrator.tqdm = lambda layers: _Bar(len(layers), on_progress)
    try:
        yield
    finally:
        orchestrator.tqdm = shown


class _Bar:
    """What AutoRound wants of tqdm."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self._total, self._on_progress, self._done = total, on_progress, 0

    def update(self, number: int) -> None:
        self._done += number
        self._on_progress(self._done, self._total)

    def set_description(self, text: str) -> None:
        """Nothing: which layer it is can be seen."""

    def close(self) -> None:
        """Nothing is open."""


def _taken(name: str, module: Any, bits: int, order: list[int] | None) -> Rounded:
    """The module's weight is codes times scales, rounded to 16 bits: less than a tenth of a step."""
    scales = module.scale.float().cpu()
    weight = module.weight.detach().float().cpu()
    codes = (weight.view(*scales.shape, -1) / scales[:, :, None]).round().view_as(weight)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    # NaN is not within either.
    if not bool(((codes >= low) & (codes <= high)).all()) or not torch.equal(scales.half().float(), scales):
        raise ModelError(f"{name}: AutoRound found no numbers for it: take fewer iterations, or more text")
    whole, steps = codes.to(torch.int16).numpy(), scales.numpy()
    return Rounded(whole, steps) if order is None else Rounded(whole[order], steps[order])


def _blocks(found: Rounded) -> bytes:
    return blocks(found.codes, found.scales, _KIND)
