"""What each token of a vocabulary writes."""

from dure.byte_tokens import as_bytes
from dure.gguf import BYTE, NORMAL, USER_DEFINED, Gguf

_SPM = "llama"  # tokenizer.ggml.model of SentencePiece vocabularies: ▁ is a space, bytes are named <0x0A>


def pieces(source: Gguf) -> list[bytes]:
    """By token id: perhaps a part of a character; nothing for control tokens."""
    names: list[str] = source.get("tokenizer.ggml.tokens")
    kinds: list[int] = source.get("tokenizer.ggml.token_type") or [NORMAL] * len(names)
    is_spm = source.get("tokenizer.ggml.model") == _SPM
    return [_piece(name, kind, is_spm=is_spm) for name, kind in zip(names, kinds, strict=True)]


def _piece(name: str, kind: int, *, is_spm: bool) -> bytes:
    if kind == BYTE:
        return bytes([int(name[3:5], 16)])
    if kind == USER_DEFINED:
        return name.encode("utf-8")
    if kind != NORMAL:
        return b""
    if is_spm:
        return name.replace("▁", " ").encode("utf-8")
    spelt = as_bytes(name)
    return name.encode("utf-8") if spelt is None else spelt
