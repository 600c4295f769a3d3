"""Weights rounded column by column on the grids of K blocks: what rounding one column does to the output is undone in
the next.

The runtime's own quantizer chooses a block's steps and minima for the weights as they are corrected so far; codes are
then rounded one column after the other, and the block's two 16-bit numbers are fitted to what came of it.

Source: Frantar et al., GPTQ (2022), in the form of Chee et al., QuIP (2023), which needs one factor and no inverse:
H = (A + 1) D (A + 1)ᵀ with A strictly upper triangular, column k is rounded as W_k + (W - Q) A_k, and the loss is that
of (W_k + (W - Q) A_k - Q_k)² D_k.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from dure.gguf import TensorType
from dure_worker.engines.ark.blocks import Bytes
from dure_workshop.dequantize import Floats, quantize
from dure_workshop.quantize.k_blocks import WEIGHTS, KBlocks

# Of the mean of the diagonal: inputs that hardly vary must not decide anything.
_DAMPING = 0.03
_LEAST = 1e-8  # where all inputs are zero
# The inputs of one matrix are taken as independent of each other beyond so many columns: some thousand tokens do not
# tell how more of them hang together, and the work grows with the cube.
MOST_COLUMNS = 2048
_RIDGE, _TINY = 1e-6, 1e-30
_MOST_HALF = float(np.finfo(np.float16).max)
# Columns that are rounded one by one before the others are corrected: what they need stays in the caches.
_COLUMNS = 32
# Rounding, then fitting the block's numbers to it; once more gains next to nothing.
_TURNS = 1


class Inputs:
    """The products xᵀx of a matrix's inputs, summed as they come.

    num_columns    a multiple of 256
    most_columns   beyond so many, columns are taken as independent of each other, in parts of like length
    """

    def __init__(self, num_columns: int, most_columns: int = MOST_COLUMNS) -> None:
        num_parts = -(-num_columns // most_columns)
        width = -(-num_columns // WEIGHTS // num_parts) * WEIGHTS
        bounds = [*range(0, num_columns, width), num_columns]
        self._parts = [slice(start, end) for start, end in pairwise(bounds)]
        self._products = [torch.zeros(part.stop - part.start, part.stop - part.start) for part in self._parts]
        self._num_rows = 0

    def add(self, x: torch.Tensor) -> None:
        """X (rows, k) float32."""
        self._num_rows += len(x)
        for part, products in zip(self._parts, self._products, strict=True):
            products.addmm_(x[:, part].T, x[:, part])

    def order(self, damping: float = _DAMPING) -> "Order":
        """Uses the products up. damping: of the mean of the diagonal."""
        parts = [
            _part(part, products.div_(max(1, self._num_rows)), damping)
            for part, products in zip(self._parts, self._products, strict=True)
        ]
        self._products = []
        return Order(parts)


@dataclass(frozen=True)
class Part:
    """Columns that make good for each other.

    feedback       (k, k): A + 1
    worth          (k): D, of an error that later columns cannot undo
    mean_square    (k): of the inputs
    """

    columns: slice
    feedback: torch.Tensor
    worth: torch.Tensor
    mean_square: torch.Tensor


def _part(columns: slice, products: torch.Tensor, damping: float) -> Part:
    diagonal = products.diagonal()
    mean_square = diagonal.clone()
    diagonal += damping * diagonal.mean() + _LEAST
    # Upper times its transpose: the Cholesky factor with the order of columns turned round.
    factor = torch.linalg.cholesky(products.flip(0, 1)).flip(0, 1)
    scale = factor.diagonal().clone()
    return Part(columns, factor.div_(scale), scale.square(), mean_square)


@dataclass(frozen=True)
class Order:
    """Of all columns."""

    parts: list[Part]

    @property
    def mean_square(self) -> torch.Tensor:
        return torch.cat([part.mean_square for part in self.parts])


def loss(left: torch.Tensor, order: Order) -> float:
    """What an error left (n, k) of the weights adds to the square of the output, a row of inputs, damping included."""
    return sum(
        (float(((left[:, part.columns] @ part.feedback).square() @ part.worth).sum()) for part in order.parts), 0.0
    )


def compensated(weights: torch.Tensor, kind: TensorType, order: Order, pool: ThreadPoolExecutor) -> bytes:
    """Weights (n, k) float32 as rows of a kind of `k_blocks.KINDS`; k a multiple of 256."""
    blocks = [raw for part in order.parts for raw in _of_part(weights[:, part.columns], kind, part, pool)]
    return np.stack(blocks, 1).tobytes()


def _of_part(weights: torch.Tensor, kind: TensorType, part: Part, pool: ThreadPoolExecutor) -> Iterator[Bytes]:
    """(n, bytes of a block), block by block of a row."""
    left = torch.empty_like(weights)
    for first in range(0, weights.shape[1], WEIGHTS):
        here = slice(first, first + WEIGHTS)
        own = part.feedback[here, here]
        # What would undo all of it so far, were these columns not to be rounded: their grid is chosen for that.
        undone = left[:, :first] @ part.feedback[:first, here]
        wanted = weights[:, here] + torch.linalg.solve_triangular(own, undone, upper=True, left=False)
        blocks = _blocks(wanted, kind, own, part.worth[here], pool)
        left[:, here] = weights[:, here] - torch.from_numpy(blocks.numbers())
        yield blocks.raw


def _blocks(
    wanted: torch.Tensor, kind: TensorType, feedback: torch.Tensor, worth: torch.Tensor, pool: ThreadPoolExecutor
) -> KBlocks:
    """The same block of all rows. wanted (n, 256)"""
    blocks = KBlocks.of(_quantized(wanted, kind, worth.numpy(), pool), kind)
    for _ in range(_TURNS):
        blocks = _fitted(wanted, blocks.with_codes(_rounded(wanted, blocks, feedback)), feedback, worth)
    return blocks.with_codes(_rounded(wanted, blocks, feedback))


def _quantized(wanted: torch.Tensor, kind: TensorType, worth: Floats, pool: ThreadPoolExecutor) -> bytes:
    pieces = np.array_split(wanted.numpy(), max(1, min(len(wanted), 8)))
    return b"".join(pool.map(lambda piece: quantize(piece, kind, worth), pieces))


def _rounded(wanted: torch.Tensor, blocks: KBlocks, feedback: torch.Tensor) -> NDArray[np.int8]:
    """Codes (n, 256) int8."""
    of_steps, of_minima = blocks.grid
    steps = torch.from_numpy(of_steps).T.contiguous()
    minima = torch.zeros_like(steps) if of_minima is None else torch.from_numpy(of_minima).T.contiguous()
    group = WEIGHTS // len(steps)
    inverse = torch.where(steps == 0, 0, 1 / steps)
    target = wanted.T.contiguous()
    codes, left = torch.empty_like(target), torch.empty_like(target)
    for first in range(0, WEIGHTS, _COLUMNS):
        here = slice(first, first + _COLUMNS)
        rest = target[here] + feedback[:first, here].T @ left[:first]
        own = feedback[here, here]
        for at in range(_COLUMNS):
            column = first + at
            number = column // group
            found = codes[column]
            torch.add(rest[at], minima[number], out=found).mul_(inverse[number]).round_().clamp_(
                blocks.low, blocks.high
            )
            torch.sub(target[column] + minima[number], found * steps[number], out=left[column])
            if at + 1 < _COLUMNS:
                rest[at + 1 :].addr_(own[at, at + 1 :], left[column])
    return codes.T.to(torch.int8).numpy()


def _fitted(wanted: torch.Tensor, blocks: KBlocks, feedback: torch.Tensor, worth: torch.Tensor) -> KBlocks:
    """The block's own numbers by least squares under the loss of this block, codes kept."""
    root = feedback * worth.sqrt()
    bases = torch.stack([torch.from_numpy(each) @ root for each in blocks.bases], 1).double()
    own = torch.from_numpy(np.concatenate(blocks.own, 1)).double()
    left = (wanted @ root).double() - (own[:, None] @ bases)[:, 0]
    products = bases @ bases.mT
    # Where codes or small factors say nothing, what the quantizer chose stays.
    diagonal = products.diagonal(dim1=1, dim2=2)
    diagonal += _RIDGE * diagonal.clone() + _TINY
    change = torch.linalg.solve(products, bases @ left[:, :, None])[:, :, 0]
    found = (own + change).clamp_(-_MOST_HALF, _MOST_HALF).float().numpy()
    return blocks.with_own(*np.split(found, found.shape[1], axis=1))
