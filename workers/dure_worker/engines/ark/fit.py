"""Weights fitted to fewer bits or to other groups: the scale of each group is searched for, not taken from its largest.

Source: the idea of llama.cpp's make_qx_quants (ggml-quants.c): try several scales, keep the codes of the best, and then
take the scale that suits these codes best (least squares, weighted by importance).
"""

from collections.abc import Iterator

import numpy as np
import torch

from dure_worker.engines.ark.blocks import Codes, Floats

_TRIES = 16
# Of the largest weight's own scale.
_LEAST, _MOST = 0.7, 1.15
_ROWS = 1024

Fit = tuple[torch.Tensor, torch.Tensor]


def fitted(found: Codes, bits: int, group: int, importance: torch.Tensor | None = None) -> Codes:
    """Importance (k) of each input, such as its mean square. Returns codes without minima."""
    return joined([fit(piece, bits, group, importance) for piece in pieces(found)], bits)


def fitted_floats(numbers: Floats, bits: int, group: int) -> Codes:
    """Numbers (n, k)."""
    return joined([fit(torch.from_numpy(numbers), bits, group)], bits)


def pieces(found: Codes) -> Iterator[torch.Tensor]:
    """Some rows as numbers at a time: a whole matrix in floats would be four times as large as its codes."""
    for start in range(0, len(found.codes), _ROWS):
        yield torch.from_numpy(found.part(slice(start, start + _ROWS)).numbers())


def joined(found: list[Fit], bits: int) -> Codes:
    """Of the codes and scales of each piece's rows."""
    codes = np.concatenate([codes.numpy() for codes, _ in found])
    return Codes(codes, np.concatenate([scales.numpy() for _, scales in found]), None, bits)


def fit(numbers: torch.Tensor, bits: int, group: int, importance: torch.Tensor | None = None) -> Fit:
    """Numbers (n, k). Returns codes (n, k) int8 and scales (n, k / group)."""
    n, k = numbers.shape
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    weights = numbers.reshape(n, k // group, group)
    worth = torch.ones(k) if importance is None else importance
    # Large weights matter more than their input alone tells.
    worth = worth.view(1, k // group, group) * (weights.square().mean(-1, keepdim=True) + weights.square()).sqrt()
    largest = weights.gather(-1, weights.abs().argmax(-1, keepdim=True))
    # The code range reaches one further below zero: the largest weight goes there, whatever its sign.
    own = torch.where(largest == 0, torch.ones_like(largest), largest / low)
    best_gain, best_scale = torch.zeros_like(own), own
    for step in range(_TRIES):
        codes = (weights / (own * (_LEAST + (_MOST - _LEAST) * step / (_TRIES - 1)))).round_().clamp_(low, high)
        # Least squares: the scale of these codes, and how much of the squared weights it accounts for.
        weighted = worth * codes
        product, norm = (weighted * weights).sum(-1, keepdim=True), (weighted * codes).sum(-1, keepdim=True)
        gain = product.square() / norm
        is_better = gain > best_gain
        best_gain = torch.where(is_better, gain, best_gain)
        best_scale = torch.where(is_better, product / norm, best_scale)
    best_scale = best_scale.bfloat16().float()  # as it is kept
    codes = (weights / best_scale).round_().clamp_(low, high).nan_to_num_()
    return codes.view(n, k).to(torch.int8), best_scale.view(n, k // group)
