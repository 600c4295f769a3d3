"""Grouped-query attention over the slots of a batch: all that decode in one pass, each chunk of a prompt in one more.

Query heads that share a key head are taken as further rows of one query, so that keys and values are never copied.

A row's result is the same to the bit whatever is computed beside it: cells are taken from the first one on in whole
blocks, and those that a row may not see are masked, so that sums run in one order. (Seen with AVX2; the kernels do not
promise it.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch.nn import functional

from dure_worker.engines.ark.kv_cache import BLOCK, KvCache


@dataclass(frozen=True)
class Segment:
    """Tokens that follow each other in a slot, the first of them at position `start`.

    num_wanted    for how many of the last ones logits are wanted
    """

    slot: int
    start: int
    ids: Sequence[int]
    num_wanted: int = 1

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


class Batch:
    """Segments one behind the other, those of one token first, and what every layer needs to know of them.

    ids, positions, slots    of each row
    wanted                   rows whose logits are wanted
    """

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self.ids = torch.tensor([number for segment in segments for number in segment.ids])
        self.positions = torch.tensor([place for segment in segments for place in range(segment.start, segment.end)])
        self.slots = torch.tensor([segment.slot for segment in segments for _ in segment.ids])
        wanted: list[int] = []
        row = 0
        for segment in segments:
            row += len(segment.ids)
            wanted.extend(range(row - segment.num_wanted, row))
        self.wanted = torch.tensor(wanted)
        self._passes: dict[int, list[_Pass]] = {}

    def attend(self, query: torch.Tensor, cache: KvCache, layer: int, window: int) -> torch.Tensor:
        """Query (rows, kv_heads, group, width) bfloat16, its keys and values written. Returns (rows, heads * width).

        window    how many cells back a row looks, its own included; 0: to the beginning
        """
        passes = self._passes.get(window) or self._passes.setdefault(window, _passes(self._segments, window))
        found = [each.attend(query, cache, layer) for each in passes]
        return found[0] if len(found) == 1 else torch.cat(found)


class _Pass:
    """Rows that are computed in one call."""

    rows: slice

    def attend(self, query: torch.Tensor, cache: KvCache, layer: int) -> torch.Tensor:
        """(rows, heads * width)"""
        raise NotImplementedError


def _passes(segments: list[Segment], window: int) -> list[_Pass]:
    singles = list(takewhile(lambda segment: len(segment.ids) == 1, segments))
    found: list[_Pass] = [_Singles(singles, window)] if singles else []
    row = len(singles)
    for segment in segments[row:]:
        found.append(_Alone(segment, row, window))
        row += len(segment.ids)
    return found


class _Alone(_Pass):
    """One segment over its own slot."""

    def __init__(self, segment: Segment, first_row: int, window: int) -> None:
        self.rows = slice(first_row, first_row + len(segment.ids))
        self._slots = slice(segment.slot, segment.slot + 1)
        self._cells = _blocks(segment.end)
        # (rows, cells), or (group * rows, cells) once it is known how many heads share a key
        self._mask = _mask(torch.arange(segment.start, segment.end), self._cells, window)

    def attend(self, query: torch.Tensor, cache: KvCache, layer: int) -> torch.Tensor:
        keys, values = cache.read(layer, self._slots, self._cells)
        rows = query[self.rows]
        num_rows, kv_heads, group, width = rows.shape
        # (kv_heads, group * rows, width): the mask is the same for each of the group.
        stacked = rows.permute(1, 2, 0, 3).reshape(1, kv_heads, group * num_rows, width)
        if len(self._mask) != group * num_rows:
            self._mask = self._mask.repeat(group, 1)
        found = functional.scaled_dot_product_attention(stacked, keys, values, self._mask)
        return found.view(kv_heads, group, num_rows, width).permute(2, 0, 1, 3).reshape(num_rows, -1)


class _Singles(_Pass):
    """Segments of one token over the range of slots that they lie in."""

    def __init__(self, segments: list[Segment], window: int) -> None:
        self.rows = slice(0, len(segments))
        slots = [segment.slot for segment in segments]
        first, last = min(slots), max(slots)
        self._slots = slice(first, last + 1)
        self._places = torch.tensor(slots) - first
        # Idle slots look at their first cell, and nobody at them.
        positions = torch.zeros(last - first + 1, dtype=torch.long)
        positions[self._places] = torch.tensor([segment.start for segment in segments])
        self._cells = _blocks(max(segment.end for segment in segments))
        self._mask = _mask(positions, self._cells, window)[:, None, None]  # (slots, 1, 1, cells)
        # Often each slot of the range has its row, in order.
        self._is_whole = slots == list(range(first, last + 1))

    def attend(self, query: torch.Tensor, cache: KvCache, layer: int) -> torch.Tensor:
        keys, values = cache.read(layer, self._slots, self._cells)
        rows = query[self.rows]
        if not self._is_whole:
            placed = rows.new_zeros(keys.shape[0], *rows.shape[1:])
            placed[self._places] = rows
            rows = placed
        found = functional.scaled_dot_product_attention(rows, keys, values, self._mask).flatten(1)
        return found if self._is_whole else found[self._places]


def _blocks(end: int) -> slice:
    return slice(0, -(-end // BLOCK) * BLOCK)


def _mask(positions: torch.Tensor, cells: slice, window: int) -> torch.Tensor:
    """Which cells a row at each position sees, as what is added to their scores: (rows, cells) bfloat16."""
    place, cell = positions[:, None], torch.arange(cells.stop)
    is_seen = (cell <= place) & (cell > place - window) if window else cell <= place
    # Made once: of a mask of booleans the kernels would make this anew in every layer.
    return torch.zeros(is_seen.shape, dtype=torch.bfloat16).masked_fill_(~is_seen, -torch.inf)
