"""Text into token ids as a model's own tokenizer does: by its pattern into pre-tokens where it has one, then merges."""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import regex

from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.spm import Spm
from dure_workshop.trim.vocabulary import Vocabulary

# By `tokenizer.ggml.pre`. Source: the tokenizer.json of each family, as llama.cpp's llama-vocab.cpp names them.
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
PATTERNS = {
    "qwen2": rf"{_SHORT_FORMS}|{_LETTERS}|\p{{N}}|{_REST}",
    "llama-bpe": rf"{_SHORT_FORMS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


def segmenter_of(vocabulary: Vocabulary, pre: str) -> Encoder | None:
    """None where the pattern is not known. SentencePiece has none and needs none."""
    if isinstance(vocabulary, Spm):
        return vocabulary
    return Segmenter(vocabulary, pre) if isinstance(vocabulary, Bpe) and pre in PATTERNS else None


def is_known(pre: str) -> bool:
    return pre in PATTERNS


def name_of(pattern: str) -> str | None:
    """By which name a pattern is known here."""
    return next((name for name, known in PATTERNS.items() if known == pattern), None)


def count(encoder: Encoder, texts: Iterable[str]) -> Counter[int]:
    return Counter(number for text in texts for number in encoder.encode(text))


class Segmenter:
    """encode(text) gives ids as the model's own tokenizer does. Control tokens in the text are text like any other."""

    def __init__(self, bpe: Bpe, pre: str) -> None:
        self._bpe = bpe
        self._pattern = regex.compile(PATTERNS[pre])
        self._pieces = lru_cache(maxsize=1 << 17)(self._piece)

    def encode(self, text: str) -> list[int]:
        return [number for piece in self._pattern.findall(text) for number in self._pieces(piece)]

    def _piece(self, piece: str) -> tuple[int, ...]:
        return tuple(self._bpe.spell(piece))
