"""Rows of a table that lies somewhere in a file, as bytes, in pieces of some MB."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dure.errors import ModelCorrupt

# A piece is all that is held of a tensor at a time.
PIECE_BYTES = 1 << 22


def block(path: Path, start: int, size: int) -> Iterator[bytes]:
    """`size` bytes from `start` on. Raises ModelCorrupt where the file ends before."""
    with path.open("rb") as file:
        yield from _pieces(file, path, start, size)


def rows(path: Path, start: int, row_bytes: int, wanted: list[int]) -> Iterator[bytes]:
    """The wanted rows of a table that begins at `start`, in their order."""
    with path.open("rb") as file:
        for first, count in _runs(wanted):
            yield from _pieces(file, path, start + first * row_bytes, count * row_bytes)


def _pieces(file: IO[bytes], path: Path, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    left = size
    while left:
        piece = file.read(min(left, PIECE_BYTES))
        if not piece:
            raise ModelCorrupt(f"{path} is cut short: {left} bytes of a tensor are missing; fetch it again")
        left -= len(piece)
        yield piece


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbours together: (first, count)."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[start], place - start
            start = place
