"""Weights made zero, in a file as large as before: what sparsity costs, for it gains nothing here.

No engine of this release skips zeros: they take the memory and the time of other weights. Source: Wanda (Sun et al.,
2023): of each output the weights go whose |w| · √(mean square of the input) is least; or, 2:4, two of each four inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dure.errors import SettingsError
from dure.gguf import Gguf, Tensor, TensorType
from dure_worker.engines.ark.blocks import FLOATS
from dure_workshop.calibrate import Importance
from dure_workshop.dequantize import Floats, quantize, read_by_runtime
from dure_workshop.prune.structure import numbers, pieces, place
from dure_workshop.trim.gguf_file import rewrite

# Kinds in whose blocks zero is a code, so that it stays zero. Others are written as the last one.
_HOLD_ZEROS = FLOATS | {TensorType.Q4_0, TensorType.Q5_0, TensorType.Q6_K, TensorType.Q8_0}
_ROUNDED = TensorType.Q8_0
_OF_FOUR, _GO = 4, 2


@dataclass(frozen=True)
class Pattern:
    """share: of each row's weights that go, those of least worth. None: two of each four."""

    share: float | None

    @classmethod
    def read(cls, text: str) -> "Pattern":
        """`2:4`, or a share. Raises SettingsError."""
        if text == "2:4":
            return cls(None)
        try:
            share = float(text)
        except ValueError:
            share = 0
        if not 0 < share < 1:
            raise SettingsError(f"--wanda {text}: say 2:4, or a share between 0 and 1 such as 0.5")
        return cls(share)

    def zeroed(self, found: Floats, column_worth: Floats) -> Floats:
        """Of rows of numbers those that stay, zeros for the others. column_worth: mean square of each input."""
        worth = np.abs(found) * np.sqrt(column_worth)
        grouped = worth if self.share is not None else worth.reshape(len(worth), -1, _OF_FOUR)
        num_gone = _GO if self.share is None else int(self.share * found.shape[1])
        gone = np.argsort(grouped, axis=-1, kind="stable")[..., :num_gone]
        is_kept = np.ones(grouped.shape, bool)
        np.put_along_axis(is_kept, gone, False, axis=-1)  # noqa: FBT003
        return np.where(is_kept.reshape(found.shape), found, np.float32(0))


@dataclass
class Zeros:
    """Of the matrices that were masked, as the file has them."""

    num_weights: int = 0
    num_zeros: int = 0


def masked(
    source: Gguf,
    target: Path,
    importance: Importance,
    pattern: Pattern,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Zeros:
    """Write it in one step. on_progress(bytes written, of all). Raises NotReadable, ModelError; then nothing is left.

    The layers' matrices are masked, the vocabulary is not.
    """
    names = {name for name in importance.columns if place(name)[0] is not None}
    kinds = {name: kind if (kind := source.tensors[name].type) in _HOLD_ZEROS else _ROUNDED for name in names}
    zeros = Zeros()

    def new(tensor: Tensor) -> Iterator[bytes]:
        old = source.tensors[tensor.name]
        return _masked(source, old, tensor.type, importance.columns[tensor.name], pattern, zeros)

    rewrite(source, target, kinds, new, on_progress)
    return zeros


def _masked(
    source: Gguf, old: Tensor, kind: TensorType, column_worth: Floats, pattern: Pattern, zeros: Zeros
) -> Iterator[bytes]:
    for wanted in pieces(old):
        kept = pattern.zeroed(numbers(source, old, wanted), column_worth)
        raw = quantize(kept, kind)
        left = kept if kind in FLOATS else read_by_runtime(raw, kind, old.shape[0])
        zeros.num_weights += left.size
        zeros.num_zeros += int((left == 0).sum())
        yield raw
