"""The decoder: rows of several slots at once, some at the end of an answer, some in the middle of a prompt.

Source: modeling_qwen2.py, modeling_qwen3.py, modeling_llama.py, modeling_gemma3.py and modeling_gpt_neox.py of Hugging
Face transformers. What they share is computed by one code; the rest is data: tensors that are there or not, and a
Family.
"""

from dataclasses import dataclass
from itertools import count

import torch
from torch.nn import functional

from dure_worker.engines.ark.attention import Batch, Segment
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.linear import Linear


@dataclass(frozen=True)
class Norm:
    """RMSNorm, or with a bias LayerNorm; float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.bias is None:
            # torch's own rms_norm is a chain of passes over x on the CPU: 10 times as long for a chunk of a prompt.
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scale = norm.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
            found: torch.Tensor = (x * scale).mul_(self.weight)
            return found
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Layer:
    """What a family lacks is None.

    query_norm, key_norm                of a head
    attention_post_norm, ffn_post_norm  of what is added to the residual stream
    """

    attention_norm: Norm
    qkv: Linear
    output: Linear
    ffn_norm: Norm
    gate_up: Linear
    down: Linear
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    attention_post_norm: Norm | None = None
    ffn_post_norm: Norm | None = None


@dataclass(frozen=True)
class Embedding:
    """Rows of int8 with a scale for each group: codes (vocab, groups, group), scales (vocab, groups, 1)."""

    codes: torch.Tensor
    scales: torch.Tensor

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """(rows,) into (rows, hidden) float32."""
        return (self.codes[ids] * self.scales[ids].float()).flatten(1)


class Rotation:
    """frequencies (num_rotated / 2) float64: by how much a pair turns at each position."""

    def __init__(self, frequencies: torch.Tensor, *, is_neighbours: bool) -> None:
        self._frequencies, self._is_neighbours = frequencies, is_neighbours
        self._cos, self._sin = torch.empty(0), torch.empty(0)

    def at(self, positions: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (rows, 1, num_rotated) float32; the first of each pair's sine is negative."""
        if len(self._cos) < context:
            self._prepare(context)
        return self._cos[positions], self._sin[positions]

    def _prepare(self, context: int) -> None:
        angles = torch.outer(torch.arange(context, dtype=torch.float64), self._frequencies)
        cos, sin = angles.cos().float(), angles.sin().float()
        if self._is_neighbours:
            self._cos, self._sin = cos.repeat_interleave(2, 1), torch.stack([-sin, sin], -1).flatten(1)
        else:
            self._cos, self._sin = torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)
        self._cos, self._sin = self._cos[:, None], self._sin[:, None]

    def __call__(self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """X (rows, heads, head_dim), of which the first num_rotated turn."""
        cos, sin = turns
        width = cos.shape[-1]
        part = x if width == x.shape[-1] else x[..., :width]
        pairs = part.view(*part.shape[:-1], -1, 2).flip(-1).flatten(-2) if self._is_neighbours else None
        partner = part.roll(width // 2, -1) if pairs is None else pairs
        turned = torch.addcmul(part * cos, partner, sin)
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


class Decoder:
    """rotation of layers that look to the beginning, local_rotation of those with a window."""

    def __init__(
        self, config: DecoderConfig, embedding: Embedding, layers: list[Layer], norm: Norm, head: Linear,
        rotation: Rotation, local_rotation: Rotation,
    ) -> None:  # fmt: skip
        self.config = config
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rotation, self._local_rotation = rotation, local_rotation

    @torch.inference_mode()
    def forward(self, segments: list[Segment], cache: KvCache) -> torch.Tensor:
        """Compute the segments' tokens and keep their keys and values. Returns logits (wanted tokens, vocab) float32.

        Segments of one token come first.
        """
        batch = Batch(segments)
        x = self._embedding(batch.ids)
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        turns = {
            rotation: rotation.at(batch.positions, cache.context) for rotation in {self._rotation, self._local_rotation}
        }
        for number, layer in zip(count(), self._layers):
            window = self.config.window(number)
            rotation = self._local_rotation if window else self._rotation
            qkv = layer.qkv(layer.attention_norm(x)).view(len(x), -1, self.config.shape.head_dim)
            query = self._keep(layer, qkv, rotation, turns[rotation], cache, number, batch)
            attended = layer.output(batch.attend(query, cache, number, window).float())
            if layer.attention_post_norm is not None:
                attended = layer.attention_post_norm(attended)
            # In place, but where the layer's other half reads what was before.
            before, x = x, x + attended if self.config.is_parallel else x.add_(attended)
            fed = self._fed(layer, layer.ffn_norm(before if self.config.is_parallel else x))
            if layer.ffn_post_norm is not None:
                fed = layer.ffn_post_norm(fed)
            x.add_(fed)
        return self._head(self._norm(x[batch.wanted]))

    @torch.inference_mode()
    def forget(self, cache: KvCache, slot: int, first: int, count: int, length: int) -> None:
        """Of a slot's `length` tokens drop `count` from `first` on: those behind move there, their keys turned back.

        Source: StreamingLLM (Xiao et al., 2023): positions are those in the cache, and the beginning stays.
        """
        positions = torch.arange(first, length - count)
        slots = torch.full_like(positions, slot)
        for number in range(len(self._layers)):
            rotation = self._local_rotation if self.config.window(number) else self._rotation
            cos, sin = rotation.at(torch.tensor([count]), cache.context)
            keys, values = (
                found[0].transpose(0, 1).float()
                for found in cache.read(number, slice(slot, slot + 1), slice(first + count, length))
            )
            cache.write(number, slots, positions, torch.stack([rotation(keys, (cos, -sin)), values], 1))

    def _keep(
        self, layer: Layer, qkv: torch.Tensor, rotation: Rotation, turns: tuple[torch.Tensor, torch.Tensor],
        cache: KvCache, number: int, batch: Batch,
    ) -> torch.Tensor:  # fmt: skip
        """Keys and values into the cache. qkv (rows, heads + 2 kv_heads, head_dim).

        Returns the queries (rows, kv_heads, group, head_dim) bfloat16.
        """
        shape = self.config.shape
        num_rotated = shape.heads + shape.kv_heads
        turning = qkv[:, :num_rotated]
        if layer.query_norm is not None and layer.key_norm is not None:
            turning = torch.cat(
                [layer.query_norm(turning[:, : shape.heads]), layer.key_norm(turning[:, shape.heads :])], 1
            )
        turned = rotation(turning, turns).bfloat16()
        pairs = torch.stack([turned[:, shape.heads :], qkv[:, num_rotated:].bfloat16()], 1)
        cache.write(number, batch.slots, batch.positions, pairs)
        return turned[:, : shape.heads].reshape(len(turned), shape.kv_heads, -1, shape.head_dim)

    def _fed(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        found = layer.gate_up(x)
        if not self.config.shape.is_gated:
            return layer.down(self.config.family.activation(found))
        gate, up = found.chunk(2, 1)
        return layer.down(self.config.family.activation(gate).mul_(up))
