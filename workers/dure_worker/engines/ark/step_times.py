"""How long a pass takes by its number of rows: whether guesses pay is measured on this box, not assumed.

Where a pass waits for the weights to come from memory, further rows are nearly free; where it waits for the cores, each
costs as much as the first.
"""

# Weight of the newest time; the machine may be shared, and speeds drift.
_NEWEST = 0.1


class StepTimes:
    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, num_rows: int, took_s: float) -> None:
        before = self._seconds.get(num_rows, took_s)
        # A pass that was held up by something else tells nothing.
        if took_s < 4 * before:
            self._seconds[num_rows] = before + _NEWEST * (took_s - before)

    def cost(self, num_rows: int, num_more: int) -> float | None:
        """A pass with so many rows more, in passes without them. None: not known yet."""
        plain, longer = self._seconds.get(num_rows), self._seconds.get(num_rows + num_more)
        return None if plain is None or longer is None else longer / plain
