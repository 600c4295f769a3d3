"""Stop strings for engines whose runtime has none of its own."""


class StopFinder:
    """Passes text on until one of the stop strings appears, and holds back what may be the beginning of one."""

    def __init__(self, stop: list[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.is_found = False

    def feed(self, text: str) -> str:
        """Return the text that is safe to show. Nothing comes after a stop string was found."""
        if self.is_found:
            return ""
        self._held += text
        found = [position for position in map(self._held.find, self._stop) if position >= 0]
        if found:
            self.is_found = True
            return self._held[: min(found)]
        keep = self._num_held()
        safe, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return safe

    def finish(self) -> str:
        """The held-back rest, once it is sure that no stop string follows."""
        return "" if self.is_found else self._held

    def _num_held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
