"""A decoder of two layers with random weights: as a checkpoint on disk, and computed by numpy as its makers define it.

Source of the computation: modeling_qwen2.py, modeling_qwen3.py and modeling_llama.py of Hugging Face transformers.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiny_checkpoint
from dure import safetensors
from dure.safetensors import Tensor

Floats = NDArray[np.float32]

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN = 2, 128, 4, 2, 256
THETA, EPS = 10_000.0, 1e-5
LLAMA_3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TinyDecoder:
    kind: str  # qwen2: biases; qwen3: norms of queries and keys; llama: stretched rotation
    weights: dict[str, Floats]
    ffn: int = FFN

    @classmethod
    def make(cls, kind: str, seed: int = 1, ffn: int = FFN) -> "TinyDecoder":
        dice = np.random.default_rng(seed)
        head_dim, vocab = _head_dim(kind), len(tiny_checkpoint.tokens())
        wide, narrow = HEADS * head_dim, KV_HEADS * head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (vocab, HIDDEN),
            "model.norm.weight": (HIDDEN,),
        }
        for layer in (f"model.layers.{number}." for number in range(LAYERS)):
            shapes |= {f"{layer}{name}.weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
            shapes |= {
                f"{layer}self_attn.q_proj.weight": (wide, HIDDEN),
                f"{layer}self_attn.o_proj.weight": (HIDDEN, wide),
            }
            shapes |= {f"{layer}self_attn.{name}_proj.weight": (narrow, HIDDEN) for name in "kv"}
            shapes |= {f"{layer}mlp.{name}_proj.weight": (ffn, HIDDEN) for name in ("gate", "up")}
            shapes |= {f"{layer}mlp.down_proj.weight": (HIDDEN, ffn)}
            if kind == "qwen2":
                shapes |= {f"{layer}self_attn.{n}_proj.bias": (wide if n == "q" else narrow,) for n in "qkv"}
            if kind == "qwen3":
                shapes |= {f"{layer}self_attn.{name}_norm.weight": (head_dim,) for name in "qk"}
        if kind != "qwen2":
            shapes["lm_head.weight"] = (vocab, HIDDEN)
        return cls(kind, {name: _bf16(dice.normal(size=shape) * 0.15) for name, shape in shapes.items()}, ffn)

    @property
    def head_dim(self) -> int:
        return _head_dim(self.kind)

    def config(self) -> dict[str, Any]:
        found = {
            "model_type": self.kind, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": self.head_dim, "intermediate_size": self.ffn,
            "rms_norm_eps": EPS, "rope_theta": THETA, "max_position_embeddings": 512,
            "vocab_size": len(tiny_checkpoint.tokens()),
            "eos_token_id": [tiny_checkpoint.tokens().index("<|end|>")], "tie_word_embeddings": self.kind == "qwen2",
        }  # fmt: skip
        return found | ({"rope_scaling": LLAMA_3} if self.kind == "llama" else {})

    def write(self, folder: Path, num_shards: int = 2) -> Path:
        folder.mkdir()
        tiny_checkpoint.write_json(folder / "config.json", self.config())
        tiny_checkpoint.write_json(folder / "tokenizer.json", tiny_checkpoint.tokenizer_json())
        tiny_checkpoint.write_json(
            folder / "tokenizer_config.json", {"add_bos_token": False, "chat_template": "{{ 1 }}"}
        )
        names = list(self.weights)
        places = {
            name: f"model-{n % num_shards + 1:05d}-of-{num_shards:05d}.safetensors" for n, name in enumerate(names)
        }
        for file in sorted(set(places.values())):
            self._write_shard(folder / file, [name for name in names if places[name] == file])
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")
        return folder

    def _write_shard(self, path: Path, names: list[str]) -> None:
        tensors = safetensors.placed(Tensor(name, "BF16", self.weights[name].shape, 0) for name in names)
        raw = b"".join((self.weights[name].view(np.uint32) >> 16).astype("<u2").tobytes() for name in names)
        path.write_bytes(safetensors.head(tensors, {"format": "pt"}) + raw)

    def states(self, ids: list[int]) -> Floats:
        """The state of each position after the last norm."""
        states = self.weights["model.embed_tokens.weight"][ids]
        for layer in (f"model.layers.{number}." for number in range(LAYERS)):
            states = states + self._attended(f"{layer}self_attn.", self._normed(states, f"{layer}input_layernorm"))
            inner = self._normed(states, f"{layer}post_attention_layernorm")
            gate = inner @ self.weights[f"{layer}mlp.gate_proj.weight"].T
            up = inner @ self.weights[f"{layer}mlp.up_proj.weight"].T
            states = states + (gate / (1 + np.exp(-gate)) * up) @ self.weights[f"{layer}mlp.down_proj.weight"].T
        return self._normed(states, "model.norm")

    def _normed(self, states: Floats, name: str) -> Floats:
        size = np.sqrt((states**2).mean(-1, keepdims=True) + EPS)
        return np.asarray(states / size * self.weights[f"{name}.weight"], np.float32)

    def _attended(self, layer: str, states: Floats) -> Floats:
        queries, keys = (self._rotated(self._heads(layer, name, states)) for name in "qk")
        values = self._heads(layer, "v", states)
        repeats = HEADS // KV_HEADS
        scores = queries @ np.repeat(keys, repeats, 0).transpose(0, 2, 1) / math.sqrt(self.head_dim)
        scores = np.where(np.tri(len(states), dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        found = (shares @ np.repeat(values, repeats, 0)).transpose(1, 0, 2).reshape(len(states), -1)
        return np.asarray(found @ self.weights[f"{layer}o_proj.weight"].T, np.float32)

    def _heads(self, layer: str, name: str, states: Floats) -> Floats:
        found = states @ self.weights[f"{layer}{name}_proj.weight"].T + self.weights.get(f"{layer}{name}_proj.bias", 0)
        heads = found.reshape(len(states), -1, self.head_dim).transpose(1, 0, 2)
        return self._normed(heads, f"{layer}{name}_norm") if f"{layer}{name}_norm.weight" in self.weights else heads

    def _rotated(self, heads: Floats) -> Floats:
        angles = np.arange(heads.shape[1])[:, None] * self._frequencies()
        cosines, sines = (np.concatenate([part, part], -1) for part in (np.cos(angles), np.sin(angles)))
        first, second = np.split(heads, 2, -1)
        return np.asarray(heads * cosines + np.concatenate([-second, first], -1) * sines, np.float32)

    def _frequencies(self) -> NDArray[np.float64]:
        plain = THETA ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        if self.kind != "llama":
            return np.asarray(plain)
        lengths, old = 2 * math.pi / plain, LLAMA_3["original_max_position_embeddings"]
        assert isinstance(old, int)
        smooth = (old / lengths - 1) / (4 - 1)
        between = (1 - smooth) * plain / 8 + smooth * plain
        return np.where(lengths > old, plain / 8, np.where(lengths < old / 4, plain, between))


def _head_dim(kind: str) -> int:
    """In Qwen2 the heads make up the hidden state; the others may have larger ones."""
    return HIDDEN // HEADS if kind == "qwen2" else 64


def _bf16(numbers: NDArray[np.float64]) -> Floats:
    """The nearest below, as BF16 holds them."""
    return (numbers.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
