"""Grouped-query attention over the slots of a batch: all that decode in one pass, each chunk of a prompt in one more.

Query heads that share a key head are taken as further rows of one query, so that keys and values are never copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch.nn import functional


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
    """Segments one behind the other, and what every layer needs to know of them. group: query heads of a key head."""

    def __init__(self, segments: list[Segment], group: int) -> None:
        self._group = group
        self.segments = segments
        self.ids = torch.tensor([number for segment in segments for number in segment.ids])
        self.positions = torch.cat([torch.arange(segment.start, segment.end) for segment in segments])
        self._rows: list[slice] = []
        wanted: list[int] = []
        row = 0
        for segment in segments:
            end = row + len(segment.ids)
            self._rows.append(slice(row, end))
            wanted.extend(range(end - segment.num_wanted, end))
            row = end
        self.wanted = torch.tensor(wanted)
        self._masks = [self._mask(segment) for segment in segments]
        self._single = _Singles.of(segments)

    def _mask(self, segment: Segment) -> torch.Tensor | None:
        """(group * rows, end): true where a row may look. None: everywhere."""
        count = len(segment.ids)
        if count == 1:
            return None
        return torch.ones(count, segment.end, dtype=torch.bool).tril(segment.start).repeat(self._group, 1)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Query (rows, heads, width), key and value (rows, kv_heads, width); keys, values (slots, kv_heads, context,
        width) take the new ones in. Returns (rows, heads * width).
        """
        for segment, rows in zip(self.segments, self._rows, strict=True):
            keys[segment.slot, :, segment.start : segment.end] = key[rows].transpose(0, 1)
            values[segment.slot, :, segment.start : segment.end] = value[rows].transpose(0, 1)
        found = torch.empty_like(query)
        if self._single is not None:
            found[: self._single.count] = self._single.attend(query, keys, values)
        for segment, rows, mask in zip(self.segments, self._rows, self._masks, strict=True):
            if self._single is None or rows.start >= self._single.count:
                found[rows] = self._attend_alone(query[rows], keys, values, segment, mask)
        return found.flatten(1)

    def _attend_alone(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, segment: Segment, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """(rows, heads, width)"""
        num_rows, heads, width = query.shape
        kv_heads = heads // self._group
        # (rows, kv_heads, group, width) into (kv_heads, group * rows, width)
        stacked = query.view(num_rows, kv_heads, self._group, width).permute(1, 2, 0, 3).reshape(kv_heads, -1, width)
        found = functional.scaled_dot_product_attention(
            stacked[None],
            keys[None, segment.slot, :, : segment.end],
            values[None, segment.slot, :, : segment.end],
            mask,
        )
        return found[0].view(kv_heads, self._group, num_rows, width).permute(2, 0, 1, 3).reshape(num_rows, heads, width)


@dataclass(frozen=True)
class _Singles:
    """Two or more segments of one token at the batch's beginning, over the range of slots that they lie in.

    places    of each in that range
    mask      (slots of the range, 1, 1, longest end); idle slots look at their first cell, and nobody at them
    """

    count: int
    first: int
    last: int
    places: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, segments: list[Segment]) -> "_Singles | None":
        singles = list(takewhile(lambda segment: len(segment.ids) == 1, segments))
        if len(singles) < 2:  # noqa: PLR2004
            return None
        slots = [segment.slot for segment in singles]
        first, last = min(slots), max(slots)
        ends = torch.ones(last - first + 1, dtype=torch.long)
        places = torch.tensor(slots) - first
        ends[places] = torch.tensor([segment.end for segment in singles])
        mask = torch.arange(int(ends.max())) < ends[:, None]
        return cls(len(singles), first, last, places, mask[:, None, None])

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """(count, heads, width)"""
        _, heads, width = query.shape
        kv_heads, length = keys.shape[1], self.mask.shape[-1]
        placed = query.new_zeros(self.last - self.first + 1, kv_heads, heads // kv_heads, width)
        placed[self.places] = query[: self.count].view(self.count, kv_heads, -1, width)
        slots = slice(self.first, self.last + 1)
        found = functional.scaled_dot_product_attention(
            placed, keys[slots, :, :length], values[slots, :, :length], self.mask
        )
        return found[self.places].view(self.count, heads, width)
