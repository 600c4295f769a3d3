"""Matrices of checkpoints that GPTQ or AutoRound quantized, as blocks of GGUF: each weight stays the number it was.

A weight is (code - zero point) * scale. The difference fits into a Q4_0 code where the zero point is the middle, into a
Q5_0 code where it is another, and into a Q8_0 code with 8 bits; scales are of 16 bits in both formats, and a group's is
written for each of its blocks of 32.

Source: the packing of AutoGPTQ's and AutoRound's QuantLinear (qweight, qzeros, scales, g_idx); ggml-common.h.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure import safetensors
from dure.errors import ModelCorrupt, ModelUnsupported
from dure.gguf import TensorType
from dure.safetensors import Safetensors, Tensor
from dure_worker.engines.ark.blocks import floats

QWEIGHT = ".qweight"
PARTS = (".qzeros", ".scales", ".g_idx")
_METHODS = ("gptq", "auto-round", "intel/auto-round")
_BITS = (2, 4, 8)
_WORD = 32
_BLOCK = 32
_SCALES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}

Words = NDArray[np.int32]


@dataclass(frozen=True)
class Packing:
    """How a checkpoint's matrices are packed. offset: what must be added to a stored zero point."""

    bits: int
    is_symmetric: bool
    offset: int

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Packing | None":
        """Of config.json. None: not quantized. Raises ModelUnsupported."""
        told = config.get("quantization_config")
        if not told:
            return None
        method, form = told.get("quant_method"), str(told.get("packing_format") or told.get("backend") or "")
        if method not in _METHODS or "awq" in form or told.get("bits") not in _BITS:
            raise ModelUnsupported(
                f"the checkpoint is quantized by {method} {form} in {told.get('bits')} bits, which is not known here: "
                f"take one of GPTQ or AutoRound (auto_gptq) in {', '.join(map(str, _BITS))} bits, or one in BF16"
            )
        has_offset = "auto_gptq" in form if method != "gptq" else told.get("checkpoint_format") != "gptq_v2"
        return cls(int(told["bits"]), bool(told.get("sym", True)), int(has_offset))

    @property
    def kind(self) -> TensorType:
        if self.bits == max(_BITS):
            return TensorType.Q8_0
        return TensorType.Q4_0 if self.is_symmetric else TensorType.Q5_0


@dataclass(frozen=True)
class Matrix:
    """One of them: its tensors by the ends of their names, and where each lies."""

    packing: Packing
    tensors: dict[str, tuple[Safetensors, Tensor]]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix: outputs and inputs."""
        words, outputs = self.tensors[QWEIGHT][1].shape
        return outputs, words * _WORD // self.packing.bits

    def blocks(self, order: list[int] | None) -> bytes:
        """All rows, or in that order. Raises ModelCorrupt, ModelUnsupported."""
        differences, scales = self._numbers()
        if order is not None:
            differences, scales = differences[order], scales[order]
        if not np.isfinite(scales).all() or not np.array_equal(scales.astype("<f2").astype(np.float32), scales):
            raise ModelCorrupt(f"{self._name}: its scales are no numbers, or none of 16 bits: take it again")
        return blocks(differences, scales, self.packing.kind)

    @property
    def _name(self) -> str:
        return self.tensors[QWEIGHT][1].name.removesuffix(QWEIGHT)

    def _numbers(self) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Code less zero point (rows, columns), scales (rows, groups)."""
        shard, tensor = self.tensors[".scales"]
        scales = floats(_bytes(shard, tensor), _SCALES[tensor.dtype], tensor.shape[1])
        codes = _unpacked(self._words(QWEIGHT).T, self.packing.bits)
        zeros = _unpacked(self._words(".qzeros"), self.packing.bits) + np.int16(self.packing.offset)
        groups, inputs = len(scales), codes.shape[1]
        if zeros.shape != scales.shape or inputs % groups or inputs // groups % _BLOCK:
            raise ModelUnsupported(f"{self._name}: groups of {inputs / groups:g} weights; taken are multiples of 32")
        if ".g_idx" in self.tensors and not np.array_equal(
            self._words(".g_idx"), np.arange(inputs) // (inputs // groups)
        ):
            raise ModelUnsupported(f"{self._name}: its columns are grouped by activation (desc_act): take one without")
        found = codes - zeros.T.repeat(inputs // groups, axis=1)
        low, high = _RANGES[self.packing.kind]
        if found.min() < low or found.max() > high:
            raise ModelUnsupported(f"{self._name}: zero points beyond {self.packing.kind.name}: take a symmetric one")
        return found, np.ascontiguousarray(scales.T)

    def _words(self, part: str) -> Words:
        shard, tensor = self.tensors[part]
        if tensor.dtype != "I32":
            raise ModelCorrupt(f"{tensor.name} is of the type {tensor.dtype}, not I32: take the checkpoint again")
        return np.frombuffer(_bytes(shard, tensor), "<i4").reshape(tensor.shape)


def blocks(codes: NDArray[np.int16], scales: NDArray[np.float32], kind: TensorType) -> bytes:
    """Whole numbers (rows, columns) and their scales (rows, groups of a multiple of 32 columns), which 16 bits hold.

    kind: Q4_0, Q5_0 or Q8_0, whose codes these are
    """
    halves = scales.astype("<f2").repeat(codes.shape[1] // _BLOCK // scales.shape[1], axis=1).reshape(-1, 1)
    return _WRITERS[kind](halves.view(np.uint8), codes.reshape(-1, _BLOCK)).tobytes()


def _bytes(shard: Safetensors, tensor: Tensor) -> bytes:
    return b"".join(safetensors.rows(shard, tensor))


def _unpacked(words: Words, bits: int) -> NDArray[np.int16]:
    """(rows, words) into (rows, codes), the lowest bits first."""
    shifts = np.arange(0, _WORD, bits, dtype=np.int32)
    codes = (words[:, :, None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(len(words), -1).astype(np.int16)


def _q4_0(scales: NDArray[np.uint8], codes: NDArray[np.int16]) -> NDArray[np.uint8]:
    raw = (codes + 8).astype(np.uint8)
    return np.concatenate([scales, raw[:, :16] | raw[:, 16:] << 4], axis=1)


def _q5_0(scales: NDArray[np.uint8], codes: NDArray[np.int16]) -> NDArray[np.uint8]:
    raw = (codes + 16).astype(np.uint8)
    fifth = np.packbits(raw >> 4, axis=1, bitorder="little")
    low = raw & 0xF
    return np.concatenate([scales, fifth, low[:, :16] | low[:, 16:] << 4], axis=1)


def _q8_0(scales: NDArray[np.uint8], codes: NDArray[np.int16]) -> NDArray[np.uint8]:
    return np.concatenate([scales, codes.astype(np.int8).view(np.uint8)], axis=1)


_WRITERS = {TensorType.Q4_0: _q4_0, TensorType.Q5_0: _q5_0, TensorType.Q8_0: _q8_0}
_RANGES = {TensorType.Q4_0: (-8, 7), TensorType.Q5_0: (-16, 15), TensorType.Q8_0: (-128, 127)}
