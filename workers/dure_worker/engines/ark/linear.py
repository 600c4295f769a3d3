"""A matrix of whole numbers, packed for this CPU, and its product with rows of floats."""

from dataclasses import dataclass

import auto_round_kernel as ark
import numpy as np
import torch

from dure_worker.engines.ark import threads
from dure_worker.engines.ark.blocks import Codes

# Activations are quantized to int8 row by row, which AVX512-VNNI multiplies; without it the library computes in fp32.
_COMPUTE = "int8"
_NONE = torch.empty(0, dtype=torch.int8)
_HAS_ZERO_POINTS = False


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + bias for x (rows, k) float32; y (rows, n) float32. Make it with `packed`.

    scales    kind of the groups' scales, bf16 or fp32
    """

    blob: torch.Tensor
    bias: torch.Tensor
    n: int
    k: int
    bits: int
    group: int
    scales: str

    @classmethod
    def packed(cls, codes: Codes, bias: torch.Tensor | None = None) -> "Linear":
        """Without loss: scales take 16 bits where these hold them, else 32."""
        if codes.minima is not None:
            raise ValueError("blocks with minima have no packed form: fit them first")
        threads.prepare()
        n, k = codes.codes.shape
        scales = torch.from_numpy(np.ascontiguousarray(codes.scales.T))
        kind = "bf16" if torch.equal(scales.bfloat16().float(), scales) else "fp32"
        blob = ark.repack_quantized_weight(
            torch.from_numpy(np.ascontiguousarray(codes.codes.T)),
            scales,
            _NONE,
            codes.group,
            _COMPUTE,
            f"int{codes.bits}",
            kind,
            _HAS_ZERO_POINTS,
        )
        return cls(blob, torch.empty(0) if bias is None else bias, n, k, codes.bits, codes.group, kind)

    @property
    def info(self) -> list[int | str]:
        """What a packed file says of it: all but its tensors, in the order of the fields."""
        return [self.n, self.k, self.bits, self.group, self.scales]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        threads.prepare()
        # Every number of it is written: without `out` the library would fill it with zeros before.
        found = torch.empty(len(x), self.n)
        ark.woqgemm(
            x, self.blob, self.bias, self.n, self.k, self.group, _COMPUTE, f"int{self.bits}", self.scales,
            _HAS_ZERO_POINTS, out=found,
        )  # fmt: skip
        return found
