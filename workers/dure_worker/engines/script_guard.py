"""Keeps an answer's letters to some writing systems, token by token.

A token is forbidden that writes a letter (or its mark) of another script, or that can only begin such a one. Digits,
punctuation, symbols, emoji, white space and control tokens, the end of a turn among them, never are; nor are bytes that
are no UTF-8 at all.
"""

import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex

_LONGEST = 4  # bytes of a character in UTF-8
_NUM_KEPT = 256  # beginnings of characters whose list is kept


class ScriptGuard:
    """Of one vocabulary. pieces: what each token writes; scripts: those allowed, by `dure.writing.Script`; spared:
    tokens that are never forbidden.
    """

    def __init__(self, pieces: Sequence[bytes], scripts: Iterable[str], spared: Iterable[int] = ()) -> None:
        # Script extensions, not scripts: by its script the long vowel mark of Kana is common to all.
        allowed = "".join(rf"\p{{scx={name}}}" for name in (*sorted(set(scripts)), "Zyyy", "Zinh"))
        self._foreign = regex.compile(rf"(?V1)[[\p{{L}}\p{{M}}]--[{allowed}]]")
        # What makes the beginning of a character worth allowing. Symbols are not: under the first byte of the
        # commonest Han characters lie the hexagrams of the I Ching, and nothing else.
        self._wanted = regex.compile(rf"(?V1)[\p{{N}}\p{{P}}\p{{Emoji}}[[\p{{L}}\p{{M}}]&&[{allowed}]]]")
        self._pieces, self._spared = pieces, frozenset(spared)
        self._may_begin = lru_cache(maxsize=None)(self._has_wanted)
        self._after = lru_cache(maxsize=_NUM_KEPT)(self._going_on)
        # Only those whose first byte is inside a character go on with one that has begun.
        self._inner = [number for number, piece in enumerate(pieces) if piece and _is_inner(piece[0])]
        inner = set(self._inner)
        self._anew = array("q", (n for n, piece in enumerate(pieces) if n not in inner and self._is_foreign(n, piece)))

    def forbidden(self, begun: bytes = b"") -> tuple["array[int]", "array[int]"]:
        """Ids of tokens that begin anew, and of those that go on with `begun`: the last bytes of the text so far, where
        they have begun a character and not finished it.
        """
        return self._anew, self._after(begun)

    def _going_on(self, begun: bytes) -> "array[int]":
        return array("q", (number for number in self._inner if self._is_foreign(number, begun + self._pieces[number])))

    def _is_foreign(self, number: int, written: bytes) -> bool:
        if number in self._spared:
            return False
        begun = unfinished(written)
        if begun and not self._may_begin(begun):
            return True
        return bool(self._foreign.search(written[: len(written) - len(begun)].decode("utf-8", "ignore")))

    def _has_wanted(self, begun: bytes) -> bool:
        num_missing = _length(begun[0]) - len(begun)
        first, last = (_code_point(begun + bytes([byte]) * num_missing) for byte in (0x80, 0xBF))
        return bool(self._wanted.search("".join(map(chr, range(first, min(last, sys.maxunicode) + 1)))))


def unfinished(written: bytes) -> bytes:
    """The last bytes of it, where they begin a character and do not end it; perhaps none."""
    for length in range(1, min(_LONGEST, len(written) + 1)):
        byte = written[-length]
        if not _is_inner(byte):
            return written[-length:] if _length(byte) > length else b""
    return b""


def _is_inner(byte: int) -> bool:
    return 0x80 <= byte < 0xC0  # noqa: PLR2004 - UTF-8


def _length(byte: int) -> int:
    """Bytes of a character that begins with this one (RFC 3629); 0 where none does."""
    return next((n for n, low, high in ((2, 0xC2, 0xE0), (3, 0xE0, 0xF0), (4, 0xF0, 0xF5)) if low <= byte < high), 0)


def _code_point(written: bytes) -> int:
    """Also of spellings that are longer than they need be."""
    code = written[0] & (0xFF >> (len(written) + 1))
    for byte in written[1:]:
        code = code << 6 | byte & 0x3F
    return code
