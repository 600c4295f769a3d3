"""Keys and values of every slot's whole context, in one piece from the start."""

import torch

from dure_worker.engines.ark.config import DecoderConfig


class KvCache:
    """keys, values    (layers, slots, kv_heads, context, head_dim) bfloat16"""

    def __init__(self, config: DecoderConfig, num_slots: int, context: int) -> None:
        shape = (config.shape.layers, num_slots, config.shape.kv_heads, context, config.shape.head_dim)
        self.keys = torch.zeros(shape, dtype=torch.bfloat16)
        self.values = torch.zeros(shape, dtype=torch.bfloat16)
        self.context = context

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """The first tokens of a slot into another."""
        for tensor in (self.keys, self.values):
            tensor[:, target, :, :num_tokens] = tensor[:, source, :, :num_tokens]
