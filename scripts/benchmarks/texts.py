"""Korean text of the data folder beside this checkout, of three kinds; the last fifth of each is held out.

prose   sentences of the Kaist treebank (news, essays, novels)
chat    questions and answers of everyday talk (songys)
docs    pages of the Korean documentation of React, Vue and the Hugging Face course
"""

import csv
import json
from pathlib import Path

DATA = Path(__file__).parents[3] / "shared" / "data"
KINDS = ("prose", "chat", "docs")
_HELD_OUT = 5  # every so manieth part


def training(kind: str) -> list[str]:
    found = _pieces(kind)
    return found[: -len(found) // _HELD_OUT]


def held_out(kind: str) -> list[str]:
    found = _pieces(kind)
    return found[-len(found) // _HELD_OUT :]


def sample(num_characters: int) -> str:
    """So much held-out text, a third of each kind, whole pieces from their beginning."""
    return "\n".join(_beginning(held_out(kind), num_characters // len(KINDS)) for kind in KINDS)


def num_syllables(text: str) -> int:
    return sum("가" <= letter <= "힣" for letter in text)


def _beginning(pieces: list[str], num_characters: int) -> str:
    text = "\n".join(pieces)
    return text[: text.find("\n", num_characters) + 1 or None]


def _pieces(kind: str) -> list[str]:
    if not DATA.is_dir():
        raise SystemExit(f"the Korean texts are not there: put the data folder at {DATA}")
    if kind == "prose":
        return (DATA / "ud-kaist-dev" / "dev.txt").read_text("utf-8").splitlines()
    if kind == "chat":
        with (DATA / "songys-chatbot" / "ChatbotData.csv").open(encoding="utf-8", newline="") as file:
            return [f"{row['Q']}\n{row['A']}" for row in csv.DictReader(file)]
    files = sorted(DATA.glob("docs-*-ko/docs.jsonl"))
    return [json.loads(line)["text"] for path in files for line in path.read_text("utf-8").splitlines()]
