"""Weights fitted to fewer bits, column by column: what rounding one column does to the output is undone in the next.

Source: Frantar et al., GPTQ (2022), with the columns in their own order; scales by the search of `fit`.
"""

import torch

from dure_worker.engines.ark.blocks import Codes
from dure_worker.engines.ark.fit import fit, joined, pieces

# Of the mean of the diagonal: inputs that hardly vary must not decide anything.
_DAMPING = 0.01
_LEAST = 1e-8  # where all inputs are zero
# The inputs of one matrix are taken as independent of each other beyond so many columns: the work grows with the cube.
_MOST_COLUMNS = 1536


class Inputs:
    """What is known of the inputs of a matrix.

    mean_square    (k)
    blocks         first column, and factor of the inverse of the inputs' products, of each block of columns; none where
                   only the importance of each input alone is wanted
    """

    def __init__(self, x: torch.Tensor, group: int, *, is_alone: bool = False) -> None:
        """X (rows, k) float32."""
        self.mean_square = x.square().mean(0)
        k = x.shape[1]
        num_blocks = -(-k // _MOST_COLUMNS)
        width = -(-(k // group) // num_blocks) * group
        starts = () if is_alone else range(0, k, width)
        self.blocks = [(start, _factor(x[:, start : start + width])) for start in starts]


def _factor(x: torch.Tensor) -> torch.Tensor:
    """The upper factor U of the inverse of xᵀx = (UᵀU)⁻¹."""
    products = x.T @ x
    diagonal = products.diagonal()
    diagonal += _DAMPING * diagonal.mean() + _LEAST
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def compensated(found: Codes, bits: int, group: int, inputs: Inputs) -> Codes:
    """Codes without minima."""
    return joined([_compensated(piece, bits, group, inputs) for piece in pieces(found)], bits)


def _compensated(weights: torch.Tensor, bits: int, group: int, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Of rows (n, k). Returns codes (n, k) int8 and scales (n, k / group)."""
    codes, scales = torch.empty_like(weights, dtype=torch.int8), []
    for start, factor in inputs.blocks:
        rest = weights[:, start : start + len(factor)].clone()
        for first in range(0, len(factor), group):
            here = slice(first, first + group)
            worth = inputs.mean_square[start + first : start + first + group]
            scale = fit(rest[:, here], bits, group, worth)[1]
            found, errors = _group(rest[:, here], scale, factor[here, here], bits)
            codes[:, start + first : start + first + group] = found
            scales.append(scale)
            rest[:, first + group :] -= errors @ factor[here, first + group :]
    return codes, torch.cat(scales, 1)


def _group(
    weights: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of the columns of one group, and each column's error, by which later columns are corrected."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    rest = weights.T.contiguous()
    codes, errors = torch.empty_like(rest), torch.empty_like(rest)
    scale = scale[:, 0]
    for column in range(len(rest)):
        codes[column] = (rest[column] / scale).round_().clamp_(low, high)
        errors[column] = (rest[column] - codes[column] * scale) / factor[column, column]
        rest[column + 1 :] -= factor[column, column + 1 :, None] * errors[column]
    return codes.T.to(torch.int8), errors.T.contiguous()
