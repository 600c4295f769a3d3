"""GGUF files: everything but the weights is read and written here; weights are copied as the bytes they are.

Source: the GGUF specification, version 3 (ggml-org/ggml, docs/gguf.md). A model's 450,000 token and merge strings are
read in under a second; nothing of the weights is touched.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import IO, Any

from dure import file_rows
from dure.errors import ModelCorrupt

_MAGIC = b"GGUF"
_VERSIONS = {2, 3}
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
# Far above any real file; a broken length must not make us allocate the machine's memory.
_MOST_ITEMS = 1 << 24


class ValueType(IntEnum):
    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    ValueType.UINT8: "B", ValueType.INT8: "b", ValueType.UINT16: "H", ValueType.INT16: "h", ValueType.UINT32: "I",
    ValueType.INT32: "i", ValueType.FLOAT32: "f", ValueType.BOOL: "?", ValueType.UINT64: "Q", ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}  # fmt: skip


class TensorType(IntEnum):
    """Kinds of weights; the numbers are ggml's."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39


# Weights in a block, bytes of a block (ggml-common.h).
BLOCKS = {
    TensorType.F32: (1, 4), TensorType.F16: (1, 2), TensorType.BF16: (1, 2), TensorType.Q4_0: (32, 18),
    TensorType.Q4_1: (32, 20), TensorType.Q5_0: (32, 22), TensorType.Q5_1: (32, 24), TensorType.Q8_0: (32, 34),
    TensorType.Q2_K: (256, 84), TensorType.Q3_K: (256, 110), TensorType.Q4_K: (256, 144), TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210), TensorType.IQ2_XXS: (256, 66), TensorType.IQ2_XS: (256, 74),
    TensorType.IQ3_XXS: (256, 98), TensorType.IQ1_S: (256, 50), TensorType.IQ4_NL: (32, 18),
    TensorType.IQ3_S: (256, 110), TensorType.IQ2_S: (256, 82), TensorType.IQ4_XS: (256, 136),
    TensorType.IQ1_M: (256, 56), TensorType.TQ1_0: (256, 54), TensorType.TQ2_0: (256, 66), TensorType.MXFP4: (32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A metadata value. item_type is set for arrays, whose value is a list."""

    type: ValueType
    value: Any
    item_type: ValueType | None = None


@dataclass(frozen=True)
class Tensor:
    """Where a tensor's weights lie. shape as ggml has it: the length of a row first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int  # from the beginning of the data

    @property
    def row_bytes(self) -> int:
        weights, size = BLOCKS[self.type]
        return self.shape[0] // weights * size

    @property
    def num_rows(self) -> int:
        return prod(self.shape[1:])

    @property
    def num_bytes(self) -> int:
        return self.row_bytes * self.num_rows

    @property
    def num_weights(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Gguf:
    """A file's description; `data_start` is where the weights begin."""

    path: Path
    values: dict[str, Value]
    tensors: dict[str, Tensor]
    data_start: int

    def get(self, key: str, default: Any = None) -> Any:
        found = self.values.get(key)
        return default if found is None else found.value

    @property
    def architecture(self) -> str:
        return str(self.get("general.architecture", ""))

    def hyper(self, name: str, default: Any = None) -> Any:
        """A value under the architecture's own prefix."""
        return self.get(f"{self.architecture}.{name}", default)


def read(path: Path) -> Gguf:
    """Describe the file. Raises ModelCorrupt, which says what is wrong with it."""
    try:
        with path.open("rb") as file:
            found = _Reader(file, path).read()
    except (struct.error, UnicodeDecodeError, EOFError, ValueError, KeyError, OverflowError) as error:
        raise ModelCorrupt(f"{path} cannot be read as GGUF ({error or type(error).__name__}): fetch it again") from None
    size = path.stat().st_size
    for tensor in found.tensors.values():
        if found.data_start + tensor.offset + tensor.num_bytes > size:
            raise ModelCorrupt(f"{path} is cut short: the weights of {tensor.name} are missing; fetch it again")
    return found


# Types of tokens (tokenizer.ggml.token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Their rows are the vocabulary's; the output is missing where it uses the embedding's weights.
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
VOCABULARY = (EMBEDDING, OUTPUT)


def num_tokens(source: Gguf) -> int:
    """Raises ModelCorrupt where there are no embeddings, or where these or the output have another number of rows."""
    tokens = len(source.get("tokenizer.ggml.tokens") or ())
    for name in VOCABULARY:
        tensor = source.tensors.get(name)
        if tensor is not None and tensor.num_rows != tokens:
            raise ModelCorrupt(
                f"{source.path.name}: {name} has {tensor.num_rows} rows for {tokens} tokens: take an intact file"
            )
    if EMBEDDING not in source.tensors:
        raise ModelCorrupt(f"{source.path.name} has no embeddings: take a GGUF file of a language model")
    return tokens


class _Reader:
    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def read(self) -> Gguf:
        if self._file.read(4) != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._scalar("I")
        if version not in _VERSIONS:
            raise ValueError(f"GGUF version {version} is not known here")
        num_tensors, num_values = self._count(), self._count()
        values = {self._string(): self._value(ValueType(self._scalar("I"))) for _ in range(num_values)}
        tensors = {tensor.name: tensor for tensor in (self._tensor() for _ in range(num_tensors))}
        alignment = values[_ALIGNMENT_KEY].value if _ALIGNMENT_KEY in values else _DEFAULT_ALIGNMENT
        return Gguf(self._path, values, tensors, _aligned(self._file.tell(), alignment))

    def _bytes(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            raise EOFError("the file is cut short")
        return found

    def _scalar(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))[0]

    def _count(self) -> int:
        count = int(self._scalar("Q"))
        if count > _MOST_ITEMS:
            raise ValueError("a length in it is impossible")
        return count

    def _string(self) -> str:
        return self._bytes(self._count()).decode("utf-8")

    def _value(self, kind: ValueType) -> Value:
        if kind is ValueType.STRING:
            return Value(kind, self._string())
        if kind is not ValueType.ARRAY:
            return Value(kind, self._scalar(_FORMATS[kind]))
        item = ValueType(self._scalar("I"))
        count = self._count()
        if item is ValueType.STRING:
            return Value(kind, [self._string() for _ in range(count)], item)
        form = f"<{count}{_FORMATS[item]}"
        return Value(kind, list(struct.unpack(form, self._bytes(struct.calcsize(form)))), item)

    def _tensor(self) -> Tensor:
        name, num_dimensions = self._string(), self._scalar("I")
        shape = struct.unpack(f"<{num_dimensions}Q", self._bytes(8 * num_dimensions))
        kind = TensorType(self._scalar("I"))
        if not shape or shape[0] % BLOCKS[kind][0]:
            raise ValueError(f"the tensor {name} has an impossible shape")
        return Tensor(name, shape, kind, self._scalar("Q"))


def rows(source: Gguf, tensor: Tensor, wanted: list[int] | None = None) -> Iterator[bytes]:
    """Yield the bytes of a tensor, or of the wanted rows in that order, in pieces of some MB."""
    start = source.data_start + tensor.offset
    if wanted is None:
        return file_rows.block(source.path, start, tensor.num_bytes)
    return file_rows.rows(source.path, start, tensor.row_bytes, wanted)


def head(values: dict[str, Value], tensors: list[Tensor]) -> bytes:
    """Everything before the weights, padded to where they begin."""
    parts = [_MAGIC, struct.pack("<IQQ", 3, len(tensors), len(values))]
    for key, value in values.items():
        parts += [_packed_string(key), struct.pack("<I", value.type), _packed(value)]
    for tensor in tensors:
        parts.append(_packed_string(tensor.name))
        parts.append(
            struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, tensor.type, tensor.offset)
        )
    whole = b"".join(parts)
    return whole + bytes(_aligned(len(whole), alignment_of(values)) - len(whole))


def alignment_of(values: dict[str, Value]) -> int:
    return int(values[_ALIGNMENT_KEY].value) if _ALIGNMENT_KEY in values else _DEFAULT_ALIGNMENT


def placed(tensors: list[Tensor], alignment: int) -> list[Tensor]:
    """The same tensors one behind the other, each aligned."""
    offset, found = 0, []
    for tensor in tensors:
        found.append(Tensor(tensor.name, tensor.shape, tensor.type, offset))
        offset = _aligned(offset + tensor.num_bytes, alignment)
    return found


def padding(size: int, alignment: int) -> bytes:
    return bytes(_aligned(size, alignment) - size)


def _aligned(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment


def _packed_string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _packed(value: Value) -> bytes:
    if value.type is ValueType.STRING:
        return _packed_string(value.value)
    if value.type is not ValueType.ARRAY:
        return struct.pack(f"<{_FORMATS[value.type]}", value.value)
    item = value.item_type
    if item is None:
        raise ValueError("an array needs the type of its items")
    count = struct.pack("<IQ", item, len(value.value))
    if item is ValueType.STRING:
        return count + b"".join(_packed_string(text) for text in value.value)
    return count + struct.pack(f"<{len(value.value)}{_FORMATS[item]}", *value.value)
