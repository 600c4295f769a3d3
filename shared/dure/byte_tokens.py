"""Byte-level vocabularies spell bytes as printable characters. Source: bytes_to_unicode of GPT-2's encoder."""


def _disguise() -> dict[int, str]:
    """Each byte's printable stand-in: itself where it is one, else the next character from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


TO_CHARACTER = _disguise()
TO_BYTE = {character: byte for byte, character in TO_CHARACTER.items()}


def as_token(text: bytes) -> str:
    return "".join(TO_CHARACTER[byte] for byte in text)


def as_bytes(token: str) -> bytes | None:
    """The bytes a token stands for; None where it is no disguise of bytes (control tokens)."""
    try:
        return bytes(TO_BYTE[character] for character in token)
    except KeyError:
        return None
