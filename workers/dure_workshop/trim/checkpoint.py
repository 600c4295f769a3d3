"""Trimming a checkpoint: rows are copied, nothing is computed, and only a piece of one tensor is held at a time."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dure import safetensors
from dure.errors import ModelCorrupt, ModelError
from dure.one_step import one_step
from dure.safetensors import Safetensors, Tensor
from dure_workshop.trim import token_ids, tokenizer_json
from dure_workshop.trim.checkpoint_files import (
    CONFIG,
    GENERATION,
    INDEX,
    TOKENIZER,
    Checkpoint,
    is_vocabulary,
    read_json,
)
from dure_workshop.trim.choice import Choice, choose
from dure_workshop.trim.gguf_file import Progress
from dure_workshop.trim.token_ids import NewIds
from dure_workshop.trim.words import words_needed

_MERGES = "merges.txt"
# How further files that name ids are written again.
_REWRITTEN: dict[str, Callable[[dict[str, Any], NewIds], dict[str, Any]]] = {
    CONFIG: token_ids.remapped,
    GENERATION: token_ids.remapped,
    "tokenizer_config.json": token_ids.decoder_remapped,
    "added_tokens.json": token_ids.by_token_remapped,
    "vocab.json": token_ids.by_token_remapped,
}
# The same model in other forms would keep the old vocabulary.
_NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".model", ".tiktoken"}


def trim(
    source: Checkpoint,
    target: Path,
    languages: set[str],
    size: int,
    counts: Counter[int] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Choice:
    """Write the trimmed folder beside `target`, then put it there in one step. on_progress(bytes written, of all)."""
    choice = choose(source.vocabulary, languages, size, counts, _needed_ids(source, languages))
    try:
        with one_step(target) as folder:
            writing = _Writing(source, choice, folder, on_progress)
            folder.mkdir()
            writing.write()
    except OSError as error:
        needed = writing.total >> 20
        raise ModelError(f"{target} cannot be written ({error.strerror}): free {needed} MiB there") from None
    return choice


def _needed_ids(source: Checkpoint, languages: set[str]) -> set[int]:
    words = words_needed(source.chat_template(), languages)
    return source.named if source.segmenter is None else source.named.union(*map(source.segmenter.encode, words))


class _Writing:
    def __init__(self, source: Checkpoint, choice: Choice, folder: Path, on_progress: Progress) -> None:
        self._source, self._choice, self._folder, self._on_progress = source, choice, folder, on_progress
        self._new_ids = {old: new for new, old in enumerate(choice.kept)}
        self._shards = {
            shard.path.name: safetensors.placed(map(self._trimmed, shard.tensors.values())) for shard in source.shards
        }
        self._done = 0
        self.total = sum(tensor.num_bytes for tensors in self._shards.values() for tensor in tensors)

    def write(self) -> None:
        """Weights last: what can be refused is refused before the long part."""
        self._write_texts()
        for shard in self._source.shards:
            self._write(shard.path.name, self._blocks(shard))

    def _write_texts(self) -> None:
        source = self._source
        self._write_json(TOKENIZER, lambda: tokenizer_json.trimmed(source.tokenizer, self._new_ids))
        for name, content in source.files.items():
            self._write_json(name, partial(_REWRITTEN[name], content, self._new_ids))
        if (source.path / INDEX).is_file():
            self._write_json(INDEX, self._index)
        if (source.path / _MERGES).is_file():
            lines = ["#version: 0.2", *source.tokenizer.bpe.merges_among(set(self._new_ids)), ""]
            self._write(_MERGES, iter(["\n".join(lines).encode("utf-8")]))
        for path in sorted(source.path.iterdir()):
            if _is_copied(path) and not (self._folder / path.name).exists():
                shutil.copyfile(path, self._folder / path.name)

    def _trimmed(self, tensor: Tensor) -> Tensor:
        return replace(tensor, shape=(len(self._choice.kept), *tensor.shape[1:])) if is_vocabulary(tensor) else tensor

    def _blocks(self, shard: Safetensors) -> Iterator[bytes]:
        yield safetensors.head(self._shards[shard.path.name], shard.metadata)
        for tensor in shard.tensors.values():
            for piece in safetensors.rows(shard, tensor, self._choice.kept if is_vocabulary(tensor) else None):
                yield piece
                self._done += len(piece)
                self._on_progress(self._done, self.total)

    def _index(self) -> dict[str, Any]:
        old = read_json(self._source.path / INDEX)
        tensors = [tensor for each in self._shards.values() for tensor in each]
        sizes = {"total_size": self.total, "total_parameters": sum(tensor.num_weights for tensor in tensors)}
        metadata = {key: sizes.get(key, value) for key, value in old.get("metadata", {}).items()}
        places = {tensor.name: name for name, each in self._shards.items() for tensor in each}
        return old | {"metadata": metadata | {"total_size": self.total}, "weight_map": dict(sorted(places.items()))}

    def _write_json(self, name: str, content: Callable[[], dict[str, Any]]) -> None:
        try:
            text = json.dumps(content(), ensure_ascii=False, indent=2)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            path = self._source.path / name
            raise ModelCorrupt(f"{path} names tokens in a way that is not understood: take it again") from None
        self._write(name, iter([text.encode("utf-8")]))

    def _write(self, name: str, blocks: Iterator[bytes]) -> None:
        with (self._folder / name).open("wb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())


def _is_copied(path: Path) -> bool:
    return path.is_file() and path.suffix not in _NOT_COPIED and not path.name.startswith(".")
