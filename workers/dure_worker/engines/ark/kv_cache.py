"""Keys and values of every slot's whole context, in one piece from the start."""

import torch

from dure_worker.engines.ark.config import DecoderConfig

Pair = tuple[torch.Tensor, torch.Tensor]


# Cells that attention takes at once: a multiple of every vector's width, so that no row's end is summed in another way.
BLOCK = 64


class KvCache:
    """bits     of a number: 16 (bfloat16), or 8 with a scale for each head of a cell, in half the memory
    parts    what the cells are made of, each (layers, slots, 2, kv_heads, context, …): keys, then values
    """

    def __init__(self, config: DecoderConfig, num_slots: int, context: int, bits: int = 16) -> None:
        shape = config.shape
        # Attention takes whole blocks.
        cells = (shape.layers, num_slots, 2, shape.kv_heads, -(-context // BLOCK) * BLOCK)
        self._is_int8 = bits == 8  # noqa: PLR2004
        if self._is_int8:
            codes = torch.zeros(*cells, shape.head_dim, dtype=torch.int8)
            self.parts = [codes, torch.zeros(*cells, 1)]
        else:
            self.parts = [torch.zeros(*cells, shape.head_dim, dtype=torch.bfloat16)]
        self.context = context

    def write(self, layer: int, slots: torch.Tensor, positions: torch.Tensor, pairs: torch.Tensor) -> None:
        """slots, positions (rows); pairs (rows, 2, kv_heads, head_dim)."""
        if self._is_int8:
            # Of zeros too there is a scale.
            scales = (pairs.float().abs().amax(-1, keepdim=True) / 127).clamp_(min=1e-30)
            self.parts[0][layer, slots, :, :, positions] = (pairs / scales).round_().to(torch.int8)
            self.parts[1][layer, slots, :, :, positions] = scales
        else:
            self.parts[0][layer, slots, :, :, positions] = pairs.bfloat16()

    def read(self, layer: int, slots: slice, cells: slice) -> Pair:
        """Keys and values (slots, kv_heads, cells, head_dim) bfloat16."""
        found = self.parts[0][layer, slots, :, :, cells]
        if self._is_int8:
            found = (found * self.parts[1][layer, slots, :, :, cells]).bfloat16()
        return found[:, 0], found[:, 1]

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """The first tokens of a slot into another."""
        for part in self.parts:
            part[:, target, :, :, :num_tokens] = part[:, source, :, :, :num_tokens]

    def saved(self, slot: int, num_tokens: int) -> list[torch.Tensor]:
        """A slot's first tokens, each part without the axis of slots."""
        return [part[:, slot, :, :, :num_tokens].contiguous() for part in self.parts]

    def restore(self, slot: int, saved: list[torch.Tensor]) -> None:
        for part, found in zip(self.parts, saved, strict=True):
            part[:, slot, :, :, : found.shape[3]] = found
