"""Which tensor gets how many bits, so that a file of a given size loses least.

A tensor's loss is the share of its output's energy that rounding turns into error, by the importance of its columns
(Σ h (w - q)² / Σ h w², h the mean square of a column's inputs), measured on a sample of its rows. Each tensor begins
with the fewest bits; then, again and again, the one gets more that gains most for its bytes. It is greedy, and treats
the shares of all tensors as equally bad: what the model as a whole loses must be measured afterwards (`evaluate`).
"""

import heapq
from dataclasses import dataclass

import numpy as np

from dure import gguf
from dure.errors import SettingsError
from dure.gguf import BLOCKS, Gguf, Tensor, TensorType
from dure_workshop.calibrate import Importance
from dure_workshop.dequantize import Floats, rounded, rows

# From few bits to many. The first fit rows of multiples of 256 weights, the second all of 32.
_WIDE = (TensorType.Q2_K, TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K, TensorType.Q8_0)
_NARROW = (TensorType.IQ4_NL, TensorType.Q5_0, TensorType.Q8_0)
# Of the vocabulary: those that `trim` and both engines read.
_WIDE_ROWS = (TensorType.Q4_K, TensorType.Q6_K, TensorType.Q8_0)
_NARROW_ROWS = (TensorType.Q4_0, TensorType.Q5_0, TensorType.Q8_0)
_SAMPLED_ROWS = 48


@dataclass(frozen=True)
class Option:
    """One kind for one tensor."""

    kind: TensorType
    num_bytes: int
    loss: float


Mixture = dict[str, Option]


def matrices(source: Gguf) -> list[Tensor]:
    """Those whose kind is chosen; the others stay as they are."""
    return [tensor for tensor in source.tensors.values() if len(tensor.shape) > 1]


def options(source: Gguf, tensor: Tensor, importance: Importance) -> list[Option]:
    """From few bits to many, each better than the one before, up to the kind that it has.

    Raises NotReadable for kinds that are not read.
    """
    worth = importance.columns.get(tensor.name, np.ones(tensor.shape[0], np.float32))
    wanted = sorted({int(row) for row in np.linspace(0, tensor.num_rows - 1, _SAMPLED_ROWS)})
    numbers = rows(source, tensor, wanted)
    energy = float((numbers.astype(np.float64) ** 2 @ worth.astype(np.float64)).sum()) or 1.0
    found: list[Option] = []
    for kind in _kinds(tensor):
        # As it is, nothing is rounded.
        loss = 0.0 if kind is tensor.type else _error(numbers, kind, worth) / energy
        if not found or loss < found[-1].loss:
            weights, size = BLOCKS[kind]
            found.append(Option(kind, tensor.num_weights // weights * size, loss))
    return found


def _kinds(tensor: Tensor) -> tuple[TensorType, ...]:
    is_wide = tensor.shape[0] % BLOCKS[TensorType.Q2_K][0] == 0
    if tensor.name in gguf.VOCABULARY:
        return _WIDE_ROWS if is_wide else _NARROW_ROWS
    return _WIDE if is_wide else _NARROW


def _error(numbers: Floats, kind: TensorType, worth: Floats) -> float:
    left = (numbers - rounded(numbers, kind, worth)).astype(np.float64)
    return float((left**2 @ worth.astype(np.float64)).sum())


def least_bytes(source: Gguf, choices: dict[str, list[Option]]) -> int:
    """Of all tensors, with the fewest bits for each that has a choice."""
    others = sum(tensor.num_bytes for name, tensor in source.tensors.items() if name not in choices)
    return others + sum(found[0].num_bytes for found in choices.values())


def mix(source: Gguf, choices: dict[str, list[Option]], most_bytes: int) -> Mixture:
    """choices: by tensor, as `options` gives them. most_bytes: of all tensors together.

    Raises SettingsError where the fewest bits are too many.
    """
    chosen = dict.fromkeys(choices, 0)
    total = least_bytes(source, choices)
    if total > most_bytes:
        raise SettingsError(
            f"{most_bytes / 1e6:.0f} MB are too few: {source.path.name} needs {total / 1e6:.0f} MB with the "
            "fewest bits; allow more, or cut its vocabulary first (`dure model trim`)"
        )
    heap: list[tuple[float, str]] = []

    def offer(name: str) -> None:
        at = chosen[name]
        if at + 1 < len(choices[name]):
            now, better = choices[name][at : at + 2]
            heapq.heappush(heap, (-(now.loss - better.loss) / (better.num_bytes - now.num_bytes), name))

    for name in choices:
        offer(name)
    while heap:
        _, name = heapq.heappop(heap)
        more = choices[name][chosen[name] + 1].num_bytes - choices[name][chosen[name]].num_bytes
        if total + more <= most_bytes:
            chosen[name] += 1
            total += more
            offer(name)
    return {name: choices[name][at] for name, at in chosen.items()}
