"""Byte-level BPE as GPT-2 made it: tokens are byte strings in disguise, joined by ranked merges.

Source: Sennrich et al. 2016 (BPE).
"""

from dataclasses import dataclass, field
from functools import cached_property

from dure.byte_tokens import TO_BYTE, TO_CHARACTER, as_bytes
from dure.errors import ModelCorrupt
from dure.gguf import BYTE, NORMAL
from dure_workshop.trim.vocabulary import kind_of


@dataclass(frozen=True)
class Bpe:
    """A vocabulary in order of ids, its merges in order of rank, each "left right", and GGUF's types of its tokens."""

    tokens: list[str]
    merges: list[str]
    types: list[int] = field(default_factory=list)

    @cached_property
    def kinds(self) -> list[int]:
        is_byte = [kind == NORMAL and token in TO_BYTE for token, kind in zip(self.tokens, self.types, strict=True)]
        return [
            BYTE if byte else kind_of(token, kind)
            for token, kind, byte in zip(self.tokens, self.types, is_byte, strict=True)
        ]

    def meaning(self, number: int) -> bytes | None:
        return as_bytes(self.tokens[number]) if self.kinds[number] in {NORMAL, BYTE} else None

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        return {(pair[0], pair[1]): rank for rank, merge in enumerate(self.merges) if (pair := merge.split(" "))}

    @cached_property
    def parts(self) -> dict[str, tuple[str, str]]:
        """The two tokens whose merge first makes a token."""
        found: dict[str, tuple[str, str]] = {}
        for left, right in self.ranks:
            found.setdefault(left + right, (left, right))
        return found

    def spell(self, text: str) -> list[int]:
        return [self.ids[token] for token in self.encode(text.encode("utf-8"))]

    def encode(self, piece: bytes) -> list[str]:
        """Merge one pre-token's bytes. Splitting text into pre-tokens is the tokenizer's affair."""
        tokens = [TO_CHARACTER[byte] for byte in piece]
        while len(tokens) > 1:
            best = min(range(len(tokens) - 1), key=lambda n: self._rank(tokens[n], tokens[n + 1]))
            if self._rank(tokens[best], tokens[best + 1]) == len(self.merges):
                break
            tokens[best : best + 2] = [tokens[best] + tokens[best + 1]]
        return tokens

    def _rank(self, left: str, right: str) -> int:
        return self.ranks.get((left, right), len(self.merges))

    def closed(self, kept: set[int]) -> set[int]:
        """With each kept token also the two it is merged from, and so on down to bytes.

        Then a text whose tokens are all kept is segmented as before: the merges that led to them are all there, in
        the same order.
        """
        found, waiting = set(kept), list(kept)
        while waiting:
            for part in self.parts.get(self.tokens[waiting.pop()], ()):
                number = self.ids[part]
                if number not in found:
                    found.add(number)
                    waiting.append(number)
        return found

    def merges_among(self, kept: set[int]) -> list[str]:
        names = {self.tokens[number] for number in kept}
        return [
            f"{left} {right}"
            for left, right in self.ranks
            if left in names and right in names and left + right in names
        ]

    def check(self, name: str) -> None:
        """Raises ModelCorrupt where a merge is none, or names or makes a token that is not there."""
        for merge in self.merges:
            parts = merge.split(" ")
            if len(parts) != 2 or not {*parts, "".join(parts)} <= self.ids.keys():  # noqa: PLR2004 - left and right
                raise ModelCorrupt(f"{name}: the merge {merge!r} is of tokens that it lacks: take an intact model")
