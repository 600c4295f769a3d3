"""How long a pass takes by its number of rows: whether guesses pay is measured on this box, not assumed.

Where a pass waits for the weights to come from memory, further rows are nearly free; where it waits for the cores, each
costs as much as the first.
"""

# Weight of the newest time; the machine may be shared, and speeds drift.
_NEWEST = 0.1
# A pass that took so many times what is usual was held up by something else, and tells nothing.
_HELD_UP = 4


class StepTimes:
    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, num_rows: int, took_s: float) -> None:
        before = self._seconds.get(num_rows, took_s)
        if took_s < _HELD_UP * before:
            self._seconds[num_rows] = before + _NEWEST * (took_s - before)

    def cost(self, num_rows: int, num_more: int, extra_s: float = 0.0) -> float | None:
        """A pass with so many rows more and what had to be done for it, in passes without. None: not known yet."""
        plain, longer = self._seconds.get(num_rows), self._seconds.get(num_rows + num_more)
        return None if plain is None or longer is None else (longer + extra_s) / plain
