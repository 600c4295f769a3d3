"""Text into token ids by a byte-level BPE: pre-tokens by the model's own pattern, then merges."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

import regex

from dure_workshop.trim.bpe import Bpe

# By `tokenizer.ggml.pre`. Source: the tokenizer.json of each family, as llama.cpp's llama-vocab.cpp names them.
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT_FORMS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PATTERNS = {
    "qwen2": rf"{_SHORT_FORMS}|{_LETTERS}|\p{{N}}|{_REST}",
    "llama-bpe": rf"{_SHORT_FORMS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


def is_known(pre: str) -> bool:
    return pre in _PATTERNS


class Segmenter:
    """encode(text) gives ids as the model's own tokenizer does. Control tokens in the text are text like any other.

    Raises KeyError for a pattern that is not known; ask `is_known` first.
    """

    def __init__(self, bpe: Bpe, pre: str) -> None:
        self._bpe = bpe
        self._pattern = regex.compile(_PATTERNS[pre])
        self._pieces = lru_cache(maxsize=1 << 17)(self._piece)

    def encode(self, text: str) -> list[int]:
        return [number for piece in self._pattern.findall(text) for number in self._pieces(piece)]

    def count(self, texts: Iterable[str]) -> Counter[int]:
        return Counter(number for text in texts for number in self._each(text))

    def _each(self, text: str) -> Iterator[int]:
        for piece in self._pattern.findall(text):
            yield from self._pieces(piece)

    def _piece(self, piece: str) -> tuple[int, ...]:
        return tuple(self._bpe.ids[token] for token in self._bpe.encode(piece.encode("utf-8")))
