"""SentencePiece's BPE as llama.cpp runs it: of all neighbours that make a token, those of the highest score first.

Source: Kudo & Richardson 2018 (SentencePiece); llama.cpp, llama-vocab.cpp (llm_tokenizer_spm_session).
"""

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dure.gguf import BYTE, NORMAL, USER_DEFINED
from dure_workshop.trim.vocabulary import kind_of

SPACE = "▁"
_BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")


def as_text(token: str) -> str:
    return token.replace(SPACE, " ")


@dataclass(frozen=True)
class Spm:
    """A vocabulary in order of ids. types: as GGUF has them. prefixes_space: text begins as if behind a space."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    prefixes_space: bool = False

    @cached_property
    def kinds(self) -> list[int]:
        return [kind_of(token, kind) for token, kind in zip(self.tokens, self.types, strict=True)]

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def whole(self) -> list[str]:
        """Found in a text before anything is merged, the longest first."""
        found = [token for token, kind in zip(self.tokens, self.types, strict=True) if kind == USER_DEFINED]
        return sorted(found, key=len, reverse=True)

    def meaning(self, number: int) -> bytes | None:
        token, kind = self.tokens[number], self.kinds[number]
        if kind == BYTE:
            name = _BYTE_NAME.fullmatch(token)
            return bytes.fromhex(name[1]) if name else None
        return as_text(token).encode("utf-8") if kind == NORMAL else None

    def spell(self, text: str) -> list[int]:
        return [number for piece in _Merging(self, text.replace(" ", SPACE)).pieces() for number in self._ids_of(piece)]

    def _ids_of(self, piece: str) -> list[int]:
        if piece in self.ids:
            return [self.ids[piece]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in piece.encode("utf-8")]

    def encode(self, text: str) -> list[int]:
        """As the model's own tokenizer does. Chat roles in the text are text like any other."""
        found: list[int] = []
        is_behind_whole = True
        for fragment in _fragments(text, self.whole):
            if is_whole := fragment in self._wholes:
                found.append(self.ids[fragment])
            else:
                found += self.spell(f" {fragment}" if self.prefixes_space and is_behind_whole else fragment)
            is_behind_whole = is_whole
        return found

    @cached_property
    def _wholes(self) -> set[str]:
        return set(self.whole)

    def closed(self, kept: set[int]) -> set[int]:
        """With each kept token also all that is made on the way to it.

        Merges never cross the edge of a token that comes out, so inside it they run as if its text stood alone. With
        those in place and only others gone, the best merge of each step is still there and still the best.
        """
        return kept.union(*(self._made(number) for number in kept if self.types[number] == NORMAL))

    def _made(self, number: int) -> list[int]:
        merging = _Merging(self, self.tokens[number])
        merging.pieces()
        return merging.made


def _fragments(text: str, whole: list[str]) -> Iterator[str]:
    """The text split at these tokens, by the first of them in the whole text, then by the next in what is left."""
    for number, token in enumerate(whole):
        if token in text:
            parts = text.split(token)
            for place, part in enumerate(parts):
                if place:
                    yield token
                yield from _fragments(part, whole[number + 1 :])
            return
    if text:
        yield text


class _Merging:
    """Characters that become tokens: a chain of places, of which those that were merged away are empty."""

    def __init__(self, vocabulary: Spm, text: str) -> None:
        self.made: list[int] = []
        self._vocabulary = vocabulary
        self._texts = list(text)
        self._next = list(range(1, len(text) + 1))
        self._last = list(range(-1, len(text) - 1))
        self._waiting: list[tuple[float, int, int, str]] = []

    def pieces(self) -> list[str]:
        for place in range(len(self._texts) - 1):
            self._offer(place, place + 1)
        while self._waiting:
            _, left, right, text = heapq.heappop(self._waiting)
            # Either may have become part of another token meanwhile, or the right one have grown.
            if self._texts[left] and self._texts[right] and self._texts[left] + self._texts[right] == text:
                self._merge(left, right, text)
        return [text for text in self._texts if text]

    def _offer(self, left: int, right: int) -> None:
        text = self._texts[left] + self._texts[right]
        number = self._vocabulary.ids.get(text)
        if number is not None:
            heapq.heappush(self._waiting, (-self._vocabulary.scores[number], left, right, text))

    def _merge(self, left: int, right: int, text: str) -> None:
        self.made.append(self._vocabulary.ids[text])
        self._texts[left], self._texts[right] = text, ""
        self._next[left] = following = self._next[right]
        if following < len(self._texts):
            self._last[following] = left
            self._offer(left, following)
        if self._last[left] >= 0:
            self._offer(self._last[left], left)
