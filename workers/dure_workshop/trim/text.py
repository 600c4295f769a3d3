"""Text into token ids as a model's own tokenizer does: by its pattern into pre-tokens where it has one, then merges."""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import regex

from dure.split_patterns import PATTERNS
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.spm import Spm
from dure_workshop.trim.vocabulary import Vocabulary


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
