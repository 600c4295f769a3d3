"""A matrix of whole numbers, packed for this CPU, and its product with rows of floats."""

from dataclasses import dataclass

import auto_round_kernel as ark
import numpy as np
import torch

from dure_worker.engines.ark.blocks import Codes

# Activations are quantized to int8 row by row, which AVX512-VNNI multiplies; without it the library computes in fp32.
_COMPUTE = "int8"
_SCALES = "bf16"
_NONE = torch.empty(0, dtype=torch.int8)
_HAS_ZERO_POINTS = False


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + bias for x (rows, k) float32; y (rows, n) float32. Make it with `packed`."""

    blob: torch.Tensor
    bias: torch.Tensor
    n: int
    k: int
    bits: int
    group: int

    @classmethod
    def packed(cls, codes: Codes, bias: torch.Tensor | None = None) -> "Linear":
        if codes.minima is not None:
            raise ValueError("blocks with minima have no packed form: fit them first")
        n, k = codes.codes.shape
        blob = ark.repack_quantized_weight(
            torch.from_numpy(np.ascontiguousarray(codes.codes.T)),
            torch.from_numpy(np.ascontiguousarray(codes.scales.T)),
            _NONE,
            codes.group,
            _COMPUTE,
            f"int{codes.bits}",
            _SCALES,
            _HAS_ZERO_POINTS,
        )
        return cls(blob, torch.empty(0) if bias is None else bias, n, k, codes.bits, codes.group)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = ark.woqgemm(
            x, self.blob, self.bias, self.n, self.k, self.group, _COMPUTE, f"int{self.bits}", _SCALES, _HAS_ZERO_POINTS
        )
        return found
