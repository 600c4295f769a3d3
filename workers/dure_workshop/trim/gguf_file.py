"""Trimming a GGUF file: rows of quantized weights are copied, nothing is computed."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from dure import gguf
from dure.errors import ModelCorrupt, ModelError
from dure.gguf import Gguf, Tensor, Value, ValueType
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.choice import Choice, choose
from dure_workshop.trim.text import Segmenter, is_known

_TOKENS, _KINDS, _SCORES, _MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges"))

Progress = Callable[[int, int], None]


class NotTrimmable(ModelError):
    """The file's vocabulary is of a kind that cannot be cut here."""


def vocabulary(source: Gguf) -> tuple[Bpe, list[int]]:
    """The vocabulary and the kind of each token. Raises NotTrimmable, ModelCorrupt."""
    if source.get("tokenizer.ggml.model") != "gpt2":
        kind = source.get("tokenizer.ggml.model", "none")
        raise NotTrimmable(f"{source.path.name} has a vocabulary of kind {kind}; byte-level BPE (gpt2) can be trimmed")
    kinds = source.get(_KINDS, [])
    if len(kinds) != gguf.num_tokens(source):
        raise ModelCorrupt(f"{source.path.name} lacks token types: take an intact file")
    return Bpe(source.get(_TOKENS), source.get(_MERGES, [])), kinds


def trim(
    source: Gguf,
    target: Path,
    languages: set[str],
    size: int,
    counts: Counter[int] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Choice:
    """Write the trimmed file beside `target`, then put it there in one step. on_progress(bytes written, of all)."""
    bpe, kinds = vocabulary(source)
    choice = choose(bpe, kinds, languages, size, counts, _needed_ids(source, bpe, languages))
    values = _trimmed_values(source, bpe, choice)
    tensors = gguf.placed([_trimmed(tensor, choice) for tensor in source.tensors.values()], gguf.alignment_of(values))
    total = sum(tensor.num_bytes for tensor in tensors)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(gguf.head(values, tensors))
            done = 0
            for piece in _weights(source, tensors, choice, gguf.alignment_of(values)):
                file.write(piece)
                done += len(piece)
                on_progress(min(done, total), total)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError as error:
        raise ModelError(f"{target} cannot be written ({error.strerror}): free {total >> 20} MiB there") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return choice


def _needed_ids(source: Gguf, bpe: Bpe, languages: set[str]) -> set[int]:
    """Tokens of the chat template's own words, which each prompt has, and of Latin words common in Korean text."""
    pre = source.get("tokenizer.ggml.pre", "")
    if not is_known(pre):
        return set()
    # Literal words lie in quotes between code; what stands at the edge of a quote is segmented as if alone.
    template = source.get("tokenizer.chat_template", "").splitlines()
    words = {word for line in template for word in re.split(r"[{}%'\"]|\\n", line)}
    words |= {word.strip() for word in words}
    if "korean" in languages:
        latin = latin_in_korean()
        words |= {form for word in latin for form in (word, f" {word}", word.lower(), f" {word.lower()}", f".{word}")}
    segmenter = Segmenter(bpe, pre)
    return {number for word in words for number in segmenter.encode(word)}


def latin_in_korean() -> list[str]:
    lines = (files("dure_workshop") / "trim" / "latin_in_korean.txt").read_text("utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def _trimmed_values(source: Gguf, bpe: Bpe, choice: Choice) -> dict[str, Value]:
    new_ids = {old: new for new, old in enumerate(choice.kept)}
    values = dict(source.values)
    for key, value in source.values.items():
        if key in {_TOKENS, _KINDS, _SCORES}:
            values[key] = replace(value, value=[value.value[old] for old in choice.kept])
        elif key == _MERGES:
            values[key] = replace(value, value=bpe.merges_among(set(choice.kept)))
        elif key.endswith("token_id") and value.type is not ValueType.ARRAY:
            values[key] = replace(value, value=_new_id(key, value.value, new_ids))
        elif key.endswith(("token_ids", "_tokens")) and value.type is ValueType.ARRAY:
            values[key] = replace(value, value=[new_ids[old] for old in value.value if old in new_ids])
    size_key = f"{source.architecture}.vocab_size"
    if size_key in values:
        values[size_key] = replace(values[size_key], value=len(choice.kept))
    return values


def _new_id(key: str, old: int, new_ids: dict[int, int]) -> int:
    if old not in new_ids:
        raise NotTrimmable(f"{key} names token {old}, which is no special token and was cut")
    return new_ids[old]


def _trimmed(tensor: Tensor, choice: Choice) -> Tensor:
    if tensor.name not in gguf.VOCABULARY:
        return tensor
    return replace(tensor, shape=(tensor.shape[0], len(choice.kept)))


def _weights(source: Gguf, tensors: list[Tensor], choice: Choice, alignment: int) -> Iterator[Any]:
    for tensor in tensors:
        wanted = choice.kept if tensor.name in gguf.VOCABULARY else None
        yield from gguf.rows(source, source.tensors[tensor.name], wanted)
        yield gguf.padding(tensor.num_bytes, alignment)
