"""Packed weights on disk: a safetensors file whose tensors are mapped as they lie, each at a multiple of 64 bytes.

Its header is written last, into room left for it: what a tensor needs is known when it is packed, and none is kept.
"""

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import torch

from dure import safetensors
from dure.errors import ModelCorrupt, ModelError
from dure.one_step import one_step
from dure.safetensors import Tensor

_HEADER_BYTES = 1 << 20
_ALIGNMENT = 64  # a cache line, and the widest register
_DTYPES = {"I8": torch.int8, "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_INFO = "dure"


class PackedFile:
    """tensors by name; info is what the writer said of them."""

    def __init__(self, tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
        self.tensors = tensors
        self.info = info

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map it. Raises ModelCorrupt."""
        found = safetensors.read(path)
        try:
            info = json.loads(found.metadata[_INFO])
        except (KeyError, ValueError):
            raise ModelCorrupt(f"{path} was not packed here: delete it, it is made again") from None
        with path.open("rb") as file:
            # Private: nobody writes to it. Read ahead at once, not page by page under the first question.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
            mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return cls(
            {
                tensor.name: torch.frombuffer(
                    mapped,
                    dtype=_DTYPES[tensor.dtype],
                    count=tensor.num_weights,
                    offset=found.data_start + tensor.offset,
                ).view(tensor.shape)
                for tensor in found.tensors.values()
            },
            info,
        )


class Writer:
    """Made by `writing`. vectors: what was added of them, by name; nothing larger is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._file.write(bytes(_HEADER_BYTES))
        self._tensors: list[Tensor] = []
        self.info: dict[str, Any] = {}
        self.vectors: dict[str, torch.Tensor] = {}

    def add(self, name: str, found: torch.Tensor) -> None:
        if found.dim() == 1 and found.is_floating_point():
            self.vectors[name] = found
        raw = found.contiguous().view(torch.uint8).numpy()
        offset = self._tensors[-1].end if self._tensors else 0
        self._tensors.append(Tensor(name, _NAMES[found.dtype], tuple(found.shape), offset))
        self._file.write(raw.data)
        if padding := -raw.nbytes % _ALIGNMENT:
            # The format knows no holes.
            self._tensors.append(Tensor(f"{name}.padding", "I8", (padding,), self._tensors[-1].end))
            self._file.write(bytes(padding))

    def finish(self) -> None:
        header = safetensors.head(self._tensors, {_INFO: json.dumps(self.info)}, _HEADER_BYTES)
        if len(header) > _HEADER_BYTES:
            raise ModelError("the header of the packed weights is too long: serve this model with another engine")
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """The file appears in one step when all is written. Raises ModelError where the disk has no room."""
    try:
        with one_step(path) as unfinished, unfinished.open("wb") as file:
            writer = Writer(file)
            yield writer
            writer.finish()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be written ({error.strerror}): free room there, or correct its rights"
        ) from None
