"""Keys and values of conversations on disk: one that comes back after its slot was taken, or after a restart, is not
read again.

They tell what was said as well as the text does: this is off unless asked for, files are readable by their owner only,
and none outlives its conversation's own time (`keys.KEEP_CONVERSATION_S`).
"""

import contextlib
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dure import safetensors
from dure.errors import ModelCorrupt
from dure.keys import KEEP_CONVERSATION_S
from dure.one_step import one_step
from dure.safetensors import Tensor

log = logging.getLogger(__name__)

_LEAST_TOKENS = 64  # fewer are read faster than found
_PATTERN = "*.kv"
_DTYPES = {"I8": torch.int8, "F32": torch.float32, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class _Entry:
    path: Path
    ids: list[int]


class KvStore:
    """model    names weights, precision and context: what another wrote is not read."""

    def __init__(self, folder: Path, limit_bytes: int, model: str) -> None:
        self._folder, self._limit_bytes, self._model = folder, limit_bytes, model
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._entries: dict[Path, _Entry] = {}
        for path in folder.glob(_PATTERN):
            if (entry := self._entry(path)) is not None:
                self._entries[path] = entry
        self._make_room()

    def longest(self, ids: Sequence[int]) -> tuple[int, Path | None]:
        """How many of these tokens a file holds at its beginning, and which."""
        best = max(self._entries.values(), key=lambda entry: common(entry.ids, ids), default=None)
        count = 0 if best is None else common(best.ids, ids)
        return (count, best.path) if best is not None and count else (0, None)

    def wants(self, ids: list[int]) -> bool:
        """Whether it is worth a file, and none has it yet."""
        return len(ids) >= _LEAST_TOKENS and all(entry.ids[: len(ids)] != ids for entry in self._entries.values())

    def save(self, ids: list[int], parts: list[torch.Tensor]) -> None:
        """Never raises for what the disk does: the conversation is only read again then."""
        if not self.wants(ids):
            return
        path = self._folder / f"{hashlib.sha256(repr((self._model, ids)).encode()).hexdigest()[:24]}.kv"
        try:
            self._write(path, ids, parts)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error.strerror, extra={"action": "kv.save"})
            return
        # What it goes on from is in it.
        for entry in [entry for entry in self._entries.values() if entry.ids == ids[: len(entry.ids)]]:
            self._forget(entry.path)
        self._entries[path] = _Entry(path, ids)
        self._make_room()

    def load(self, path: Path, num_tokens: int) -> list[torch.Tensor] | None:
        """A file's first tokens. None, and the file is gone, where it is damaged."""
        try:
            found = safetensors.read(path)
            raw = path.read_bytes()[found.data_start :]
            if zlib.crc32(raw) != int(found.metadata["crc32"]):
                raise ModelCorrupt(f"{path} is damaged")
            path.touch()
            return [_view(raw, tensor)[:, :, :, :num_tokens] for tensor in found.tensors.values()]
        except (OSError, ModelCorrupt, KeyError, ValueError) as error:
            log.warning("%s is not used: %s", path, error, extra={"action": "kv.load"})
            self._forget(path)
            return None

    def _write(self, path: Path, ids: list[int], parts: list[torch.Tensor]) -> None:
        raw = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
        tensors = safetensors.placed(
            Tensor(str(number), _NAMES[part.dtype], tuple(part.shape), 0) for number, part in enumerate(parts)
        )
        metadata = {"model": self._model, "ids": json.dumps(ids), "crc32": str(zlib.crc32(raw))}
        with one_step(path) as unfinished:
            unfinished.touch(mode=0o600)
            unfinished.write_bytes(safetensors.head(tensors, metadata) + raw)

    def _entry(self, path: Path) -> _Entry | None:
        """None, and the file is gone, where nobody will read it again."""
        try:
            metadata = safetensors.read(path).metadata
            if metadata["model"] == self._model:
                return _Entry(path, json.loads(metadata["ids"]))
        except (OSError, ModelCorrupt, KeyError, ValueError):
            log.warning("%s is damaged and is deleted", path, extra={"action": "kv.load"})
        self._forget(path)
        return None

    def _make_room(self) -> None:
        """Too old, then the ones unused for longest beyond the limit."""
        aged = []
        for path in list(self._entries):
            try:
                status = path.stat()
            except OSError:
                self._forget(path)
                continue
            if status.st_mtime < time.time() - KEEP_CONVERSATION_S:
                self._forget(path)
            else:
                aged.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in aged)
        for _, size, path in sorted(aged):
            if total <= self._limit_bytes:
                break
            self._forget(path)
            total -= size

    def _forget(self, path: Path) -> None:
        self._entries.pop(path, None)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next(
        (n for n, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )


def _view(raw: bytes, tensor: Tensor) -> torch.Tensor:
    # A copy: bytes cannot be written to, and torch warns of that.
    piece = bytearray(raw[tensor.offset : tensor.end])
    return torch.frombuffer(piece, dtype=_DTYPES[tensor.dtype]).view(tensor.shape)
