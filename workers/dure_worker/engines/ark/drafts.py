"""Guesses what comes next; one pass checks several, and a wrong one is dropped.

Two ways of guessing: what followed the last tokens when they stood in the text before, as Korean answers repeat names,
terms and parts of the question; and what a smaller model of the same vocabulary would say. Sources: prompt lookup
decoding (Saxena, 2023); speculative decoding (Leviathan et al., 2023).
"""

from collections.abc import Sequence

from dure_worker.engines.ark.step_times import StepTimes

MOST = 3  # tokens guessed at once
_LENGTH = 3  # tokens that must have occurred before
# So many are tried before it is asked whether that pays; afterwards once in so many steps, in case the text changes.
_TRIAL, _RETRY = 24, 16


class Lookup:
    """Of one answer: where its runs of tokens stood before."""

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


class Worth:
    """Whether one way of guessing pays: tokens that it wins in a pass, against what the pass takes longer."""

    def __init__(self) -> None:
        self._num_passes = self._num_right = self._num_skipped = 0

    def pays(self, num_rows: int, times: StepTimes, own_cost: float = 0.0) -> bool:
        """num_rows: of the pass without guesses; own_cost: of making the guess, in such passes."""
        cost = times.cost(num_rows, MOST)
        if self._num_passes < _TRIAL or cost is None:
            return True
        if 1 + self._num_right / self._num_passes > cost + own_cost:
            return True
        self._num_skipped += 1
        return self._num_skipped % _RETRY == 0

    def learn(self, num_right: int) -> None:
        """A pass that checked guesses."""
        self._num_passes += 1
        self._num_right += num_right
        if self._num_passes > 2 * _TRIAL:  # what the text was like long ago matters less
            self._num_passes //= 2
            self._num_right //= 2
