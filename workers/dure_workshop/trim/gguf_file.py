"""Trimming a GGUF file: rows of quantized weights are copied, nothing is computed."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dure import gguf
from dure.errors import ModelCorrupt, ModelError
from dure.gguf import Gguf, Tensor, TensorType, Value, ValueType
from dure.one_step import one_step
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.choice import Choice, choose
from dure_workshop.trim.spm import Spm
from dure_workshop.trim.text import Encoder, segmenter_of
from dure_workshop.trim.vocabulary import NotTrimmable, Vocabulary, check_bytes
from dure_workshop.trim.words import words_needed

_TOKENS, _KINDS, _SCORES, _MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges"))

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GgufModel:
    """A file with its vocabulary, ready to be trimmed. Raises NotTrimmable, ModelCorrupt when it is made."""

    source: Gguf

    @classmethod
    def read(cls, path: Path) -> "GgufModel":
        try:
            return cls(gguf.read(path))
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}): name a .gguf file") from None

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def row_bytes(self) -> int:
        """Of a token's row, in the output too where it has its own."""
        return sum(self.source.tensors[name].row_bytes for name in gguf.VOCABULARY if name in self.source.tensors)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return vocabulary(self.source)

    @property
    def pre(self) -> str:
        return str(self.source.get("tokenizer.ggml.pre", "none"))

    @cached_property
    def segmenter(self) -> Encoder | None:
        return segmenter_of(self.vocabulary, self.pre)


def vocabulary(source: Gguf) -> Bpe | Spm:
    """The file's vocabulary, checked. Raises NotTrimmable, ModelCorrupt."""
    name, kind = source.path.name, source.get("tokenizer.ggml.model", "none")
    if kind not in {"gpt2", "llama"}:
        raise NotTrimmable(
            f"{name} has a vocabulary of kind {kind}: byte-level BPE (gpt2) and SentencePiece (llama) can be trimmed"
        )
    lists = [source.get(key, []) for key in (_TOKENS, _KINDS, *([_SCORES] if kind == "llama" else []))]
    if any(len(values) != gguf.num_tokens(source) for values in lists):
        raise ModelCorrupt(f"{name} lacks types or scores of its tokens: take an intact file")
    found: Bpe | Spm
    if kind == "llama":
        found = Spm(lists[0], lists[2], lists[1], bool(source.get("tokenizer.ggml.add_space_prefix", True)))
    else:
        found = Bpe(lists[0], source.get(_MERGES, []), lists[1])
        found.check(name)
    check_bytes(found, name)
    return found


def trim(
    source: Gguf,
    target: Path,
    languages: set[str],
    size: int,
    counts: Counter[int] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Choice:
    """Write the trimmed file beside `target`, then put it there in one step. on_progress(bytes written, of all)."""
    found = vocabulary(source)
    choice = choose(found, languages, size, counts, _needed_ids(source, found, languages))
    values = _trimmed_values(source, found, choice)
    tensors = gguf.placed([_trimmed(tensor, choice) for tensor in source.tensors.values()], gguf.alignment_of(values))
    write(target, values, tensors, _weights(source, tensors, choice, gguf.alignment_of(values)), on_progress)
    return choice


def in_kinds(source: Gguf, kinds: Mapping[str, TensorType]) -> tuple[dict[str, Value], list[Tensor]]:
    """Values of the same file with these kinds by names of tensors, and where its tensors will lie."""
    # The kind of the file as a whole is no longer true.
    values = {key: value for key, value in source.values.items() if key != "general.file_type"}
    tensors = [replace(tensor, type=kinds.get(name, tensor.type)) for name, tensor in source.tensors.items()]
    return values, gguf.placed(tensors, gguf.alignment_of(values))


def rewrite(
    source: Gguf,
    target: Path,
    kinds: Mapping[str, TensorType],
    new: Callable[[Tensor], Iterable[bytes]],
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Write the same file in one step, with the named tensors in these kinds; the others keep their bytes.

    new: of a named tensor, in its new kind and place, the bytes. Raises ModelError; then nothing is left.
    """
    values, placed = in_kinds(source, kinds)
    alignment = gguf.alignment_of(values)

    def weights() -> Iterator[bytes]:
        for tensor in placed:
            yield from new(tensor) if tensor.name in kinds else gguf.rows(source, source.tensors[tensor.name])
            yield gguf.padding(tensor.num_bytes, alignment)

    write(target, values, placed, weights(), on_progress)


def write(
    target: Path, values: dict[str, Value], tensors: list[Tensor], weights: Iterator[Any], on_progress: Progress
) -> None:
    """Write a whole file beside `target`, then put it there in one step. Raises ModelError; then nothing is left."""
    total = sum(tensor.num_bytes for tensor in tensors)
    try:
        with one_step(target) as unfinished, unfinished.open("wb") as file:
            file.write(gguf.head(values, tensors))
            done = 0
            for piece in weights:
                file.write(piece)
                done += len(piece)
                on_progress(min(done, total), total)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ModelError(f"{target} cannot be written ({error.strerror}): free {total >> 20} MiB there") from None


def _needed_ids(source: Gguf, found: Bpe | Spm, languages: set[str]) -> set[int]:
    """Tokens that the file itself names, and those of words that every prompt or much of Korean text has."""
    named = {value.value for key, value in source.values.items() if _is_id(key, value)}
    if not named <= set(range(len(found.tokens))):
        raise ModelCorrupt(f"{source.path.name} names a token beyond its {len(found.tokens)}: take an intact file")
    segmenter = segmenter_of(found, source.get("tokenizer.ggml.pre", ""))
    words = words_needed(source.get("tokenizer.chat_template", ""), languages)
    return named if segmenter is None else named.union(*map(segmenter.encode, words))


def _is_id(key: str, value: Value) -> bool:
    return key.endswith("token_id") and value.type is not ValueType.ARRAY


def _trimmed_values(source: Gguf, found: Bpe | Spm, choice: Choice) -> dict[str, Value]:
    new_ids = {old: new for new, old in enumerate(choice.kept)}
    values = dict(source.values)
    for key, value in source.values.items():
        if key in {_TOKENS, _KINDS, _SCORES}:
            values[key] = replace(value, value=[value.value[old] for old in choice.kept])
        elif key == _MERGES and isinstance(found, Bpe):
            values[key] = replace(value, value=found.merges_among(set(choice.kept)))
        elif _is_id(key, value):
            values[key] = replace(value, value=new_ids[value.value])
        elif key.endswith(("token_ids", "_tokens")) and value.type is ValueType.ARRAY:
            values[key] = replace(value, value=[new_ids[old] for old in value.value if old in new_ids])
    size_key = f"{source.architecture}.vocab_size"
    if size_key in values:
        values[size_key] = replace(values[size_key], value=len(choice.kept))
    return values


def _trimmed(tensor: Tensor, choice: Choice) -> Tensor:
    if tensor.name not in gguf.VOCABULARY:
        return tensor
    return replace(tensor, shape=(tensor.shape[0], len(choice.kept)))


def _weights(source: Gguf, tensors: list[Tensor], choice: Choice, alignment: int) -> Iterator[Any]:
    for tensor in tensors:
        wanted = choice.kept if tensor.name in gguf.VOCABULARY else None
        yield from gguf.rows(source, source.tensors[tensor.name], wanted)
        yield gguf.padding(tensor.num_bytes, alignment)
