"""Questions that models are asked: those that come with the workshop, which nobody learns from, and those of users."""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from dure.errors import SettingsError
from dure.persona import STYLES
from dure_workshop.generation.asking import Question


@cache
def held_out() -> tuple[Question, ...]:
    """Written for judging; the styles take turns."""
    lines = Path(__file__).with_name("held_out.tsv").read_text("utf-8").splitlines()
    return tuple(Question(*line.split("\t")) for line in lines if not line.startswith("#"))


def first_held_out(number: int) -> tuple[Question, ...]:
    """Raises SettingsError where there are fewer."""
    if not 0 <= number <= len(held_out()):
        raise SettingsError(f"--answers {number}: there are {len(held_out())} questions: ask for that many at most")
    return held_out()[:number]


def read(path: Path, styles: Iterable[str]) -> list[Question]:
    """A question on each line: as it is, or {"question": "…", "style": "…"}, of which the style may be left out.

    styles: in which questions without one are asked, in turns. Each question and style comes once. Raises SettingsError
    with line, reason and remedy.
    """
    turns = list(styles)
    for style in turns:
        _require_style(style, "--style")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): name a file of questions") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no UTF-8 (byte {error.start}): convert it, for example with iconv") from None
    found = list(dict.fromkeys(_questions(path, lines, turns)))
    if not found:
        raise SettingsError(f"{path} holds no question: write one on each line")
    return found


def _questions(path: Path, lines: list[str], turns: list[str]) -> Iterator[Question]:
    number_of_question = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            style = turns[number_of_question % len(turns)]
            yield _question(f"{path}, line {number}", line.strip(), style)
            number_of_question += 1


def _question(where: str, line: str, style: str) -> Question:
    if not line.startswith("{"):
        return Question(style, unicodedata.normalize("NFC", line))
    try:
        found = json.loads(line)
    except ValueError as error:
        raise SettingsError(f"{where}: no JSON ({error}): write one object, or the question alone") from None
    text = found.get("question")
    if not isinstance(text, str) or not text.strip():
        raise SettingsError(f'{where}: there is no question: write {{"question": "…"}}')
    style = found.get("style", style)
    _require_style(style, where)
    return Question(style, unicodedata.normalize("NFC", text.strip()))


def _require_style(style: object, where: str) -> None:
    if style not in STYLES:
        raise SettingsError(f"{where}: there is no style {style!r}: choose {', '.join(STYLES)}")
