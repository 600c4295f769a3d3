"""Texts that come with the workshop, written for it: no model has been trained on them; and those of users."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from dure.errors import SettingsError

NAMES = ("korean", "english")


def own(name: str) -> str:
    """One of NAMES: everyday, formal and technical prose."""
    return Path(__file__).with_name(f"{name}.txt").read_text("utf-8")


def read_text(path: Path) -> str:
    """A user's --text, as a worker writes prompts; of .jsonl, what its lines say. Raises SettingsError."""
    try:
        text = unicodedata.normalize("NFC", path.read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"--text {path} cannot be read ({error.strerror}): name a text file") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"--text {path} is no UTF-8 (byte {error.start}): convert it, for example with iconv"
        ) from None
    return "\n\n".join(_said(path, text)) if path.suffix == ".jsonl" else text


def _said(path: Path, text: str) -> Iterator[str]:
    """Of lines as `training.dataset` reads them: texts, and what was said in conversations."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            parts = [found["text"]] if "text" in found else [turn["content"] for turn in found["messages"]]
        except (ValueError, KeyError, TypeError):
            parts = [None]
        if not all(isinstance(part, str) for part in parts):
            raise SettingsError(
                f'--text {path}, line {number}: neither {{"text": "…"}} nor {{"messages": […]}}: write one of these'
            )
        yield from parts
