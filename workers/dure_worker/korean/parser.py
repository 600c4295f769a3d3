"""Kiwi, loaded once for the process: morphemes of a sentence, and how likely it is."""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from dure_worker.korean import masks

_lock = threading.Lock()


@dataclass(frozen=True)
class Morpheme:
    """start, end in the sentence. tag: of the Sejong set, as Kiwi has it."""

    form: str
    tag: str
    start: int
    end: int


@dataclass(frozen=True)
class Parse:
    """score: logarithm of a likelihood; only of use against that of another wording of the sentence."""

    morphemes: tuple[Morpheme, ...]
    score: float

    def ending_at(self, end: int) -> Morpheme | None:
        return next((each for each in self.morphemes if each.end == end), None)

    def starting_at(self, start: int) -> Morpheme | None:
        return next((each for each in self.morphemes if each.start == start and each.end > start), None)


@cache
def kiwi() -> Any:
    """318-331 MiB; the dictionary of multi-word names would be 190 MiB more. Threads of its own would take the engine's
    cores.
    """
    from kiwipiepy import Kiwi  # type: ignore[import-untyped]  # noqa: PLC0415 - who never parses does not pay

    return Kiwi(num_workers=1, load_multi_dict=False)


def load() -> None:
    """So that no first answer waits for it."""
    parse("두레가 준비되었습니다.")


def join(morphemes: list[tuple[str, str]]) -> str:
    """One word of its morphemes, form and tag."""
    with _lock:
        word: str = kiwi().join(morphemes)
    return word


def blanks(text: str) -> list[int]:
    """Places in a sentence where Kiwi would put a blank and there is none."""
    seen = masks.hidden(text)
    with _lock:
        spaced: str = kiwi().space(seen)
    found, place = [], 0
    for letter in spaced:
        if place < len(seen) and letter == seen[place]:
            place += 1
        elif letter == " ":
            found.append(place)
        else:  # Kiwi took a blank away
            place = seen.index(letter, place) + 1
    return found


def parse(text: str) -> Parse:
    """Of one sentence; what is masked is a foreign word to it."""
    with _lock:
        tokens: list[Any]
        tokens, score = kiwi().analyze(masks.hidden(text), top_n=1)[0]
    found = tuple(Morpheme(each.form, str(each.tag), each.start, each.start + each.len) for each in tokens)
    return Parse(found, float(score))
