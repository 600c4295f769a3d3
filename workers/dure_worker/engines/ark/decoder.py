"""The decoder: rows of several slots at once, some at the end of an answer, some in the middle of a prompt.

Source: modeling_qwen2.py, modeling_qwen3.py and modeling_llama.py of Hugging Face transformers.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from dure_worker.engines.ark.attention import Batch, Segment
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.linear import Linear


@dataclass(frozen=True)
class Layer:
    """Vectors are float32. query_norm, key_norm: of a head, where the family has them."""

    attention_norm: torch.Tensor
    qkv: Linear
    output: Linear
    ffn_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None


@dataclass(frozen=True)
class Embedding:
    """Rows of int8 with a scale for each group: codes (vocab, groups, group), scales (vocab, groups, 1) bfloat16."""

    codes: torch.Tensor
    scales: torch.Tensor

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows,) into (rows, hidden) float32."""
        return (self.codes[ids] * self.scales[ids].float()).flatten(1)


class Decoder:
    """frequencies (head_dim / 2) float64: by how much a pair turns at each position."""

    def __init__(
        self, config: DecoderConfig, embedding: Embedding, layers: list[Layer], norm: torch.Tensor, head: Linear,
        frequencies: torch.Tensor,
    ) -> None:  # fmt: skip
        self.config = config
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._frequencies = frequencies
        self._cos, self._sin = torch.empty(0), torch.empty(0)

    @torch.inference_mode()
    def forward(self, segments: list[Segment], cache: KvCache) -> torch.Tensor:
        """Compute the segments' tokens and keep their keys and values. Returns logits (wanted tokens, vocab) float32.

        Segments of one token come first.
        """
        self._prepare_rotation(cache.context)
        batch = Batch(segments, self.config.group)
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        x = self._embedding(batch.ids)
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            query, key, value = self._projected(layer, x, cos, sin)
            x = x + layer.output(batch.attend(query, key, value, keys, values).float())
            x = x + layer.down(self._gated(layer, self._normed(x, layer.ffn_norm)))
        return self._head(self._normed(x[batch.wanted], self._norm))

    def _projected(
        self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (rows, heads, head_dim), keys and values (rows, kv_heads, head_dim), bfloat16."""
        shape = self.config.shape
        qkv = layer.qkv(self._normed(x, layer.attention_norm)).view(len(x), -1, shape.head_dim)
        num_rotated = shape.heads + shape.kv_heads
        rotated = qkv[:, :num_rotated]
        if layer.query_norm is not None and layer.key_norm is not None:
            query = self._normed(rotated[:, : shape.heads], layer.query_norm)
            key = self._normed(rotated[:, shape.heads :], layer.key_norm)
            rotated = torch.cat([query, key], 1)
        rotated = self._rotated(rotated, cos, sin).bfloat16()
        return rotated[:, : shape.heads], rotated[:, shape.heads :], qkv[:, num_rotated:].bfloat16()

    def _gated(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_up(x).chunk(2, 1)
        return functional.silu(gate) * up

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.config.eps)

    def _rotated(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """X (rows, heads, head_dim); cos, sin (rows, 1, head_dim)."""
        if self.config.is_neighbours:
            turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        else:
            first, second = x.chunk(2, -1)
            turned = torch.cat([-second, first], -1)
        return x * cos + turned * sin

    def _prepare_rotation(self, context: int) -> None:
        """cos, sin (context, 1, head_dim)"""
        if len(self._cos) >= context:
            return
        angles = torch.outer(torch.arange(context, dtype=torch.float64), self._frequencies)
        angles = angles.repeat_interleave(2, 1) if self.config.is_neighbours else torch.cat([angles, angles], 1)
        self._cos, self._sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
