"""GGUF's quantized blocks taken apart: whole numbers, and what they are multiplied by.

Source: the block layouts of ggml (ggml-common.h) and their dequantize_row_* functions (ggml-quants.c).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dure.errors import ModelError
from dure.gguf import BLOCKS, TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


_MOST_MERGED = 128


class NotReadable(ModelError):
    """The weights are of a kind that is not read here."""


@dataclass(frozen=True)
class Codes:
    """Weights of n rows of k: codes * scales - minima, a scale (and a minimum) for each `group` codes of a row.

    codes    (n, k) int8
    scales   (n, k / group) float32
    minima   (n, k / group) float32, or None
    bits     of a code with its sign; codes of blocks with minima have none, they count from 0
    """

    codes: NDArray[np.int8]
    scales: Floats
    minima: Floats | None
    bits: int

    @property
    def group(self) -> int:
        return int(self.codes.shape[1] // self.scales.shape[1])

    @property
    def fewest_bits(self) -> int:
        """That hold every code, 2 at least; without minima. A file may keep codes of 2 or 3 bits in blocks of 4."""
        low, high = int(self.codes.min()), int(self.codes.max())
        return max(2, 1 + max(high, ~low).bit_length())

    @property
    def is_finite(self) -> bool:
        """Whether these are numbers at all."""
        return bool(np.isfinite(self.scales).all() and (self.minima is None or np.isfinite(self.minima).all()))

    @classmethod
    def joined(cls, parts: list["Codes"]) -> "Codes":
        """The rows of one matrix."""
        if len(parts) == 1:
            return parts[0]
        minima = [part.minima for part in parts if part.minima is not None]
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.scales for part in parts]),
            np.concatenate(minima) if minima else None,
            parts[0].bits,
        )

    def merged(self) -> "Codes":
        """The same numbers in the largest groups, up to 128, whose scale is one."""
        found = self
        while (
            found.minima is None
            and 2 * found.group <= _MOST_MERGED
            and found.scales.shape[1] % 2 == 0
            and np.array_equal(found.scales[:, ::2], found.scales[:, 1::2])
        ):
            found = replace(found, scales=found.scales[:, ::2])
        return found

    def split(self, group: int) -> "Codes":
        """The same numbers in smaller groups; without minima."""
        return replace(self, scales=self.scales.repeat(self.group // group, 1))

    def part(self, rows: slice) -> "Codes":
        return Codes(self.codes[rows], self.scales[rows], None if self.minima is None else self.minima[rows], self.bits)

    def numbers(self) -> Floats:
        """(n, k)"""
        num_rows, num_groups = self.scales.shape
        grouped = self.codes.reshape(num_rows, num_groups, self.group).astype(np.float32)
        found = grouped * self.scales[:, :, None]
        if self.minima is not None:
            found -= self.minima[:, :, None]
        return np.asarray(found.reshape(num_rows, -1), np.float32)


def codes(raw: bytes | memoryview, kind: TensorType, row_weights: int) -> Codes:
    """Rows of `row_weights` weights. Raises NotReadable for kinds that are not read here."""
    if kind not in _READERS:
        known = ", ".join(found.name for found in _READERS)
        raise NotReadable(f"weights of kind {kind.name} cannot be read here: take a file whose weights are {known}")
    reader, bits = _READERS[kind]
    weights, size = BLOCKS[kind]
    num_blocks = row_weights // weights
    found, scales, minima = reader(np.frombuffer(raw, np.uint8).reshape(-1, size))
    num_rows = len(found) // num_blocks

    def by_row(numbers: Floats) -> Floats:
        return numbers.reshape(num_rows, -1)

    return Codes(found.reshape(num_rows, row_weights), by_row(scales), None if minima is None else by_row(minima), bits)


# Weights that are numbers already.
FLOATS = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16})


def floats(raw: bytes | memoryview, kind: TensorType, row_weights: int) -> Floats:
    """Rows of weights of one of these kinds."""
    if kind is TensorType.BF16:
        found = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        found = np.frombuffer(raw, "<f4" if kind is TensorType.F32 else "<f2").astype(np.float32)
    return np.asarray(found.reshape(-1, row_weights), np.float32)


_Parts = tuple[NDArray[np.int8], Floats, Floats | None]


def _half(blocks: Bytes, start: int) -> Floats:
    """A 16-bit number of each block, as a column."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    return np.concatenate([packed & 0xF, packed >> 4], axis=1)


def _q4_0(blocks: Bytes) -> _Parts:
    return _nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8), _half(blocks, 0), None


def _q5_0(blocks: Bytes) -> _Parts:
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little") << 4
    return (_nibbles(blocks[:, 6:]) | fifth).astype(np.int8) - np.int8(16), _half(blocks, 0), None


def _q8_0(blocks: Bytes) -> _Parts:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8), _half(blocks, 0), None


def _q4_k(blocks: Bytes) -> _Parts:
    """Eight groups of 32, each with a scale and a minimum of 6 bits, packed into 12 bytes."""
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 0xF) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    pairs = blocks[:, 16:].reshape(-1, 4, 1, 32)
    quants = np.concatenate([pairs & 0xF, pairs >> 4], axis=2).reshape(-1, 256)
    return quants.view(np.int8), _half(blocks, 0) * scales, _half(blocks, 2) * minima


def _q6_k(blocks: Bytes) -> _Parts:
    """Two halves of 128: four runs of 32, whose low 4 bits and high 2 bits lie apart; a scale for each 16."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    lows = np.concatenate([low & 0xF, low >> 4], axis=2)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    highs = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    quants = (lows | (highs << 4)).astype(np.int8).reshape(-1, 256) - np.int8(32)
    return quants, _half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8), None


_READERS: dict[TensorType, tuple[Callable[[Bytes], _Parts], int]] = {
    TensorType.Q4_0: (_q4_0, 4),
    TensorType.Q5_0: (_q5_0, 5),
    TensorType.Q8_0: (_q8_0, 8),
    TensorType.Q4_K: (_q4_k, 4),
    TensorType.Q6_K: (_q6_k, 6),
}
READABLE = frozenset(_READERS) | FLOATS
