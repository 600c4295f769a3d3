"""Where the beginning of a sentence that is still being written may be sent: at a blank after which it hardly changes.

Not inside of anything that is opened and not closed, and not in lines that say only as a whole what they are.
"""

import re

from dure_worker.korean import masks
from dure_worker.korean.loops import FENCE

# Later words still change these: the particle of a word stands within it, a blank or an idiom within the next.
_HELD_WORDS = 2
_BLANK = re.compile(r"(?<=\S) (?=\S)")
_WHOLE_LINES = re.compile(r"\s*(?:#|>|\|)")
_PAIRS = (("(", ")"), ("[", "]"), ("“", "”"), ("‘", "’"), ("「", "」"), ("『", "』"), ("<", ">"))
_EVEN = ('"', "`", "**", "__", "~~", "$")


def safe_place(sentence: str, sent: int) -> int | None:
    """The last one behind the letters that were sent, or None."""
    if FENCE in sentence or "\n" in sentence.strip("\n") or _WHOLE_LINES.match(sentence):
        return None
    places = [match.start() for match in _BLANK.finditer(sentence)][:-_HELD_WORDS]
    closed = masks.spans(sentence)
    for place in reversed(places):
        if place <= sent:
            return None
        if not any(start < place < end for start, end in closed) and is_closed(sentence[:place]):
            return place
    return None


def is_closed(text: str) -> bool:
    return all(text.count(opening) == text.count(closing) for opening, closing in _PAIRS) and all(
        text.count(mark) % 2 == 0 for mark in _EVEN
    )
