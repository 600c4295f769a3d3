"""Keys and values of every slot's whole context, in one piece from the start."""

import torch

from dure_worker.engines.ark.config import DecoderConfig

Pair = tuple[torch.Tensor, torch.Tensor]


class KvCache:
    """cells    (layers, slots, 2, kv_heads, context, head_dim) bfloat16: keys, then values"""

    def __init__(self, config: DecoderConfig, num_slots: int, context: int) -> None:
        shape = config.shape
        self.cells = torch.zeros(
            (shape.layers, num_slots, 2, shape.kv_heads, context, shape.head_dim), dtype=torch.bfloat16
        )
        self.context = context

    def write(self, layer: int, slots: torch.Tensor, positions: torch.Tensor, pairs: torch.Tensor) -> None:
        """slots, positions (rows); pairs (rows, 2, kv_heads, head_dim)."""
        self.cells[layer, slots, :, :, positions] = pairs.bfloat16()

    def read(self, layer: int, slots: slice, cells: slice) -> Pair:
        """Keys and values (slots, kv_heads, cells, head_dim) bfloat16."""
        found = self.cells[layer, slots, :, :, cells]
        return found[:, 0], found[:, 1]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """The first tokens of a slot into another."""
        self.cells[:, target, :, :, :num_tokens] = self.cells[:, source, :, :, :num_tokens]
