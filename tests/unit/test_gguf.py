"""The GGUF codec on small files made here: what is written is read again, and what is broken is named."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure import gguf
from dure.errors import ModelCorrupt
from dure.gguf import Tensor, TensorType, Value, ValueType

VALUES = {
    "general.architecture": Value(ValueType.STRING, "두레"),
    "두레.block_count": Value(ValueType.UINT32, 2),
    "두레.eps": Value(ValueType.FLOAT32, 0.5),
    "두레.flag": Value(ValueType.BOOL, value=True),
    "words": Value(ValueType.ARRAY, ["가", "", "나다"], ValueType.STRING),
    "scores": Value(ValueType.ARRAY, [0.25, -1.0], ValueType.FLOAT32),
}


def write(path: Path, values: dict[str, Value] = VALUES) -> bytes:
    tensors = gguf.placed(
        [Tensor("a.weight", (32, 3), TensorType.Q8_0, 0), Tensor("b.bias", (5,), TensorType.F32, 0)],
        gguf.alignment_of(values),
    )
    weights = bytes(range(102)) + bytes(26) + bytes(range(20))
    path.write_bytes(gguf.head(values, tensors) + weights)
    return weights


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    weights = write(tmp_path / "m.gguf")
    found = gguf.read(tmp_path / "m.gguf")
    assert found.values == VALUES
    assert found.architecture == "두레"
    assert (found.hyper("block_count"), found.hyper("no such", 7)) == (2, 7)
    a, b = found.tensors["a.weight"], found.tensors["b.bias"]
    assert (a.row_bytes, a.num_rows, a.num_bytes, a.num_weights, b.num_bytes) == (34, 3, 102, 96, 20)
    assert b"".join(gguf.rows(found, a)) == weights[:102]
    assert b"".join(gguf.rows(found, b)) == weights[128:]


def test_chosen_rows_come_in_their_order(tmp_path: Path) -> None:
    weights = write(tmp_path / "m.gguf")
    found = gguf.read(tmp_path / "m.gguf")
    rows = [weights[34 * n : 34 * (n + 1)] for n in range(3)]
    assert b"".join(gguf.rows(found, found.tensors["a.weight"], [0, 2])) == rows[0] + rows[2]
    assert b"".join(gguf.rows(found, found.tensors["a.weight"], [1, 2])) == rows[1] + rows[2]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(cut=st.integers(0, 10**6))
def test_a_file_cut_anywhere_is_named_corrupt(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "m.gguf"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(ModelCorrupt, match="fetch it again"):
        gguf.read(path)


@pytest.mark.parametrize(
    ("place", "raw", "why"),
    [
        (0, b"GGML", "does not begin with GGUF"),
        (4, struct.pack("<I", 9), "version 9"),
        (8, struct.pack("<Q", 1 << 60), "impossible"),
        (16, struct.pack("<Q", 1 << 60), "impossible"),
        (24, struct.pack("<Q", 1 << 40), "impossible"),
    ],
)
def test_what_is_broken_is_said_and_no_memory_is_taken_for_it(tmp_path: Path, place: int, raw: bytes, why: str) -> None:
    path = tmp_path / "m.gguf"
    write(path)
    whole = bytearray(path.read_bytes())
    whole[place : place + len(raw)] = raw
    path.write_bytes(whole)
    with pytest.raises(ModelCorrupt, match=why):
        gguf.read(path)


def test_another_alignment_is_kept(tmp_path: Path) -> None:
    values = VALUES | {"general.alignment": Value(ValueType.UINT32, 64)}
    path = tmp_path / "m.gguf"
    tensors = gguf.placed([Tensor("a", (32, 1), TensorType.Q8_0, 0), Tensor("b", (1,), TensorType.F32, 0)], 64)
    path.write_bytes(gguf.head(values, tensors) + bytes(34) + gguf.padding(34, 64) + b"\x01\x02\x03\x04")
    found = gguf.read(path)
    assert found.data_start % 64 == 0
    assert found.tensors["b"].offset == 64
    assert b"".join(gguf.rows(found, found.tensors["b"])) == b"\x01\x02\x03\x04"
