"""What a vocabulary is to those who choose from it, however its tokens are merged."""

import re
from typing import Protocol

from dure.errors import ModelCorrupt, ModelError
from dure.gguf import BYTE, UNUSED

# Room that the makers left for tokens of others; Gemma has 6,242 of them, all of the type of a chat role.
_UNUSED_NAME = re.compile(r"[<\[]\|?unused[_ ]?\d+\|?[>\]]")
_NUM_BYTES = 256


class NotTrimmable(ModelError):
    """The vocabulary is of a kind that cannot be cut here."""


class Vocabulary(Protocol):
    """Token ids are places in `tokens` and in `kinds`. Bytes have the kind BYTE, whatever the file says."""

    @property
    def tokens(self) -> list[str]: ...

    @property
    def kinds(self) -> list[int]: ...

    def meaning(self, number: int) -> bytes | None:
        """The bytes of text that a token stands for; None for chat roles and their like."""

    def spell(self, text: str) -> list[int]:
        """The tokens of a text that is not split up first."""

    def closed(self, kept: set[int]) -> set[int]:
        """With all that these tokens are merged from: then text of kept tokens is segmented as before."""


def kind_of(token: str, kind: int) -> int:
    return UNUSED if kind != BYTE and _UNUSED_NAME.fullmatch(token) else kind


def check_bytes(vocabulary: Vocabulary, name: str) -> None:
    """Raises ModelCorrupt where a byte has no token: text could not be spelt without it."""
    found = {vocabulary.meaning(number) for number, kind in enumerate(vocabulary.kinds) if kind == BYTE}
    missing = [byte for byte in range(_NUM_BYTES) if bytes([byte]) not in found]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ModelCorrupt(f"{name} has no token for the byte 0x{missing[0]:02X}{more}: take an intact model")
