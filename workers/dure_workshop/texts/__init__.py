"""Texts that come with the workshop, written for it: no model has been trained on them; and those of users."""

import unicodedata
from pathlib import Path

from dure.errors import SettingsError

NAMES = ("korean", "english")


def own(name: str) -> str:
    """One of NAMES: everyday, formal and technical prose."""
    return Path(__file__).with_name(f"{name}.txt").read_text("utf-8")


def read_text(path: Path) -> str:
    """A user's --text, as a worker writes prompts. Raises SettingsError."""
    try:
        return unicodedata.normalize("NFC", path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--text {path} cannot be read ({error.strerror}): name a text file") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"--text {path} is no UTF-8 (byte {error.start}): convert it, for example with iconv"
        ) from None
