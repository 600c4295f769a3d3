"""Quantized weights back into numbers, for the kinds that occur in vocabularies; and numbers into quantized weights.

Source: the block layouts of ggml (ggml-common.h) and their dequantize_row_* functions (ggml-quants.c). Reading is numpy
alone; writing calls the runtime's own quantizer, so that a new row is as good as its neighbours.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
import xllamacpp
from numpy.typing import NDArray

from dure import gguf
from dure.errors import ModelError
from dure.gguf import BLOCKS, TensorType

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class NotReadable(ModelError):
    """The weights are of a kind that is not read here."""


def dequantize(raw: bytes | memoryview, kind: TensorType, row_weights: int) -> Floats:
    """Rows of `row_weights` numbers. Raises NotReadable."""
    if kind not in _READERS:
        known = ", ".join(found.name for found in _READERS)
        raise NotReadable(f"weights of kind {kind.name} cannot be read here: take a file whose vocabulary is {known}")
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, BLOCKS[kind][1])
    return _READERS[kind](blocks).reshape(-1, row_weights)


def rows(source: gguf.Gguf, tensor: gguf.Tensor, wanted: list[int]) -> Floats:
    """The wanted rows of a tensor as numbers, in that order."""
    raw = b"".join(gguf.rows(source, tensor, wanted))
    return dequantize(raw, tensor.type, tensor.shape[0])


def quantize(numbers: Floats, kind: TensorType) -> bytes:
    """Rows of numbers as the runtime would quantize them, without an importance matrix. Raises NotReadable."""
    if kind is TensorType.F32:
        return numbers.astype("<f4").tobytes()
    if kind not in _READERS:
        raise NotReadable(f"weights of kind {kind.name} cannot be written here: take a file of another kind")
    num_rows, row_weights = numbers.shape
    weights, size = BLOCKS[kind]
    target = ctypes.create_string_buffer(numbers.size // weights * size)
    source = np.ascontiguousarray(numbers, np.float32)
    _quantizer()(kind, source.ctypes.data, target, 0, num_rows, row_weights, None)
    return target.raw


@cache
def _quantizer() -> Callable[..., int]:
    function = runtime().ggml_quantize_chunk
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    function.restype = ctypes.c_size_t
    return function


@cache
def runtime() -> ctypes.CDLL:
    """The library of the runtime, whose C functions are exported beside Python's."""
    return ctypes.CDLL(xllamacpp.xllamacpp.__file__)


def _half(blocks: Bytes, start: int) -> Floats:
    """A 16-bit number of each block, as a column."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q5_0(blocks: Bytes) -> Floats:
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little") << 4
    low = np.concatenate([blocks[:, 6:] & 0xF, blocks[:, 6:] >> 4], axis=1)
    return np.asarray(_half(blocks, 0) * ((low | fifth).astype(np.float32) - 16), np.float32)


def _q4_k(blocks: Bytes) -> Floats:
    """Eight groups of 32, each with a scale and a minimum of 6 bits, packed into 12 bytes."""
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 0xF) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    pairs = blocks[:, 16:].reshape(-1, 4, 1, 32)
    quants = np.concatenate([pairs & 0xF, pairs >> 4], axis=2).reshape(-1, 8, 32)
    scaled = (_half(blocks, 0) * scales)[:, :, None] * quants
    return np.asarray(scaled - (_half(blocks, 2) * minima)[:, :, None], np.float32)


def _q6_k(blocks: Bytes) -> Floats:
    """Two halves of 128: four runs of 32, whose low 4 bits and high 2 bits lie apart; a scale for each 16."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    lows = np.concatenate([low & 0xF, low >> 4], axis=2)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    highs = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3
    quants = (lows | (highs << 4)).astype(np.float32).reshape(-1, 16, 16) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return np.asarray(scales[:, :, None] * quants, np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


_READERS: dict[TensorType, Callable[[Bytes], Floats]] = {
    TensorType.F32: lambda blocks: blocks.view("<f4").astype(np.float32),
    TensorType.F16: lambda blocks: blocks.view("<f2").astype(np.float32),
    TensorType.BF16: _bf16,
    TensorType.Q8_0: _q8_0,
    TensorType.Q5_0: _q5_0,
    TensorType.Q4_K: _q4_k,
    TensorType.Q6_K: _q6_k,
}
