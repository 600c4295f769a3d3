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
        # A stop string that has begun but not ended yet counts before a whole one behind its beginning.
        num_sure = len(self._held) - self._num_held()
        return self._search(num_sure)

    def finish(self) -> str:
        """The held-back rest, once it is sure what follows: nothing."""
        return "" if self.is_found else self._search(len(self._held))

    def _search(self, num_sure: int) -> str:
        found = [position for position in map(self._held.find, self._stop) if 0 <= position <= num_sure]
        if found:
            self.is_found = True
            return self._held[: min(found)]
        safe, self._held = self._held[:num_sure], self._held[num_sure:]
        return safe

    def _num_held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
