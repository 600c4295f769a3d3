"""ggml's K blocks taken apart into codes and grids, and put together again to the byte.

A block is 256 weights of a row: `codes * steps - minima`, a step (and a minimum) for each group of 16 or 32 codes.
The steps are small whole numbers times a 16-bit number of the whole block, and so are the minima.

Source: the block layouts of ggml (ggml-common.h) and their dequantize_row_* functions (ggml-quants.c).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.gguf import BLOCKS, TensorType
from dure_worker.engines.ark.blocks import Bytes, Floats, NotReadable

WEIGHTS = 256


@dataclass(frozen=True)
class _Layout:
    """Of one kind.

    low          of the codes; there are 2 ** bits of them
    codes        reads them: (blocks, 256), counted from 0
    put          writes them over a block's own
    factors      reads what steps and minima are of the block's own numbers: (blocks, groups) each; minima None
    own_at       where the block's 16-bit number for the steps lies, and that for the minima
    """

    bits: int
    low: int
    codes: Callable[[Bytes], Bytes]
    put: Callable[[Bytes, Bytes], None]
    factors: Callable[[Bytes], tuple[Floats, Floats | None]]
    own_at: tuple[int, ...]


@dataclass(frozen=True)
class KBlocks:
    """kind; raw (blocks, bytes of a block) uint8, as the file has them."""

    kind: TensorType
    raw: Bytes

    @classmethod
    def of(cls, raw: bytes | memoryview, kind: TensorType) -> "KBlocks":
        """Raises NotReadable for kinds that have another layout."""
        if kind not in _LAYOUTS:
            known = ", ".join(found.name for found in _LAYOUTS)
            raise NotReadable(f"weights of kind {kind.name} are no K blocks: take one of {known}")
        return cls(kind, np.frombuffer(raw, np.uint8).reshape(-1, BLOCKS[kind][1]))

    @property
    def low(self) -> int:
        """The lowest code."""
        return self._layout.low

    @property
    def high(self) -> int:
        return self._layout.low + (1 << self._layout.bits) - 1

    @property
    def codes(self) -> NDArray[np.int8]:
        """(blocks, 256) int8, from low to high."""
        return self._layout.codes(self.raw).astype(np.int8) + np.int8(self.low)

    @property
    def factors(self) -> tuple[Floats, Floats | None]:
        """Of steps and minima, without the block's own numbers: (blocks, groups) float32 each."""
        return self._layout.factors(self.raw)

    @property
    def own(self) -> list[Floats]:
        """A block's number for its steps, and where the kind has minima that for these: (blocks, 1) float32 each."""
        return [_half(self.raw, at) for at in self._layout.own_at]

    @property
    def bases(self) -> list[Floats]:
        """What the weights are of each of the block's own numbers: (blocks, 256) float32 each."""
        of_steps, of_minima = self.factors
        group = WEIGHTS // of_steps.shape[1]
        of_step = self.codes * of_steps.repeat(group, 1)
        return [of_step] if of_minima is None else [of_step, -of_minima.repeat(group, 1)]

    @property
    def grid(self) -> tuple[Floats, Floats | None]:
        """Steps and minima: (blocks, groups) float32 each; minima None where a kind has none."""
        (of_steps, of_minima), own = self.factors, self.own
        return of_steps * own[0], None if of_minima is None else of_minima * own[1]

    def numbers(self) -> Floats:
        """(blocks, 256) float32"""
        steps, minima = self.grid
        grouped = self.codes.reshape(*steps.shape, -1).astype(np.float32) * steps[:, :, None]
        if minima is not None:
            grouped -= minima[:, :, None]
        return np.asarray(grouped.reshape(-1, WEIGHTS), np.float32)

    def with_codes(self, codes: NDArray[np.int8]) -> "KBlocks":
        """Other codes (blocks, 256), from low to high, on the same grid."""
        raw = self.raw.copy()
        self._layout.put(raw, (codes - np.int8(self.low)).astype(np.uint8))
        return KBlocks(self.kind, raw)

    def with_own(self, *numbers: Floats) -> "KBlocks":
        """Other numbers of its own, as many as `own` has, rounded to 16 bits."""
        raw = self.raw.copy()
        for at, each in zip(self._layout.own_at, numbers, strict=True):
            raw[:, at : at + 2] = np.ascontiguousarray(each.astype("<f2")).view(np.uint8)
        return KBlocks(self.kind, raw)

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS[self.kind]


def _half(raw: Bytes, at: int) -> Floats:
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2").astype(np.float32)


# In two halves of 128 codes; a byte holds those that lie 32 apart.
_QUARTERS = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)


def _twos(packed: Bytes) -> Bytes:
    """(blocks, 64) into codes of 2 bits."""
    return np.asarray((packed.reshape(-1, 2, 1, 32) >> _QUARTERS) & 3, np.uint8).reshape(-1, WEIGHTS)


def _of_twos(codes: Bytes) -> Bytes:
    shifted = (codes & 3).reshape(-1, 2, 4, 32) << _QUARTERS
    return np.asarray(np.bitwise_or.reduce(shifted, axis=2), np.uint8).reshape(-1, 64)


def _nibbles(packed: Bytes) -> Bytes:
    """(blocks, 128) into codes of 4 bits: in four pairs of 32."""
    pairs = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([pairs & 0xF, pairs >> 4], axis=2).reshape(-1, WEIGHTS)


def _of_nibbles(codes: Bytes) -> Bytes:
    pairs = (codes & 0xF).reshape(-1, 4, 2, 32)
    return np.asarray(pairs[:, :, 0] | pairs[:, :, 1] << 4, np.uint8).reshape(-1, 128)


def _highest(packed: Bytes) -> Bytes:
    """(blocks, 32) into one bit a code: bit g of byte i is that of code 32 g + i."""
    return np.unpackbits(packed[:, None], axis=1, bitorder="little").reshape(-1, WEIGHTS)


def _of_highest(bits: Bytes) -> Bytes:
    return np.packbits(bits.reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)


def _q2_k_codes(raw: Bytes) -> Bytes:
    return _twos(raw[:, 16:80])


def _q2_k_put(raw: Bytes, codes: Bytes) -> None:
    raw[:, 16:80] = _of_twos(codes)


def _q2_k_factors(raw: Bytes) -> tuple[Floats, Floats]:
    return (raw[:, :16] & 0xF).astype(np.float32), (raw[:, :16] >> 4).astype(np.float32)


def _q3_k_codes(raw: Bytes) -> Bytes:
    return np.asarray(_twos(raw[:, 32:96]) | _highest(raw[:, :32]) << 2, np.uint8)


def _q3_k_put(raw: Bytes, codes: Bytes) -> None:
    raw[:, :32], raw[:, 32:96] = _of_highest(codes >> np.uint8(2)), _of_twos(codes)


def _q3_k_factors(raw: Bytes) -> tuple[Floats, None]:
    """Sixteen of 6 bits: low 4 bits in 8 bytes, high 2 bits in 4."""
    packed = raw[:, 96:108]
    lows = np.concatenate([packed[:, :8] & 0xF, packed[:, :8] >> 4], axis=1)
    highs = ((packed[:, None, 8:] >> _QUARTERS) & 3).reshape(-1, 16)
    return (lows | highs << 4).astype(np.float32) - 32, None


def _q4_k_codes(raw: Bytes) -> Bytes:
    return _nibbles(raw[:, 16:])


def _q4_k_put(raw: Bytes, codes: Bytes) -> None:
    raw[:, 16:] = _of_nibbles(codes)


def _q5_k_codes(raw: Bytes) -> Bytes:
    return np.asarray(_nibbles(raw[:, 48:]) | _highest(raw[:, 16:48]) << 4, np.uint8)


def _q5_k_put(raw: Bytes, codes: Bytes) -> None:
    raw[:, 16:48], raw[:, 48:] = _of_highest(codes >> np.uint8(4)), _of_nibbles(codes)


def _pairs_of_6(raw: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and eight minima of 6 bits, packed into 12 bytes behind the block's two numbers."""
    first, second, third = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([first & 63, (third & 0xF) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


_LAYOUTS = {
    TensorType.Q2_K: _Layout(2, 0, _q2_k_codes, _q2_k_put, _q2_k_factors, (80, 82)),
    TensorType.Q3_K: _Layout(3, -4, _q3_k_codes, _q3_k_put, _q3_k_factors, (108,)),
    TensorType.Q4_K: _Layout(4, 0, _q4_k_codes, _q4_k_put, _pairs_of_6, (0, 2)),
    TensorType.Q5_K: _Layout(5, 0, _q5_k_codes, _q5_k_put, _pairs_of_6, (0, 2)),
}
KINDS = frozenset(_LAYOUTS)
