"""Guesses what comes next from what came before: Korean answers repeat names, terms and parts of the question.

Checking a guess costs a fraction of computing a token, as one stream waits for the weights to come from memory; a wrong
one is dropped. Source: prompt lookup decoding (Saxena, 2023).
"""

from collections.abc import Sequence

_LENGTH = 3  # tokens that must have occurred before
_MOST = 3  # tokens guessed at once
# So many are tried before it is asked whether that pays; afterwards one in so many, in case the text changes.
_TRIAL, _RETRY = 24, 16
_LEAST_RIGHT = 0.3


class Drafts:
    """Of one answer."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        self._num_seen = 0
        self._num_tried = self._num_right = self._num_skipped = 0

    def after(self, ids: Sequence[int]) -> list[int]:
        """Perhaps none. ids: prompt and answer, which only grow."""
        found = self._places.get(tuple(ids[-_LENGTH:]))
        for end in range(max(_LENGTH, self._num_seen), len(ids) + 1):
            self._places[tuple(ids[end - _LENGTH : end])] = end
        self._num_seen = len(ids) + 1
        if found is None or not self._pays():
            return []
        return list(ids[found : found + _MOST])

    def learn(self, num_drafted: int, num_right: int) -> None:
        self._num_tried += num_drafted
        self._num_right += num_right

    def _pays(self) -> bool:
        if self._num_tried < _TRIAL or self._num_right >= self._num_tried * _LEAST_RIGHT:
            return True
        self._num_skipped += 1
        return self._num_skipped % _RETRY == 0
