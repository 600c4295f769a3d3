"""A Hugging Face checkpoint into one GGUF file: shard by shard, tensor by tensor, some MB of weights at a time.

Source: llama.cpp's convert_hf_to_gguf.py for names, order of rows and keys; llama-quant.cpp for the kinds of Q4_K_M.
Known are Qwen2, Qwen3, Llama and GPT-NeoX (Polyglot-ko) with byte-level BPE. What GPTQ or AutoRound quantized keeps its
numbers.
"""

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dure import engines, gguf, memory_plan, safetensors
from dure.errors import ModelCorrupt, ModelUnsupported
from dure.gguf import BLOCKS, TensorType, Value, ValueType
from dure.memory_plan import Precision, Shape
from dure.safetensors import Safetensors
from dure_workshop.dequantize import Floats, dequantize, quantize
from dure_workshop.gptq_checkpoint import PARTS, QWEIGHT, Matrix, Packing
from dure_workshop.trim.checkpoint_files import CONFIG, GENERATION, Checkpoint
from dure_workshop.trim.gguf_file import Progress, write
from dure_workshop.trim.text import is_known

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
# What older checkpoints keep of masks and angles.
_COMPUTED = ("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
_NEOX = "gptneox"
_LAYER = re.compile(r"(?:model|gpt_neox)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_DTYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
# What the rotation of positions is called where llama.cpp computes it as the checkpoint means it.
_PLAIN_ROPE = {"default", None}
_LLAMA_3_ROPE = "llama3"
# Rows that are quantized at a time: some MB, in two threads.
_PIECE_WEIGHTS = 1 << 20
_NUM_THREADS = 2


@dataclass(frozen=True)
class _Source:
    """Where a tensor's numbers come from. order: its rows in their new order; None: as they are.

    packed    where the checkpoint has it quantized
    """

    shard: Safetensors
    tensor: safetensors.Tensor
    order: list[int] | None = None
    packed: Matrix | None = None


@dataclass(frozen=True)
class Plan:
    """What will be written: keys, tensors and where each comes from. `numbers` are tensors that are computed."""

    values: dict[str, Value]
    tensors: list[gguf.Tensor]
    sources: dict[str, _Source]
    numbers: dict[str, Floats] = field(default_factory=dict)


def convert(
    checkpoint: Checkpoint,
    target: Path,
    precision: Precision = Precision.Q4_K_M,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Write the file in one step. Raises ModelUnsupported, ModelCorrupt, ModelError; then nothing is left."""
    plan = _plan(checkpoint, precision)
    with ThreadPoolExecutor(_NUM_THREADS, "quantizer") as pool:
        write(target, plan.values, plan.tensors, _weights(plan, pool), on_progress)


def shape_of(checkpoint: Checkpoint) -> Shape:
    """Raises ModelUnsupported, ModelCorrupt where config.json lacks something."""
    config = checkpoint.files[CONFIG]
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        shape = Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            ffn=int(config["intermediate_size"]),
            vocab=len(checkpoint.vocabulary.tokens),
            is_tied=_is_tied(checkpoint),
            is_gated=_architecture(checkpoint) != _NEOX,
        )
        if min(shape.layers, hidden, heads, shape.kv_heads, shape.head_dim, shape.ffn) < 1:
            raise ValueError("a shape of nothing")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ModelCorrupt(f"{checkpoint.path / CONFIG} does not say the model's shape: take an intact file") from None
    return shape


def _architecture(checkpoint: Checkpoint) -> str:
    """As GGUF files name it."""
    kind = str(checkpoint.files[CONFIG].get("model_type"))
    return engines.CONVERTIBLE.get(kind, kind)


def _is_tied(checkpoint: Checkpoint) -> bool:
    names = {name for shard in checkpoint.shards for name in shard.tensors}
    has_output = not names.isdisjoint({"lm_head.weight", "embed_out.weight"})
    return not has_output or bool(checkpoint.files[CONFIG].get("tie_word_embeddings"))


def _plan(checkpoint: Checkpoint, precision: Precision) -> Plan:
    kind, shape = _architecture(checkpoint), shape_of(checkpoint)
    if not is_known(checkpoint.pre):
        raise ModelUnsupported(f"{checkpoint.path}: how its tokenizer splits text is not known here: take a GGUF file")
    sources = dict(_sources(checkpoint, kind, shape))
    tensors = [_target(name, source, precision, shape) for name, source in sources.items()]
    numbers = _rope_factors(checkpoint, shape)
    tensors += [gguf.Tensor(name, (len(found),), TensorType.F32, 0) for name, found in numbers.items()]
    values = _values(checkpoint, kind, shape)
    return Plan(values, gguf.placed(tensors, gguf.alignment_of(values)), sources, numbers)


def _sources(checkpoint: Checkpoint, kind: str, shape: Shape) -> Iterator[tuple[str, _Source]]:
    expected = {"token_embd.weight", "output_norm.weight"}
    queries = "attn_qkv" if kind == _NEOX else "attn_q"
    expected |= {f"blk.{n}.{part}.weight" for n in range(shape.layers) for part in (queries, "ffn_down", "attn_norm")}
    packing = Packing.of(checkpoint.files[CONFIG])
    places = {tensor.name: (shard, tensor) for shard in checkpoint.shards for tensor in shard.tensors.values()}
    for told, (shard, tensor) in places.items():
        if packing is not None and told.endswith(PARTS):
            continue
        stem = told.removesuffix(QWEIGHT)
        packed = _packed(stem, packing, places) if packing is not None and told != stem else None
        name = name_of(told if packed is None else f"{stem}.weight", checkpoint.path)
        expected.discard(name)
        if name is None or (name == gguf.OUTPUT and shape.is_tied):
            continue
        yield name, _Source(shard, tensor, order_of(name, kind, shape), packed)
    if expected:
        raise ModelCorrupt(f"{checkpoint.path} lacks {len(expected)} tensors, such as {min(expected)}: fetch it again")


def _packed(stem: str, packing: Packing, places: dict[str, tuple[Safetensors, safetensors.Tensor]]) -> Matrix:
    tensors = {part: places[stem + part] for part in (QWEIGHT, *PARTS) if stem + part in places}
    if missing := {QWEIGHT, ".qzeros", ".scales"} - tensors.keys():
        raise ModelCorrupt(f"{tensors[QWEIGHT][0].path.parent} lacks {stem}{min(missing)}: fetch it again")
    return Matrix(packing, tensors)


def name_of(name: str, path: Path) -> str | None:
    """None for what is computed anew."""
    if name.endswith(_COMPUTED):
        return None
    found = _LAYER.fullmatch(name)
    part, ending = (found[2], found[3]) if found else name.rsplit(".", 1)
    if part not in _NAMES:
        raise ModelUnsupported(f"{path} has a tensor {name}, which is not known here: take the model's GGUF file")
    return f"blk.{found[1]}.{_NAMES[part]}.{ending}" if found else f"{_NAMES[part]}.{ending}"


def order_of(name: str, kind: str, shape: Shape) -> list[int] | None:
    """Llama's rotation takes neighbours in GGUF, and halves in a checkpoint: rows of queries and keys change places.

    GPT-NeoX has queries, keys and values head by head, GGUF one behind the other.
    """
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if part == "attn_qkv":
        places = range(shape.head_dim)
        return [
            (head * 3 + which) * shape.head_dim + n for which in range(3) for head in range(shape.heads) for n in places
        ]
    if kind != "llama" or part not in {"attn_q", "attn_k"}:
        return None
    heads, half = (shape.heads if part == "attn_q" else shape.kv_heads), shape.head_dim // 2
    return [
        head * shape.head_dim + side * half + number
        for head in range(heads)
        for number in range(half)
        for side in range(2)
    ]


def _target(name: str, source: _Source, precision: Precision, shape: Shape) -> gguf.Tensor:
    if source.packed is not None:
        return gguf.Tensor(name, source.packed.shape[::-1], source.packed.packing.kind, 0)
    if source.tensor.dtype not in _DTYPES:
        raise ModelUnsupported(
            f"{source.shard.path}: {source.tensor.name} is of the type {source.tensor.dtype}: take one in BF16"
        )
    return gguf.Tensor(name, source.tensor.shape[::-1], _kind(name, source.tensor.shape, precision, shape), 0)


def _kind(name: str, shape: tuple[int, ...], precision: Precision, model: Shape) -> TensorType:
    if len(shape) == 1:
        return TensorType.F32
    if precision is Precision.F16 or shape[-1] % BLOCKS[TensorType.Q8_0][0]:
        return TensorType.F16
    if precision is Precision.Q8_0:
        return TensorType.Q8_0
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
    return memory_plan.q4_k_m_kind(name, layer, shape[-1], model)


def _values(checkpoint: Checkpoint, kind: str, shape: Shape) -> dict[str, Value]:
    config, vocabulary = checkpoint.files[CONFIG], checkpoint.tokenizer.bpe
    text, number, real = ValueType.STRING, ValueType.UINT32, ValueType.FLOAT32
    found = {
        "general.architecture": Value(text, kind),
        "general.name": Value(text, checkpoint.path.resolve().name),
        "general.quantization_version": Value(number, 2),
        f"{kind}.block_count": Value(number, shape.layers),
        f"{kind}.context_length": Value(number, int(config.get("max_position_embeddings", 2048))),
        f"{kind}.embedding_length": Value(number, shape.hidden),
        f"{kind}.feed_forward_length": Value(number, shape.ffn),
        f"{kind}.attention.head_count": Value(number, shape.heads),
        f"{kind}.attention.head_count_kv": Value(number, shape.kv_heads),
        f"{kind}.attention.key_length": Value(number, shape.head_dim),
        f"{kind}.attention.value_length": Value(number, shape.head_dim),
        f"{kind}.rope.freq_base": Value(real, _rope_theta(config)),
        f"{kind}.vocab_size": Value(number, shape.vocab),
        "tokenizer.ggml.model": Value(text, "gpt2"),
        "tokenizer.ggml.pre": Value(text, checkpoint.pre),
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, vocabulary.tokens, text),
        "tokenizer.ggml.token_type": Value(ValueType.ARRAY, vocabulary.types, ValueType.INT32),
        "tokenizer.ggml.merges": Value(ValueType.ARRAY, vocabulary.merges, text),
        "tokenizer.ggml.add_bos_token": Value(ValueType.BOOL, value=_adds_bos(checkpoint)),
    }
    if kind == _NEOX:
        share = config.get("rotary_pct") or _rope(config).get("partial_rotary_factor") or 0.25
        found |= {
            f"{kind}.attention.layer_norm_epsilon": Value(real, float(config.get("layer_norm_eps", 1e-5))),
            f"{kind}.rope.dimension_count": Value(number, int(shape.head_dim * share)),
            f"{kind}.use_parallel_residual": Value(ValueType.BOOL, value=config.get("use_parallel_residual", True)),
        }
    else:
        found |= {
            f"{kind}.attention.layer_norm_rms_epsilon": Value(real, float(config.get("rms_norm_eps", 1e-6))),
            f"{kind}.rope.dimension_count": Value(number, shape.head_dim),
        }
    found |= {f"tokenizer.ggml.{name}_token_id": Value(number, token) for name, token in _ids(checkpoint).items()}
    if template := checkpoint.chat_template():
        found["tokenizer.chat_template"] = Value(text, template)
    return found


def _ids(checkpoint: Checkpoint) -> dict[str, int]:
    """What ends an answer stands first in generation_config.json, else in config.json."""
    found: dict[str, int] = {}
    for name, key in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")):
        for file in (GENERATION, CONFIG):
            value = checkpoint.files.get(file, {}).get(key)
            value = value[0] if isinstance(value, list) and value else value
            if type(value) is int and value >= 0:
                found.setdefault(name, value)
    return found


def _adds_bos(checkpoint: Checkpoint) -> bool:
    """Qwen's tokenizer puts nothing before a text; Llama's puts its beginning there."""
    config = checkpoint.files.get("tokenizer_config.json", {})
    return bool(config.get("add_bos_token", checkpoint.files[CONFIG].get("model_type") == "llama"))


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_theta(config: dict[str, Any]) -> float:
    named = config.get("rope_theta") or config.get("rotary_emb_base")  # the second: GPT-NeoX
    return float(named or _rope(config).get("rope_theta") or 10_000.0)


def _rope_factors(checkpoint: Checkpoint, shape: Shape) -> dict[str, Floats]:
    """Llama 3.1 stretches slow rotations for long contexts; the runtime takes a factor for each.

    Source: `_compute_llama3_parameters` of Hugging Face transformers.
    """
    config = checkpoint.files[CONFIG]
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type"))
    if kind in _PLAIN_ROPE:
        return {}
    if kind != _LLAMA_3_ROPE:
        raise ModelUnsupported(f"{checkpoint.path} scales its positions by {kind}, not known here: take a GGUF file")
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    places = np.arange(0, shape.head_dim, 2) / shape.head_dim
    turns = old * _rope_theta(config) ** -places / (2 * math.pi)  # within the context that it was trained on
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return {"rope_freqs.weight": (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)}


def _weights(plan: Plan, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    alignment = gguf.alignment_of(plan.values)
    for tensor in plan.tensors:
        if tensor.name in plan.numbers:
            yield quantize(plan.numbers[tensor.name][None, :], TensorType.F32)
        elif (packed := plan.sources[tensor.name].packed) is not None:
            yield packed.blocks(plan.sources[tensor.name].order)
        else:
            yield from _quantized(plan.sources[tensor.name], tensor, pool)
        yield gguf.padding(tensor.num_bytes, alignment)


def _quantized(source: _Source, tensor: gguf.Tensor, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """Pieces in their order; no more of them are read than threads can quantize."""
    row_weights = tensor.shape[0] if len(tensor.shape) > 1 else 1
    num_rows = source.tensor.num_weights // row_weights
    order = source.order or list(range(num_rows))
    step = max(1, _PIECE_WEIGHTS // row_weights)
    pieces = [order[first : first + step] for first in range(0, num_rows, step)]
    for first in range(0, len(pieces), _NUM_THREADS):
        yield from pool.map(lambda piece: _piece(source, tensor, piece), pieces[first : first + _NUM_THREADS])


def _piece(source: _Source, tensor: gguf.Tensor, numbers: list[int]) -> bytes:
    raw = b"".join(safetensors.rows(source.shard, source.tensor, numbers))
    row_weights = tensor.shape[0] if len(tensor.shape) > 1 else len(numbers)
    return quantize(dequantize(raw, _DTYPES[source.tensor.dtype], row_weights), tensor.type)
