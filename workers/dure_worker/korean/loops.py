"""Loops, in which small models lose themselves: sentences, or words without an end mark, that come again and again.

What is found does not depend on how the text came: sentences and words are looked at one by one, in their order.
"""

import re

# A text of at most so many sentences, or words, that comes again and again.
_LONGEST_PERIOD = 6
_LONGEST_WORDS = 16
# So often everything may come, and so much of a loop stays. Short sentences (네. 네. 네.) and words are repeated on
# purpose more often.
_ALLOWED, _ALLOWED_SHORT = 2, 3
_SHORT = 5  # letters
_ALLOWED_OF_WORDS = {1: 5, 2: 3}
_NO_LETTERS = re.compile(r"[\W\d_]+")
_WORD = re.compile(r"(\S+)(\s+|\Z)")
FENCE = "```"


class SentenceLoops:
    """The sentences of one answer so far."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def begins(self, sentence: str) -> bool:
        """Whether this one begins what has come twice in a row before. Numbers and marks make no difference."""
        said = _NO_LETTERS.sub("", sentence)
        if not said:
            return False
        self._seen.append(said)
        return any(self._has_run(period) for period in range(1, _LONGEST_PERIOD + 1))

    def may_begin(self, beginning: str) -> bool:
        """Whether a sentence of the answer began so: what goes round is found at its end."""
        said = _NO_LETTERS.sub("", beginning)
        return any(sentence.startswith(said) for sentence in self._seen)

    def _has_run(self, period: int) -> bool:
        last = self._seen[-period - 1 :]
        allowed = _ALLOWED_SHORT if sum(map(len, last[:period])) < _SHORT else _ALLOWED
        num_same = 0
        for now, before in zip(reversed(self._seen), reversed(self._seen[:-period]), strict=False):
            if now != before:
                break
            num_same += 1
        # `allowed` whole copies, and the first sentence of another.
        return num_same > (allowed - 1) * period


def word_loop(text: str, *, is_whole: bool) -> int | None:
    """Where to cut a sentence whose words have begun to go round: behind what may stay of them. None: they do not.

    is_whole: the last word is complete. Lines of tables repeat for good reasons, and what is in code is not looked at.
    """
    before_code, _, code = text.partition(FENCE)
    words: list[str] = []
    ends: list[int] = []
    runs = [0] * (_LONGEST_WORDS + 1)
    is_row = False
    for match in _WORD.finditer(before_code):
        word, space = match.groups()
        if not (space or is_whole or code):
            break
        is_row = word.startswith("|") if match.start() == 0 or text[match.start() - 1] == "\n" else is_row
        if is_row:
            runs = [0] * len(runs)
        words.append(word)
        ends.append(match.end())
        for period in range(1, min(len(words), len(runs))):
            if is_row or words[-1] != words[-1 - period]:
                runs[period] = 0
                continue
            runs[period] += 1
            allowed = _ALLOWED_OF_WORDS.get(period, _ALLOWED)
            if runs[period] >= allowed * period and _has_letters(words[-period:]):
                return ends[-1 - runs[period] + (_ALLOWED - 1) * period]
    return None


def _has_letters(words: list[str]) -> bool:
    return bool(_NO_LETTERS.sub("", "".join(words)))
