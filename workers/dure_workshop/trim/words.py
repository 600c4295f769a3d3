"""Words whose tokens a model cannot do without, whatever their rank: its chat template's and those of Korean text."""

import re
from importlib.resources import files


def words_needed(template: str, languages: set[str]) -> set[str]:
    """The chat template's own words, which each prompt has, and Latin words common in Korean text."""
    # Literal words lie in quotes between code; what stands at the edge of a quote is segmented as if alone.
    words = {word for line in template.splitlines() for word in re.split(r"[{}%'\"]|\\n", line)}
    words |= {word.strip() for word in words}
    if "korean" in languages:
        latin = latin_in_korean()
        words |= {form for word in latin for form in (word, f" {word}", word.lower(), f" {word.lower()}", f".{word}")}
    return words


def latin_in_korean() -> list[str]:
    lines = (files("dure_workshop") / "trim" / "latin_in_korean.txt").read_text("utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]
