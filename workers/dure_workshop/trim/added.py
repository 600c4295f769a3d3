"""Whole-word Korean tokens for a GGUF file with a byte-level BPE, without training: longer tokens, fewer of them.

BPE goes on where it stopped, over text of the user's: the neighbours that meet most often become one token, whose merge
comes last, so that all other text is segmented as before. Its rows, in the embedding and in the output, are the means
of the rows of the two it is made of (Yao et al. 2021, "Adapt-and-Distill", start new words so).
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex

from dure import gguf
from dure.byte_tokens import as_bytes
from dure.errors import ModelError, SettingsError
from dure.gguf import NORMAL, Gguf, Tensor, Value
from dure.split_patterns import PATTERNS
from dure_workshop.dequantize import dequantize, quantize
from dure_workshop.perplexity import Perplexity, perplexity
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.gguf_file import GgufModel, Progress, write
from dure_workshop.trim.vocabulary import NotTrimmable

# Of the text's likelihood, in bits a byte: so much worse at most.
MOST_WORSE = 0.005
_KOREAN = re.compile(r" ?[가-힣]+")

Pair = tuple[str, str]


class TooCostly(ModelError):
    """The new tokens make the text less likely than allowed."""


@dataclass(frozen=True)
class Added:
    """What it brought on held-out text: tokens, and how well it is foreseen."""

    words: list[str]
    before: Perplexity
    after: Perplexity

    @property
    def tokens_saved(self) -> float:
        """A part of all; per byte, since the first tokens of a text are not scored."""
        before, after = (found.num_tokens / found.num_bytes for found in (self.before, self.after))
        return 1 - after / before

    @property
    def worse(self) -> float:
        return self.after.bits_per_byte / self.before.bits_per_byte - 1


def add_words(
    source: GgufModel,
    target: Path,
    text: str,
    held_out: str,
    number: int,
    most_worse: float = MOST_WORSE,
    on_progress: Progress = lambda done, total: None,
) -> Added:
    """Write a file with `number` more tokens. Raises NotTrimmable, SettingsError; TooCostly, then nothing is left."""
    bpe = source.vocabulary
    if not isinstance(bpe, Bpe) or source.pre not in PATTERNS:
        raise NotTrimmable(f"{source.path.name}: words can be added to a byte-level BPE of a known pattern only")
    before = perplexity(source.path, held_out)
    pairs = new_pairs(bpe, PATTERNS[source.pre], text, number)
    values, tensors = _values(source.source, bpe, pairs), _tensors(source.source, len(pairs))
    write(target, values, tensors, _weights(source.source, tensors, bpe, pairs), on_progress)
    after = perplexity(target, held_out)
    found = Added([(as_bytes(left + right) or b"").decode() for left, right in pairs], before, after)
    if found.worse > most_worse:
        target.unlink()
        raise TooCostly(
            f"{number} added words make the text {found.worse:.1%} less likely, {most_worse:.1%} are allowed "
            f"(tokens saved: {found.tokens_saved:.1%}): add fewer, or none"
        )
    return found


def new_pairs(bpe: Bpe, pattern: str, text: str, number: int) -> list[Pair]:
    """The pairs to merge, most frequent first; each may be made of earlier ones. Raises SettingsError."""
    pieces = Counter(piece for piece in regex.findall(pattern, text) if _KOREAN.fullmatch(piece))
    words = [(bpe.encode(piece.encode()), count) for piece, count in pieces.items()]
    known, found = set(bpe.ids), list[Pair]()
    for _ in range(number):
        counts: Counter[Pair] = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                counts[pair] += count
        best = next((pair for pair, _ in counts.most_common() if _is_new(pair, known)), None)
        if best is None:
            raise SettingsError(f"the text has {len(found)} pairs to make words of, not {number}: give more text")
        found.append(best)
        known.add("".join(best))
        words = [(_merged(tokens, best), count) for tokens, count in words]
    return found


def _is_new(pair: Pair, known: set[str]) -> bool:
    """Whole syllables that are no token yet."""
    try:
        text = (as_bytes(pair[0] + pair[1]) or b"").decode()
    except UnicodeDecodeError:
        return False
    return pair[0] + pair[1] not in known and bool(_KOREAN.fullmatch(text))


def _merged(tokens: list[str], pair: Pair) -> list[str]:
    if pair[0] not in tokens:
        return tokens
    found: list[str] = []
    for token in tokens:
        if found and (found[-1], token) == pair:
            found[-1] += token
        else:
            found.append(token)
    return found


def _values(source: Gguf, bpe: Bpe, pairs: list[Pair]) -> dict[str, Value]:
    more: dict[str, list[Any]] = {
        "tokenizer.ggml.tokens": [left + right for left, right in pairs],
        "tokenizer.ggml.token_type": [NORMAL] * len(pairs),
        "tokenizer.ggml.scores": [0.0] * len(pairs),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in pairs],
    }
    values = {
        key: replace(value, value=[*value.value, *more[key]]) if key in more else value
        for key, value in source.values.items()
    }
    size_key = f"{source.architecture}.vocab_size"
    if size_key in values:
        values[size_key] = replace(values[size_key], value=len(bpe.tokens) + len(pairs))
    return values


def _tensors(source: Gguf, number: int) -> list[Tensor]:
    wider = [
        replace(tensor, shape=(tensor.shape[0], tensor.num_rows + number)) if tensor.name in gguf.VOCABULARY else tensor
        for tensor in source.tensors.values()
    ]
    return gguf.placed(wider, gguf.alignment_of(source.values))


def _weights(source: Gguf, tensors: list[Tensor], bpe: Bpe, pairs: list[Pair]) -> Iterator[bytes | memoryview]:
    alignment = gguf.alignment_of(source.values)
    for tensor in tensors:
        old = source.tensors[tensor.name]
        yield from gguf.rows(source, old)
        if tensor.name in gguf.VOCABULARY:
            yield new_rows(source, old, bpe, pairs)
        yield gguf.padding(tensor.num_bytes, alignment)


def new_rows(source: Gguf, tensor: Tensor, bpe: Bpe, pairs: list[Pair]) -> bytes:
    """Means of the rows of what each is made of, however deep, weighed by how many old tokens that are."""
    made: dict[str, list[int]] = {}
    for left, right in pairs:
        made[left + right] = made.get(left, [bpe.ids.get(left, -1)]) + made.get(right, [bpe.ids.get(right, -1)])
    means = []
    for numbers in made.values():
        raw = b"".join(bytes(piece) for number in numbers for piece in gguf.rows(source, tensor, [number]))
        means.append(dequantize(raw, tensor.type, tensor.shape[0]).mean(axis=0))
    return quantize(np.stack(means), tensor.type)
