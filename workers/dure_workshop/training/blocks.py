"""Quantized blocks as whole numbers and the float16 scales that multiply them, and the same blocks with other scales.

Source: the block layouts of ggml (ggml-common.h). No kind's codes are unpacked here: the runtime reads the bytes with
scales, or codes, of one, which leaves the whole numbers that stand beside them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.errors import SettingsError
from dure.gguf import BLOCKS, TensorType
from dure_workshop.dequantize import Floats, read_by_runtime

Integers = NDArray[np.int8]
_Bytes = NDArray[np.uint8]

# Weights that are read at a time: some MB as float32.
_PIECE_WEIGHTS = 1 << 20
_FLOAT16 = 2  # bytes


@dataclass(frozen=True)
class Layout:
    """Of a block. group: weights that share a multiplier.

    scale    where d stands, the float16 number that all of its weights are multiplied with
    minimum  where dmin stands, which multiplies what is taken off
    ones     (from, to, byte): what these bytes must be so that each code is one
    """

    group: int
    scale: int
    minimum: int | None
    ones: tuple[tuple[int, int, int], ...]


# IQ4_NL's eighth number is 1. Codes of Q4_0, Q5_0 and Q6_K begin at -8, -16 and -32, those of Q3_K at -4 without the
# high bit.
LAYOUTS = {
    TensorType.Q4_0: Layout(32, 0, None, ((2, 18, 0x99),)),
    TensorType.Q4_1: Layout(32, 0, 2, ((4, 20, 0x11),)),
    TensorType.Q5_0: Layout(32, 0, None, ((2, 6, 0xFF), (6, 22, 0x11))),
    TensorType.Q5_1: Layout(32, 0, 2, ((4, 8, 0x00), (8, 24, 0x11))),
    TensorType.Q8_0: Layout(32, 0, None, ((2, 34, 0x01),)),
    TensorType.IQ4_NL: Layout(32, 0, None, ((2, 18, 0x88),)),
    TensorType.Q2_K: Layout(16, 80, 82, ((16, 80, 0x55),)),
    TensorType.Q3_K: Layout(16, 108, None, ((0, 32, 0xFF), (32, 96, 0x55))),
    TensorType.Q4_K: Layout(32, 0, 2, ((16, 144, 0x11),)),
    TensorType.Q5_K: Layout(32, 0, 2, ((16, 48, 0x00), (48, 176, 0x11))),
    TensorType.Q6_K: Layout(16, 208, None, ((0, 128, 0x11), (128, 192, 0xAA))),
}


@dataclass(frozen=True)
class Blocks:
    """Rows of weights: scale * multiplier * code - minimum * offset.

    codes        (rows, columns) int8
    multipliers  (rows, columns / group) int8
    offsets      the same, or None without minima
    scales       (rows, columns / block) float32, numbers that float16 holds
    minima       the same, or None
    """

    codes: Integers
    multipliers: Integers
    offsets: Integers | None
    scales: Floats
    minima: Floats | None


def taken_apart(raw: bytes, kind: TensorType, row_weights: int) -> Blocks:
    """raw: whole rows. kind: of LAYOUTS."""
    weights, size = BLOCKS[kind]
    row_bytes = row_weights // weights * size
    step = max(1, _PIECE_WEIGHTS // row_weights) * row_bytes
    pieces = [_piece(raw[at : at + step], kind, row_weights) for at in range(0, len(raw), step)]
    codes, multipliers, scales = (
        np.concatenate([getattr(each, name) for each in pieces]) for name in ("codes", "multipliers", "scales")
    )
    offsets = [each.offsets for each in pieces if each.offsets is not None]
    minima = [each.minima for each in pieces if each.minima is not None]
    has_minima = LAYOUTS[kind].minimum is not None
    return Blocks(
        codes,
        multipliers,
        np.concatenate(offsets) if has_minima else None,
        scales,
        np.concatenate(minima) if has_minima else None,
    )


def rescaled(raw: bytes, kind: TensorType, scales: Floats, minima: Floats | None) -> bytes:
    """The same blocks with these scales and minima, rounded to float16; all other bytes stay.

    Raises SettingsError where one is no number, or too large for float16.
    """
    layout, blocks = LAYOUTS[kind], _blocks(raw, kind)
    for at, numbers in ((layout.scale, scales), (layout.minimum, minima)):
        if at is None or numbers is None:
            continue
        with np.errstate(over="ignore"):
            rounded = numbers.astype("<f2")
        if not np.isfinite(rounded).all():
            raise SettingsError("scales grew beyond what float16 holds: train again with a smaller rate")
        blocks[:, at : at + _FLOAT16] = rounded.reshape(-1, 1).view(np.uint8)
    return blocks.tobytes()


def _piece(raw: bytes, kind: TensorType, row_weights: int) -> Blocks:
    layout, (block, _) = LAYOUTS[kind], BLOCKS[kind]
    num_rows = len(_blocks(raw, kind)) * block // row_weights

    def read(scale: float, minimum: float, *, ones: bool = False) -> Floats:
        blocks = _blocks(raw, kind)
        for at, number in ((layout.scale, scale), (layout.minimum, minimum)):
            if at is not None:
                blocks[:, at : at + _FLOAT16] = np.array([number], "<f2").view(np.uint8)
        for start, end, byte in layout.ones if ones else ():
            blocks[:, start:end] = byte
        return read_by_runtime(blocks.tobytes(), kind, layout.group)

    products, multipliers = read(1, 0), read(1, 0, ones=True)[:, :1]
    # Whatever the codes are, nothing of them is left where the multiplier is 0.
    codes = np.divide(products, multipliers, out=np.zeros_like(products), where=multipliers != 0)
    blocks = _blocks(raw, kind)
    scales = _numbers(blocks, layout.scale).reshape(num_rows, -1)
    minima = None if layout.minimum is None else _numbers(blocks, layout.minimum).reshape(num_rows, -1)
    return Blocks(
        codes.astype(np.int8).reshape(num_rows, row_weights),
        multipliers.astype(np.int8).reshape(num_rows, -1),
        None if minima is None else (-read(0, 1)[:, 0]).astype(np.int8).reshape(num_rows, -1),
        scales,
        minima,
    )


def _numbers(blocks: _Bytes, at: int) -> Floats:
    """Float16 numbers, of each block one."""
    return np.ascontiguousarray(blocks[:, at : at + _FLOAT16]).view("<f2").astype(np.float32)


def _blocks(raw: bytes, kind: TensorType) -> _Bytes:
    """A copy, a block a row."""
    return np.frombuffer(raw, np.uint8).reshape(-1, BLOCKS[kind][1]).copy()
