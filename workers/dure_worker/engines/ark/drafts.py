"""What comes next, guessed: where the last tokens stood in the text before, as Korean answers repeat names, terms and
parts of the question.

Source: prompt lookup decoding (Saxena, 2023).
"""

from collections.abc import Sequence

MOST = 3  # tokens guessed at once
_LENGTH = 3  # tokens that must have occurred before


class Lookup:
    """Of one answer."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        self._num_seen = 0

    def after(self, ids: Sequence[int]) -> list[int]:
        """Perhaps none. ids: prompt and answer, which only grow."""
        found = self._places.get(tuple(ids[-_LENGTH:]))
        for end in range(max(_LENGTH, self._num_seen), len(ids) + 1):
            self._places[tuple(ids[end - _LENGTH : end])] = end
        self._num_seen = len(ids) + 1
        return [] if found is None else list(ids[found : found + MOST])
