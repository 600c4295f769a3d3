"""A matrix whose codes stay as they were quantized and whose scales learn.

Source: the end-to-end stage of EfficientQAT (Chen et al. 2024, arXiv:2407.11062). Weights are made of codes and scales
for each product and forgotten at once, in the backward pass as well: what is kept of a weight is one byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from dure_workshop.dequantize import Floats
from dure_workshop.training.blocks import Blocks, Integers

# Weights that are float32 at a time: 2 MB, which a core's cache holds.
_PIECE_WEIGHTS = 1 << 19


class ScaledLinear(torch.nn.Module):
    """In place of torch.nn.Linear: x W' + bias, with W = scale * multiplier * code - minimum * offset.

    Parameters are the changes of scales and minima in shares of what these were: float32, 0 at first, so that one rate
    fits all. Codes lie column by column: a group's scales are then a row that multiplies some rows, which is fast.

    dtype    of weights and products, where no autocast says another
    """

    codes: torch.Tensor
    multipliers: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor | None
    minima: torch.Tensor | None

    def __init__(self, blocks: Blocks, bias: torch.nn.Parameter | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = blocks.codes.shape
        self.dtype = dtype
        self.bias = bias
        for name in ("codes", "multipliers", "offsets", "scales", "minima"):
            self.register_buffer(name, _by_column(getattr(blocks, name)), persistent=False)
        self.scale_change = torch.nn.Parameter(torch.zeros_like(self.scales))
        self.minimum_change = None if self.minima is None else torch.nn.Parameter(torch.zeros_like(self.minima))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (..., in_features)"""
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype
        flat = states.to(dtype).reshape(-1, self.in_features)
        found: torch.Tensor = _Product.apply(
            flat, self._grown_scales(), self._grown_minima(), self.codes, self.multipliers, self.offsets
        )  # type: ignore[no-untyped-call]
        found = found.reshape(*states.shape[:-1], self.out_features)
        return found if self.bias is None else found + self.bias.to(dtype)

    @torch.no_grad()
    def weight(self) -> torch.Tensor:
        """(out_features, in_features) float32"""
        return self._numbers().of(torch.float32).T

    @torch.no_grad()
    def grown(self) -> tuple[Floats, Floats | None]:
        """Scales and minima as they are now, (out_features, in_features / block) each."""
        minima = self._grown_minima()
        return self._grown_scales().T.cpu().numpy(), None if minima is None else minima.T.cpu().numpy()

    def _grown_scales(self) -> torch.Tensor:
        return self.scales * (1 + self.scale_change)

    def _grown_minima(self) -> torch.Tensor | None:
        return None if self.minima is None or self.minimum_change is None else self.minima * (1 + self.minimum_change)

    def _numbers(self) -> "_Numbers":
        return _Numbers(self.codes, self.multipliers, self.offsets, self._grown_scales(), self._grown_minima())


@dataclass(frozen=True)
class _Numbers:
    """A matrix, column by column: codes (columns, rows), scales (columns / block, rows), the others by group."""

    codes: torch.Tensor
    multipliers: torch.Tensor
    offsets: torch.Tensor | None
    scales: torch.Tensor
    minima: torch.Tensor | None

    def of(self, dtype: torch.dtype) -> torch.Tensor:
        """(columns, rows)"""
        found = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        scratch: torch.Tensor | None = None
        for blocks, groups, columns in self._pieces():
            codes = self._by_group(self.codes[columns])
            # One scratch for all pieces: fresh memory costs more than what is computed in it.
            scratch = torch.empty_like(codes, dtype=torch.float32) if scratch is None else scratch[: len(codes)]
            scratch.copy_(codes)
            factors = self._factors(self.multipliers[groups], self.scales[blocks]).unsqueeze(1)
            if self.offsets is None or self.minima is None:
                scratch.mul_(factors)
            else:
                off = self._factors(self.offsets[groups], self.minima[blocks]).neg_().unsqueeze(1)
                torch.addcmul(off, scratch, factors, out=scratch)
            found[columns].copy_(scratch.view(-1, found.shape[1]))
        return found

    def gradients(self, of_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of scales and minima, from (columns, rows) of the weights, which is overwritten."""
        of_scales = torch.empty_like(self.scales)
        of_minima = None if self.minima is None else torch.empty_like(self.minima)
        scratch: torch.Tensor | None = None
        for blocks, groups, columns in self._pieces():
            part = self._by_group(of_weights[columns])
            if of_minima is not None and self.offsets is not None:
                of_minima[blocks] = self._sums(part, self.offsets[groups], of_minima[blocks]).neg_()
            scratch = torch.empty_like(part) if scratch is None else scratch[: len(part)]
            # Small whole numbers: bfloat16 holds them as they are.
            scratch.copy_(self._by_group(self.codes[columns]))
            of_scales[blocks] = self._sums(part.mul_(scratch), self.multipliers[groups], of_scales[blocks])
        return of_scales, of_minima

    def _pieces(self) -> Iterator[tuple[slice, slice, slice]]:
        """Blocks, their groups and their columns, some at a time."""
        (num_columns, num_rows), num_blocks, num_groups = self.codes.shape, len(self.scales), len(self.multipliers)
        step = max(1, _PIECE_WEIGHTS // (num_rows * (num_columns // num_blocks)))
        for at in range(0, num_blocks, step):
            end = min(at + step, num_blocks)
            yield tuple(
                slice(at * n // num_blocks, end * n // num_blocks) for n in (num_blocks, num_groups, num_columns)
            )  # type: ignore[misc]

    def _by_group(self, columns: torch.Tensor) -> torch.Tensor:
        return columns.view(-1, len(self.codes) // len(self.multipliers), columns.shape[1])

    @staticmethod
    def _factors(by_group: torch.Tensor, by_block: torch.Tensor) -> torch.Tensor:
        """Their products, by group."""
        num_blocks, num_rows = by_block.shape
        return (by_group.view(num_blocks, -1, num_rows) * by_block.unsqueeze(1)).view(-1, num_rows)

    @staticmethod
    def _sums(numbers: torch.Tensor, by_group: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Of each block, every group times its own factor."""
        return (numbers.sum(1).float() * by_group).view(len(like), -1, like.shape[1]).sum(1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor | None, *fixed: Any) -> Any:
        codes, multipliers, offsets = fixed
        ctx.save_for_backward(states, scales, minima, *fixed)
        return states @ _Numbers(codes, multipliers, offsets, scales, minima).of(states.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        states, scales, minima, codes, multipliers, offsets = ctx.saved_tensors
        numbers = _Numbers(codes, multipliers, offsets, scales, minima)
        of_states = of_scales = of_minima = None
        if ctx.needs_input_grad[0]:
            of_states = gradient @ numbers.of(states.dtype).T
        if ctx.needs_input_grad[1]:
            of_scales, of_minima = numbers.gradients(states.T @ gradient)
        return of_states, of_scales, of_minima, None, None, None


def _by_column(numbers: Integers | Floats | None) -> torch.Tensor | None:
    return None if numbers is None else torch.from_numpy(np.ascontiguousarray(numbers)).T.contiguous()
