"""One answer as its asker sees it: when each piece came, and how many tokens that were."""

from bisect import bisect_right
from dataclasses import dataclass, field

from dure.job import Usage


@dataclass
class Trace:
    """began, pieces, ended: of time.perf_counter. pieces holds the times at which text came."""

    began: float
    pieces: list[float] = field(default_factory=list)
    text: str = ""
    ended: float = 0.0
    usage: Usage = Usage()
    is_whole: bool = False  # ended by itself or at its limit, so that usage counts its tokens

    @property
    def first_s(self) -> float:
        """Seconds until the first text. Raises ValueError where none came."""
        if not self.pieces:
            raise ValueError("no text came")
        return self.pieces[0] - self.began

    def tokens_between(self, start: float, end: float, tokens_a_piece: float) -> float:
        """A piece of text may be several tokens, and a token may show nothing: an answer's tokens are spread evenly
        over its pieces. tokens_a_piece is for answers that were cut off.
        """
        num_pieces = bisect_right(self.pieces, end) - bisect_right(self.pieces, start)
        if self.is_whole and self.pieces:
            tokens_a_piece = self.usage.completion_tokens / len(self.pieces)
        return num_pieces * tokens_a_piece


def tokens_a_piece(traces: list[Trace]) -> float:
    """Of those that are whole; 1 where none is."""
    whole = [trace for trace in traces if trace.is_whole and trace.pieces]
    num_pieces = sum(len(trace.pieces) for trace in whole)
    return sum(trace.usage.completion_tokens for trace in whole) / num_pieces if num_pieces else 1.0
