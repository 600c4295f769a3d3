"""Small random models as their makers define them, and the GGUF files that hold the same weights.

Matrices are whole numbers times a power of two, so that Q8_0 blocks and every engine hold just what transformers has.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

import tiny_gguf
from dure import gguf
from dure.gguf import Tensor, TensorType, Value, ValueType

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN = 128, 4, 2, 32, 256
WINDOW = 16
KINDS = ("llama", "qwen2", "qwen3", "gemma3", "gptneox")

_SCALE = 2.0**-8
_PLAIN = {
    "vocab_size": 0, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM, "intermediate_size": FFN, "max_position_embeddings": 512, "num_hidden_layers": 2,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
_GATED = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_GEMMA = _GATED | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_NEOX = {
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_ENDS = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output",
}  # fmt: skip


@dataclass(frozen=True)
class ReferenceModel:
    kind: str
    model: Any
    changes: dict[str, Any]

    @classmethod
    def make(cls, kind: str, **changes: Any) -> "ReferenceModel":
        """changes: of the configuration, such as use_parallel_residual=False."""
        plain = _PLAIN | {"vocab_size": len(tiny_gguf.vocabulary()[0])}
        configs: dict[str, Any] = {
            "llama": lambda: transformers.LlamaConfig(**plain | changes),
            "qwen2": lambda: transformers.Qwen2Config(**plain | changes),
            "qwen3": lambda: transformers.Qwen3Config(**plain | changes),
            # The sixth layer looks to the beginning, the others at a window.
            "gemma3": lambda: transformers.Gemma3TextConfig(
                **plain | {"num_hidden_layers": 7, "sliding_window": WINDOW, "query_pre_attn_scalar": HEAD_DIM}
                | {"tie_word_embeddings": True} | changes
            ),
            "gptneox": lambda: transformers.GPTNeoXConfig(**plain | {"rotary_pct": 0.5} | changes),
        }  # fmt: skip
        torch.manual_seed(5)
        config = configs[kind]()
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        dice = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1:
                    codes = (torch.randn(weight.shape, generator=dice) * 40).round().clamp(-127, 127)
                    # Each block of 32 has its largest code: its scale is then just this one.
                    codes.view(-1, 32)[:, 0] = 127
                    weight.copy_(codes * _SCALE * 0.5)
                elif "norm" not in name or name.endswith("bias"):
                    weight.copy_(torch.randn(weight.shape, generator=dice) * 0.1)
                else:
                    weight.add_(torch.randn(weight.shape, generator=dice) * 0.1)
        return cls(kind, model, changes)

    def logits(self, ids: list[int]) -> NDArray[np.float32]:
        """(tokens, vocab)"""
        with torch.inference_mode():
            found: NDArray[np.float32] = self.model(torch.tensor([ids])).logits[0].numpy()
        return found

    def write(self, path: Path) -> Path:
        tokens, merges, kinds = tiny_gguf.vocabulary()
        values = self._values() | {
            "tokenizer.ggml.model": Value(ValueType.STRING, "gpt2"),
            "tokenizer.ggml.pre": Value(ValueType.STRING, "qwen2"),
            "tokenizer.ggml.tokens": Value(ValueType.ARRAY, tokens, ValueType.STRING),
            "tokenizer.ggml.token_type": Value(ValueType.ARRAY, kinds, ValueType.INT32),
            "tokenizer.ggml.merges": Value(ValueType.ARRAY, merges, ValueType.STRING),
            "tokenizer.ggml.eos_token_id": Value(ValueType.UINT32, tokens.index("<|end|>")),
        }
        weights = dict(self.weights())
        tensors = gguf.placed(
            [
                Tensor(name, found.shape[::-1], TensorType.Q8_0 if found.ndim > 1 else TensorType.F32, 0)
                for name, found in weights.items()
            ],
            gguf.alignment_of(values),
        )
        with path.open("wb") as file:
            file.write(gguf.head(values, tensors))
            for tensor in tensors:
                file.write(_raw(weights[tensor.name]))
                file.write(gguf.padding(tensor.num_bytes, gguf.alignment_of(values)))
        return path

    def _values(self) -> dict[str, Value]:
        config, kind = self.model.config, self.kind
        number, real = ValueType.UINT32, ValueType.FLOAT32
        rope = config.rope_parameters
        found = {
            "general.architecture": Value(ValueType.STRING, kind),
            f"{kind}.block_count": Value(number, config.num_hidden_layers),
            f"{kind}.embedding_length": Value(number, HIDDEN),
            f"{kind}.feed_forward_length": Value(number, FFN),
            f"{kind}.attention.head_count": Value(number, HEADS),
            f"{kind}.attention.head_count_kv": Value(number, HEADS if kind == "gptneox" else KV_HEADS),
            f"{kind}.attention.key_length": Value(number, HEAD_DIM),
        }
        if kind == "gptneox":
            return found | {
                f"{kind}.attention.layer_norm_epsilon": Value(real, config.layer_norm_eps),
                f"{kind}.rope.dimension_count": Value(number, HEAD_DIM // 2),
                f"{kind}.rope.freq_base": Value(real, rope["rope_theta"]),
                f"{kind}.use_parallel_residual": Value(ValueType.BOOL, config.use_parallel_residual),
            }
        found[f"{kind}.attention.layer_norm_rms_epsilon"] = Value(real, config.rms_norm_eps)
        if kind == "gemma3":
            return found | {
                f"{kind}.attention.sliding_window": Value(number, WINDOW),
                f"{kind}.rope.freq_base": Value(real, rope["full_attention"]["rope_theta"]),
            }
        return found | {f"{kind}.rope.freq_base": Value(real, rope["rope_theta"])}

    def weights(self) -> Any:
        """By the file's names of tensors, as numbers."""
        names = {"gemma3": _GEMMA, "gptneox": _NEOX}.get(self.kind, _GATED)
        for name, parameter in self.model.named_parameters():
            found = parameter.detach().numpy()
            stem, _, ending = name.rpartition(".")
            if stem in _ENDS:
                yield f"{_ENDS[stem]}.{ending}", self._as_gguf(stem, found)
                continue
            _, _, rest = stem.partition("layers.")
            layer, _, part = rest.partition(".")
            yield f"blk.{layer}.{names[part]}.{ending}", self._as_gguf(part, found)

    def _as_gguf(self, part: str, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """As llama.cpp's converter has it."""
        if self.kind == "gemma3" and part.endswith("norm"):
            return found + 1
        if self.kind == "llama" and part.endswith(("q_proj", "k_proj")):
            return found.reshape(-1, 2, HEAD_DIM // 2, *found.shape[1:]).swapaxes(1, 2).reshape(found.shape)
        if part.endswith("query_key_value"):
            return found.reshape(HEADS, 3, HEAD_DIM, *found.shape[1:]).swapaxes(0, 1).reshape(found.shape)
        return found


def _raw(numbers: NDArray[np.float32]) -> bytes:
    if numbers.ndim == 1:
        return numbers.astype("<f4").tobytes()
    codes = np.round(numbers.reshape(-1, 32) / (_SCALE * 0.5)).astype(np.int8)
    scales = np.full((len(codes), 1), _SCALE * 0.5, "<f2").view(np.int8)
    return np.concatenate([scales, codes], 1).tobytes()
