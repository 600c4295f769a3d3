"""Quantized weights back into numbers, for the kinds that occur in vocabularies; and numbers into quantized weights.

Source: the block layouts of ggml (ggml-common.h) and their dequantize_row_* functions (ggml-quants.c). Reading is numpy
alone; writing calls the runtime's own quantizer, so that a new row is as good as its neighbours.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
import xllamacpp

from dure import gguf
from dure.gguf import BLOCKS, TensorType
from dure_worker.engines.ark.blocks import FLOATS, READABLE, Floats, NotReadable, codes, floats

__all__ = ["Floats", "NotReadable", "dequantize", "quantize", "read", "read_by_runtime", "rounded", "rows", "runtime"]

# Kinds that the runtime quantizes without tables of its own. Of the others that it knows:
# - IQ2 and IQ3 need tables and, some of them, an importance. Their codes stand for eight or four weights at once, so
#   `quantize.compensated` cannot round them column by column.
# - Q2_0 has four levels without a minimum, a scale for 64 weights: of use only to models trained for it.
WRITABLE = READABLE | {TensorType.Q2_K, TensorType.Q3_K, TensorType.Q5_K, TensorType.IQ4_NL}


def dequantize(raw: bytes | memoryview, kind: TensorType, row_weights: int) -> Floats:
    """Rows of `row_weights` numbers. Raises NotReadable."""
    if kind in FLOATS:
        return floats(raw, kind, row_weights)
    return codes(raw, kind, row_weights).numbers()


def read(raw: bytes | memoryview, kind: TensorType, row_weights: int) -> Floats:
    """As `dequantize`, also of kinds that only the runtime reads."""
    return dequantize(raw, kind, row_weights) if kind in READABLE else read_by_runtime(bytes(raw), kind, row_weights)


def rows(source: gguf.Gguf, tensor: gguf.Tensor, wanted: list[int]) -> Floats:
    """The wanted rows of a tensor as numbers, in that order."""
    raw = b"".join(gguf.rows(source, tensor, wanted))
    return dequantize(raw, tensor.type, tensor.shape[0])


def quantize(numbers: Floats, kind: TensorType, importance: Floats | None = None) -> bytes:
    """Rows of numbers as the runtime would quantize them. Raises NotReadable.

    importance: of each column; what is rounded badly there costs so much more
    """
    if kind is TensorType.F32:
        return numbers.astype("<f4").tobytes()
    if kind not in WRITABLE:
        raise NotReadable(f"weights of kind {kind.name} cannot be written here: take a file of another kind")
    num_rows, row_weights = numbers.shape
    weights, size = BLOCKS[kind]
    target = ctypes.create_string_buffer(numbers.size // weights * size)
    source = np.ascontiguousarray(numbers, np.float32)
    worth = None if importance is None else np.ascontiguousarray(importance, np.float32)
    pointer = None if worth is None else worth.ctypes.data
    _quantizer()(kind, source.ctypes.data, target, 0, num_rows, row_weights, pointer)
    return target.raw


def rounded(numbers: Floats, kind: TensorType, importance: Floats | None = None) -> Floats:
    """The numbers that are left of them once they have been written so."""
    return read_by_runtime(quantize(numbers, kind, importance), kind, numbers.shape[1])


def read_by_runtime(raw: bytes, kind: TensorType, row_weights: int) -> Floats:
    """Rows of a quantized kind, also of those that `dequantize` does not know."""
    weights, size = BLOCKS[kind]
    found = np.empty(len(raw) // size * weights, np.float32)
    read = getattr(runtime(), f"dequantize_row_{kind.name.lower().replace('_k', '_K')}")
    read(ctypes.c_char_p(raw), ctypes.c_void_p(found.ctypes.data), ctypes.c_int64(found.size))
    return found.reshape(-1, row_weights)


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
