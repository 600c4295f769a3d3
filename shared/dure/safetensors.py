"""Safetensors files: their header is read and written here; weights are copied as the bytes they are.

Source: the format's description (huggingface/safetensors, README): the header's length (8 bytes, little-endian), a JSON
header, then the tensors' bytes without holes. Trailing spaces pad the header, so that the weights are aligned.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, Any

from dure import file_rows
from dure.errors import ModelCorrupt

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # as the format's own library has it: a broken length must not take all memory
_ALIGNMENT = 8
_METADATA = "__metadata__"

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where a tensor's weights lie. shape: rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the beginning of the data

    @property
    def num_weights(self) -> int:
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_weights * DTYPE_BYTES[self.dtype]

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    @property
    def end(self) -> int:
        return self.offset + self.num_bytes


@dataclass(frozen=True)
class Safetensors:
    """A file's description, its tensors in order of offset; `data_start` is where the weights begin."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data_start: int


def read(path: Path) -> Safetensors:
    """Describe the file. Raises ModelCorrupt, which says what is wrong with it."""
    try:
        with path.open("rb") as file:
            size, header = _header(file)
        metadata = header.pop(_METADATA, {})
        tensors = sorted((_tensor(name, entry) for name, entry in header.items()), key=lambda each: each.offset)
        _check_places(tensors, path.stat().st_size - size)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError) as error:
        said = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else error
        raise ModelCorrupt(f"{path} cannot be read as safetensors ({said}): fetch it again") from None
    return Safetensors(path, {tensor.name: tensor for tensor in tensors}, metadata, size)


def _header(file: IO[bytes]) -> tuple[int, dict[str, Any]]:
    """Where the weights begin, and the JSON before them."""
    length = int.from_bytes(_read(file, _LENGTH_BYTES), "little")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"its header would have {length} bytes")
    found = json.loads(_read(file, length))
    if not isinstance(found, dict):
        raise TypeError("its header is no JSON object")
    return _LENGTH_BYTES + length, found


def _read(file: IO[bytes], size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise EOFError("the file is cut short in its header")
    return found


def _tensor(name: str, entry: dict[str, Any]) -> Tensor:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"the tensor {name} is of the type {dtype}, which is not known here")
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError(f"the tensor {name} has an impossible shape or place")
    tensor = Tensor(name, dtype, tuple(shape), start)
    if tensor.end != end:
        raise ValueError(f"the tensor {name} has {end - start} bytes where its shape needs {tensor.num_bytes}")
    return tensor


def _check_places(tensors: list[Tensor], num_bytes: int) -> None:
    """The format forbids holes, overlaps and anything behind the last tensor."""
    place = 0
    for tensor in tensors:
        if tensor.end > num_bytes:
            raise ValueError(f"it is cut short: the weights of {tensor.name} are missing")
        if tensor.offset != place:
            raise ValueError(f"the weights of {tensor.name} overlap others or leave a hole")
        place = tensor.end
    if place != num_bytes:
        raise ValueError(f"{num_bytes - place} bytes behind the last tensor belong to none")


def rows(source: Safetensors, tensor: Tensor, wanted: list[int] | None = None) -> Iterator[bytes]:
    """Yield the bytes of a tensor, or of the wanted rows in that order, in pieces of some MB."""
    start = source.data_start + tensor.offset
    if wanted is None:
        return file_rows.block(source.path, start, tensor.num_bytes)
    return file_rows.rows(source.path, start, tensor.row_bytes, wanted)


def placed(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors one behind the other."""
    found: list[Tensor] = []
    for tensor in tensors:
        found.append(replace(tensor, offset=found[-1].end if found else 0))
    return found


def head(tensors: list[Tensor], metadata: dict[str, str], room: int = 0) -> bytes:
    """Everything before the weights: `room` bytes, or more where it needs them."""
    content: dict[str, Any] = {_METADATA: metadata} if metadata else {}
    for tensor in tensors:
        place = [tensor.offset, tensor.end]
        content[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    text = text.ljust(room - _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text
