"""Answers judged by the Korean editor's detectors. Needs Kiwi, which takes 335 MiB.

An error is what a pass of the editor would change, so the figures say what it finds, not all that is wrong.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dure.edits import Pass
from dure_worker.korean import completeness, endings, foreign, parser, register
from dure_worker.korean.editor import KoreanEditor, edited
from dure_worker.korean.endings import Register

_ERRORS = [Pass.UNICODE, Pass.MISSPELLINGS, Pass.SPACING, Pass.JOSA, Pass.PUNCTUATION]


@dataclass(frozen=True)
class Figures:
    """Shares, but for the numbers. None: there was nothing to judge.

    register_kept    of the sentences that have a register
    """

    num_answers: int
    num_sentences: int
    errors_per_100_sentences: float | None
    sentences_with_errors: float | None
    register_kept: float | None
    replies_complete: float | None
    replies_with_loops: int
    replies_with_foreign_letters: int


def judged(answers: Iterable[tuple[str, Register | None]]) -> Figures:
    """Each a text, and the register that was asked for."""
    found = [(text, wanted) for text, wanted in answers]
    errors = [len(sentence.edits) for text, _ in found for sentence in edited(text, passes=_ERRORS)]
    kept = [each is wanted for text, wanted in found if wanted is not None for each in registers(text)]
    return Figures(
        num_answers=len(found),
        num_sentences=len(errors),
        errors_per_100_sentences=_share(100 * sum(errors), len(errors)),
        sentences_with_errors=_share(sum(map(bool, errors)), len(errors)),
        register_kept=_share(sum(kept), len(kept)),
        replies_complete=_share(sum(completeness.is_complete(text) for text, _ in found), len(found)),
        replies_with_loops=sum(loops(text) for text, _ in found),
        replies_with_foreign_letters=sum(foreign.has_letters(text) for text, _ in found),
    )


def registers(text: str) -> list[Register]:
    """Of its sentences, where they have one."""
    found = (_register(sentence.text) for sentence in edited(text, passes=[]))
    return [each for each in found if each is not None]


def loops(text: str) -> bool:
    """Whether it goes round in circles."""
    editor = KoreanEditor([Pass.REPETITION])
    editor.feed(text)
    editor.finish(is_cut=False)
    return editor.is_looping


def _register(sentence: str) -> Register | None:
    morphemes = parser.parse(sentence).morphemes
    place = register.last_ending(morphemes)
    return None if place is None else endings.register_of(morphemes[place])


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
