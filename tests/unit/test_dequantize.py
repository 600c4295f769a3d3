"""Numbers from quantized weights, against the runtime's own functions over the same blocks."""

import ctypes

import numpy as np
import pytest

from dure.gguf import BLOCKS, TensorType
from dure_workshop.dequantize import NotReadable, dequantize, quantize, runtime

ROW = 512
EXACT = {
    TensorType.Q8_0: "dequantize_row_q8_0",
    TensorType.Q5_0: "dequantize_row_q5_0",
    TensorType.Q4_K: "dequantize_row_q4_K",
    TensorType.Q6_K: "dequantize_row_q6_K",
}
# How far a number may be from itself after a round trip, as a part of the largest: half a step and the scale's own.
STEP = {
    TensorType.F32: 0.0,
    TensorType.F16: 2**-11,
    TensorType.BF16: 2**-8,
    TensorType.Q8_0: 1 / 200,
    TensorType.Q6_K: 1 / 50,
    TensorType.Q5_0: 1 / 20,
    TensorType.Q4_K: 1 / 10,
}


def numbers() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(7, ROW)).astype(np.float32)


def by_runtime(raw: bytes, name: str) -> np.ndarray:
    found = np.empty((7, ROW), np.float32)
    function = getattr(runtime(), name)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(raw, found.ctypes.data, found.size)
    return found


@pytest.mark.parametrize("kind", EXACT)
def test_each_number_is_the_runtimes(kind: TensorType) -> None:
    raw = quantize(numbers(), kind)
    assert np.array_equal(dequantize(raw, kind, ROW), by_runtime(raw, EXACT[kind]))


@pytest.mark.parametrize("kind", EXACT)
def test_every_pattern_of_bits_is_read_as_the_runtime_reads_it(kind: TensorType) -> None:
    """A quantizer uses only some of the patterns; each bit of scales and quants must be in its place all the same."""
    weights, size = BLOCKS[kind]
    blocks = np.random.default_rng(2).integers(0, 256, (7 * ROW // weights, size), np.uint8)
    for start in (208,) if kind is TensorType.Q6_K else (0, 2) if kind is TensorType.Q4_K else (0,):
        blocks[:, start + 1] &= 0x3B  # 16-bit numbers below 1: neither infinite nor undefined
    raw = blocks.tobytes()
    assert np.allclose(dequantize(raw, kind, ROW), by_runtime(raw, EXACT[kind]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", STEP)
def test_a_number_comes_back_within_its_step(kind: TensorType) -> None:
    wanted = numbers()
    found = dequantize(quantize(wanted, kind), kind, ROW)
    assert np.abs(found - wanted).max() <= STEP[kind] * np.abs(wanted).max()


def test_a_kind_that_is_not_read_is_named() -> None:
    with pytest.raises(NotReadable, match="IQ4_XS"):
        dequantize(bytes(136), TensorType.IQ4_XS, 256)
    with pytest.raises(NotReadable, match="IQ4_XS"):
        quantize(numbers(), TensorType.IQ4_XS)
