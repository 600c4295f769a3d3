"""A sentence while it is edited, and what was changed in it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

from dure_worker.korean import masks, parser
from dure_worker.korean.parser import Parse


@dataclass(frozen=True)
class Edit:
    """kind          the pass that made it, such as `josa`
    start, end    of what was replaced, in the raw sentence
    confidence    from 0 to 1, what the pass thinks of it
    """

    kind: str
    start: int
    end: int
    before: str
    after: str
    confidence: float = 1.0

    def moved(self, by: int) -> Self:
        return replace(self, start=self.start + by, end=self.end + by)


@dataclass(frozen=True)
class Sentence:
    """raw as generated, text as it is sent; white space that follows it included in both. Of a sentence that took too
    long, a part.
    """

    raw: str
    text: str
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Change:
    """What a pass wants in the text as it finds it."""

    start: int
    end: int
    after: str
    confidence: float = 1.0


@dataclass
class Draft:
    """A sentence between two passes.

    is_last    of the answer
    said       by the one who is answered; quotations from it stay
    origins    for each letter of the text, and its end, the place in the raw sentence
    """

    text: str
    is_last: bool = False
    said: str = ""
    origins: list[int] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    _parse: Parse | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.origins = self.origins or list(range(len(self.text) + 1))

    @property
    def protected(self) -> list[tuple[int, int]]:
        """Spans that no pass may touch: code, addresses, formulas, the other's words and the like."""
        return masks.spans(self.text) + (masks.quotes(self.text, self.said) if self.said else [])

    @property
    def parsed(self) -> Parse:
        """Of the text as it is now."""
        self._parse = self._parse or parser.parse(self.text)
        return self._parse

    def place_of(self, origin: int) -> int:
        """Where in the text begins what comes from that place in the raw sentence, or from one behind it."""
        return next((place for place, found in enumerate(self.origins) if found >= origin), len(self.text))

    def apply(self, kind: str, changes: Iterable[Change]) -> None:
        """Those that touch nothing protected and do not overlap an earlier one."""
        wanted = sorted(changes, key=lambda change: (change.start, change.end))
        protected = self.protected if wanted else []
        text, origins, done = "", [], 0
        for change in wanted:
            before = self.text[change.start : change.end]
            if change.start < done or before == change.after or _touches(change, protected):
                continue
            text += self.text[done : change.start] + change.after
            origins += self.origins[done : change.start] + [self.origins[change.start]] * len(change.after)
            start, end = self.origins[change.start], self.origins[change.end]
            self.edits.append(Edit(kind, start, end, before, change.after, change.confidence))
            done = change.end
        if done or text:
            self.text, self.origins = text + self.text[done:], origins + self.origins[done:]
            self._parse = None


def _touches(change: Change, protected: list[tuple[int, int]]) -> bool:
    """An insertion touches only what it is inside of."""
    if change.start == change.end:
        return any(start < change.start < end for start, end in protected)
    return any(start < change.end and change.start < end for start, end in protected)
