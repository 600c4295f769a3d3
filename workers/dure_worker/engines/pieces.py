"""What each token of a vocabulary writes."""

import re

from dure.byte_tokens import as_bytes
from dure.gguf import BYTE, NORMAL, USER_DEFINED, Gguf

SPACE = "\u2581"  # as SentencePiece writes it
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPM = "llama"  # tokenizer.ggml.model of SentencePiece vocabularies: ▁ is a space, bytes are named <0x0A>


def pieces(source: Gguf) -> list[bytes]:
    """By token id: perhaps a part of a character; nothing for control tokens."""
    names: list[str] = source.get("tokenizer.ggml.tokens")
    kinds: list[int] = source.get("tokenizer.ggml.token_type") or [NORMAL] * len(names)
    is_spm = source.get("tokenizer.ggml.model") == _SPM
    return of_names(names, kinds, is_spm=is_spm)


def of_names(names: list[str], kinds: list[int], *, is_spm: bool) -> list[bytes]:
    """kinds: GGUF's token types. is_spm: a SentencePiece vocabulary, not a byte-level one."""
    return [_piece(name, kind, is_spm=is_spm) for name, kind in zip(names, kinds, strict=True)]


def is_byte(name: str) -> bool:
    """As SentencePiece names a byte."""
    return _BYTE.fullmatch(name) is not None


def _piece(name: str, kind: int, *, is_spm: bool) -> bytes:
    if kind == BYTE:
        return bytes([int(name[3:5], 16)])
    if kind == USER_DEFINED:
        return name.encode("utf-8")
    if kind != NORMAL:
        return b""
    if is_spm:
        return name.replace(SPACE, " ").encode("utf-8")
    spelt = as_bytes(name)
    return name.encode("utf-8") if spelt is None else spelt
