"""What stays of a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """By old numbers, sorted. None: all stay.

    layers     that stay
    channels   by layer: of the feed-forward part; equally many in each layer
    heads      by layer: query heads; equally many in each layer and each group that shares a key head
    """

    layers: list[int]
    channels: dict[int, list[int]] | None = None
    heads: dict[int, list[int]] | None = None
