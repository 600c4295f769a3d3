"""The safetensors codec: what it writes it reads, what is broken is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure import file_rows, safetensors
from dure.errors import ModelCorrupt
from dure.safetensors import Tensor

TENSORS = safetensors.placed([Tensor("표", "BF16", (3, 2), 0), Tensor("n", "F32", (2,), 0), Tensor("s", "I64", (), 0)])
BODY = bytes(range(12)) + b"weights." + b"8 bytes!"


def file_of(path: Path, header: Any, body: bytes = BODY, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def entry(dtype: str, shape: Any, start: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors.head(TENSORS, {"format": "pt"}) + BODY)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    found = safetensors.read(path)
    assert list(found.tensors.values()) == TENSORS
    assert found.metadata == {"format": "pt"}
    assert [b"".join(safetensors.rows(found, tensor)) for tensor in TENSORS] == [BODY[:12], BODY[12:20], BODY[20:]]


@pytest.mark.parametrize("length", range(8))
def test_weights_are_aligned_however_long_the_header_is(length: int) -> None:
    assert len(safetensors.head(TENSORS, {"x": "y" * length})) % 8 == 0


def test_the_header_is_as_the_format_says(path: Path) -> None:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["표"] == entry("BF16", [3, 2], 0, 12)
    assert header["n"] == entry("F32", [2], 12, 20)
    assert header["__metadata__"] == {"format": "pt"}


def test_rows_come_in_the_order_asked_for(path: Path) -> None:
    found = safetensors.read(path)
    assert b"".join(safetensors.rows(found, found.tensors["표"], [0, 2])) == BODY[:4] + BODY[8:12]
    assert b"".join(safetensors.rows(found, found.tensors["표"], [])) == b""


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.integers(0, 2), max_size=6))
def test_any_rows_are_those_rows(tmp_path_factory: pytest.TempPathFactory, wanted: list[int]) -> None:
    path = tmp_path_factory.mktemp("rows") / "m.safetensors"
    path.write_bytes(safetensors.head(TENSORS, {}) + BODY)
    found = safetensors.read(path)
    rows = b"".join(safetensors.rows(found, found.tensors["표"], wanted))
    assert rows == b"".join(BODY[4 * number : 4 * number + 4] for number in wanted)


def test_no_piece_is_larger_than_the_limit_however_many_rows_are_neighbours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "PIECE_BYTES", 5)
    found = safetensors.read(path)
    for wanted in (None, [0, 1, 2]):
        pieces = list(safetensors.rows(found, found.tensors["표"], wanted))
        assert [len(piece) for piece in pieces] == [5, 5, 2]
        assert b"".join(pieces) == BODY[:12]


def test_tensors_are_read_in_order_of_place_whatever_the_headers_order(tmp_path: Path) -> None:
    header = {"b": entry("U8", [8], 20, 28), "a": entry("U8", [20], 0, 20)}
    assert list(safetensors.read(file_of(tmp_path / "m", header)).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry("U8", [20], 0, 20), "b": entry("U8", [9], 20, 29)}, "the weights of b are missing"),
        ({"a": entry("U8", [20], 0, 20), "b": entry("U8", [10], 18, 28)}, "the weights of b overlap"),
        ({"a": entry("U8", [18], 0, 18), "b": entry("U8", [8], 20, 28)}, "b overlap others or leave a hole"),
        ({"a": entry("U8", [20], 0, 20)}, "8 bytes behind the last tensor"),
        ({"a": entry("F32", [8], 0, 28)}, "the tensor a has 28 bytes where its shape needs 32"),
        ({"a": entry("U8", [-4, -7], 0, 28)}, "impossible shape"),
        ({"a": entry("U8", [28.0], 0, 28)}, "impossible shape"),
        ({"a": entry("F4", [56], 0, 28)}, "the type F4"),
        ({"a": {"dtype": "U8", "shape": [28]}}, "data_offsets"),
        ({"a": entry("U8", None, 0, 28)}, "cannot be read"),
        ({"a": 3}, "cannot be read"),
        ([], "no JSON object"),
        (b"{not json", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_a_broken_file_is_refused_by_name_with_the_remedy(tmp_path: Path, header: Any, said: str) -> None:
    with pytest.raises(ModelCorrupt, match=said) as caught:
        safetensors.read(file_of(tmp_path / "m.safetensors", header))
    assert "m.safetensors cannot be read as safetensors" in str(caught.value)
    assert str(caught.value).endswith("fetch it again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [1 << 62, 10**8 + 1, 99_999_999])
def test_an_impossible_length_takes_no_memory(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelCorrupt, match=r"cut short|would have"):
        safetensors.read(file_of(tmp_path / "m", {}, length=length))


@pytest.mark.parametrize("size", range(0, 200, 7))
def test_a_file_that_is_cut_short_anywhere_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelCorrupt, match="cut short"):
        safetensors.read(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(path: Path) -> None:
    found = safetensors.read(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelCorrupt, match="4 bytes of a tensor are missing"):
        list(safetensors.rows(found, found.tensors["s"]))
