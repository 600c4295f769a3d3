"""How much memory a worker will hold at its peak: weights, KV cache, compute buffers, prompt cache, runtime, Python.

The engine is llama.cpp as dure_worker/engines/llama.py configures it: weights copied into private memory, KV in f16
for all slots from the start, batches of 64. What can be counted is counted; what cannot is measured (the constants
below say where), and tests/integration/test_memory_plan_measured.py compares the sum with a real worker.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from dure import gguf
from dure.errors import ModelCorrupt
from dure.gguf import BLOCKS, EMBEDDING, OUTPUT, Gguf, Tensor, TensorType

MIB = 1 << 20

# A plan is right within 8 % (tests/integration/test_memory_plan_measured.py); a worker that met it exactly must not
# already be taken for one that grows.
MARGIN = 0.1

_F16 = 2
_F32 = 4
# As engines/llama.py sets them.
_BATCH = 64
_CACHE_MIB = 64
# llama.cpp rounds a sequence's KV cells up to this.
_KV_STEP = 256

# Measured on Linux x86-64, Python 3.11, xllamacpp 2026.10.11549, with vocabularies of 32,000 and of 151,936 tokens:
# interpreter, Celery, redis client and the engine's library before a model is loaded;
_PYTHON_BYTES = 68 * MIB
# what the engine holds beside weights, KV and batch buffers: its server, threads and chat template;
_ENGINE_BYTES = 20 * MIB
# a token's text and the index over it (SentencePiece), and with merges, as most vocabularies have them, the index over
# those too (Gemma and Qwen2.5, each with its whole vocabulary and with 32,000 tokens).
_BYTES_PER_TOKEN = 215
_BYTES_PER_TOKEN_WITH_MERGES = 405
# For each slot: a row of logits (4), and the sampler's list of candidates (12, and 4 while it is sorted).
_SAMPLER_BYTES_PER_TOKEN = 20

# The ark engine: torch and the kernels' library; a token in the tokenizers library; rows of a prompt computed at once.
_TORCH_BYTES = 210 * MIB
_TOKENIZERS_BYTES_PER_TOKEN = 600
_ARK_ROWS = 256

# The transformers engine: torch, transformers and bitsandbytes before a model is loaded (measured); bytes of a weight
# by DURE_WORKER_WEIGHTS. int8 and nf4 are made from bf16 when all of that is there: its peak is theirs.
_TRANSFORMERS_BYTES = 370 * MIB
_BYTES_PER_WEIGHT = {"bf16": 2, "float32": 4, "int8": 2, "nf4": 2}

# Kiwi with its language model, resident (measured). A worker loads it where its passes parse.
KIWI_BYTES = 335 * MIB


class Precision(StrEnum):
    """Into which kinds of weights a checkpoint is converted."""

    Q4_K_M = "q4_k_m"
    Q8_0 = "q8_0"
    F16 = "f16"


@dataclass(frozen=True)
class Shape:
    """Of a decoder. head_dim is not always hidden / heads.

    window, global_every    attention over the last `window` tokens, but in every n-th layer over all; 0: all over all
    num_conv                of `layers`, short convolutions instead of attention (LFM2)
    is_gated                three matrices in the feed-forward part, else two (GPT-NeoX)
    has_merges              a BPE vocabulary, not SentencePiece's with scores (Gemma)
    is_tied                 the output uses the embedding's weights
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    is_tied: bool = True
    window: int = 0
    global_every: int = 0
    num_conv: int = 0
    is_gated: bool = True
    has_merges: bool = True

    @property
    def num_attention(self) -> int:
        return self.layers - self.num_conv

    @property
    def num_windowed(self) -> int:
        """Attention layers that look no further back than the window."""
        if not self.window:
            return 0
        return self.num_attention - (self.num_attention // self.global_every if self.global_every else 0)

    @property
    def num_parameters(self) -> int:
        return sum(row * num_rows for row, num_rows, _ in _matrices(self))

    def kv_bytes_per_token(self, load: "Load") -> int:
        """In a layer of attention: a key and a value for each KV head."""
        return 2 * self.kv_heads * (self.head_dim * load.kv_bits // 8 + _scale_bytes(self.head_dim, load))


@dataclass(frozen=True)
class Load:
    """What a worker is to do at once. weights: as `engines.weights_of` says. has_editor: passes that need Kiwi run."""

    slots: int = 4
    context: int = 2048
    prompt_cache_bytes: int = _CACHE_MIB * MIB
    has_editor: bool = True
    engine: str = "llama"
    kv_bits: int = 16
    weights: str = ""


@dataclass(frozen=True)
class Plan:
    """Bytes. The parts make up `rss`, the worker's resident memory at its peak; the reserve is what others need."""

    weights: int
    kv_cache: int
    compute: int
    prompt_cache: int
    engine: int
    python: int
    korean_editor: int
    reserve: int = 0

    @property
    def rss(self) -> int:
        return int(sum(asdict(self).values())) - self.reserve

    @property
    def margin(self) -> int:
        """Kept free for what a plan cannot know."""
        return int(self.rss * MARGIN)

    @property
    def needed(self) -> int:
        return self.rss + self.margin + self.reserve


def plan(weights: int, shape: Shape, load: Load = Load(), reserve: int = 0) -> Plan:
    """weights: bytes, as the engine holds them."""
    if load.engine == "ark":
        return _ark_plan(weights, shape, load, reserve)
    if load.engine == "transformers":
        return _transformers_plan(weights, shape, load, reserve)
    return Plan(
        weights=weights,
        kv_cache=kv_cache_bytes(shape, load),
        compute=_compute_bytes(shape, load),
        prompt_cache=load.prompt_cache_bytes,  # a prompt that is larger than the limit is not kept at all
        engine=_ENGINE_BYTES + _tokenizer_bytes(shape),
        python=_PYTHON_BYTES,
        korean_editor=KIWI_BYTES if load.has_editor else 0,
        reserve=reserve,
    )


def _scale_bytes(head_dim: int, load: Load) -> int:
    """Beside numbers of 8 bits: llama.cpp has a scale of 16 bits for each 32 (Q8_0), ark one of 32 bits for a head."""
    if load.kv_bits != 8:  # noqa: PLR2004
        return 0
    return _F32 if load.engine == "ark" else head_dim // 32 * _F16


def _ark_plan(weights: int, shape: Shape, load: Load, reserve: int) -> Plan:
    """Other slots' keys and values are its prompt cache."""
    return Plan(
        weights=weights,
        kv_cache=load.slots * load.context * shape.num_attention * shape.kv_bytes_per_token(load),
        compute=_ark_compute_bytes(shape, load),
        prompt_cache=0,
        engine=_TORCH_BYTES + shape.vocab * _TOKENIZERS_BYTES_PER_TOKEN,
        python=_PYTHON_BYTES,
        korean_editor=KIWI_BYTES if load.has_editor else 0,
        reserve=reserve,
    )


def _ark_compute_bytes(shape: Shape, load: Load) -> int:
    """A chunk's rows and what the allocator keeps of earlier ones, the kernels' room for the widest matrix, and each
    slot's logits. Fitted: with four full slots of 2,048 tokens 65 to 91 MiB of the 0.5B, 173 to 217 of the 1.5B.
    """
    rows = 2 * _ARK_ROWS * (6 * shape.hidden + 3 * shape.ffn)
    widest = shape.hidden * shape.ffn * (2 if shape.is_gated else 1)
    return (rows + widest + load.slots * shape.vocab * 3) * _F32


def _transformers_plan(weights: int, shape: Shape, load: Load, reserve: int) -> Plan:
    """As the ark engine's, with larger libraries; keys and values have the precision that is computed in."""
    ark = _ark_plan(weights, shape, load, reserve)
    precision = _F32 if load.weights == "float32" else _F16
    return replace(
        ark,
        kv_cache=ark.kv_cache * precision // _F16,
        engine=_TRANSFORMERS_BYTES + shape.vocab * _TOKENIZERS_BYTES_PER_TOKEN,
    )


def _tokenizer_bytes(shape: Shape) -> int:
    return shape.vocab * (_BYTES_PER_TOKEN_WITH_MERGES if shape.has_merges else _BYTES_PER_TOKEN)


def kv_cache_bytes(shape: Shape, load: Load) -> int:
    """Cells for every slot's whole context; in a windowed layer for the window and one batch, if that is less.

    Of windowed layers the engine keeps a copy for each slot, to go on from when a conversation's next turn comes.
    """
    cells = _rounded(load.context, _KV_STEP)
    windowed = min(cells, _rounded(shape.window + _BATCH, _KV_STEP)) + min(load.context, shape.window)
    tokens = (shape.num_attention - shape.num_windowed) * cells + shape.num_windowed * windowed
    # A short convolution keeps the last two inputs of each slot.
    conv = shape.num_conv * 2 * shape.hidden * _F32
    return load.slots * (tokens * shape.kv_bytes_per_token(load) + conv)


def _compute_bytes(shape: Shape, load: Load) -> int:
    """A batch's hidden states, queries and feed-forward inputs, and what each slot samples from."""
    row = 4 * shape.hidden + 2 * shape.heads * shape.head_dim + 2 * shape.ffn
    return _BATCH * row * _F32 + load.slots * shape.vocab * _SAMPLER_BYTES_PER_TOKEN


def of_gguf(source: Gguf, engine: str = "llama", weights: str = "") -> tuple[int, Shape]:
    """Bytes of the weights as that engine holds them, and the shape. weights: as in Load.

    Raises ModelCorrupt where the header lacks it or contradicts itself.
    """
    vocab = gguf.num_tokens(source)
    try:
        shape = _shape_of(source, vocab)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ModelCorrupt(
            f"{source.path.name} does not say its shape (architecture {source.architecture or 'missing'}): "
            "take a GGUF file of a language model"
        ) from None
    if engine == "ark":
        return _packed_bytes(source, weights), shape
    in_file = sum(tensor.num_bytes for tensor in source.tensors.values())
    if engine == "transformers":
        # The file is mapped until the last of it is unpacked, one tensor after the other, in float32.
        sizes = [tensor.num_weights for tensor in source.tensors.values()]
        return sum(sizes) * _BYTES_PER_WEIGHT[weights or "bf16"] + max(sizes) * _F32 + in_file, shape
    return in_file, shape


# Bits of a packed weight: minima are fitted away with one bit more.
_PACKED_BITS = {TensorType.Q4_0: 4, TensorType.Q5_0: 5, TensorType.Q4_K: 5, TensorType.Q6_K: 6}
# Kinds whose own scales, which 16 bits of the kernels do not hold, are kept.
_EXACT = {TensorType.Q4_0, TensorType.Q5_0, TensorType.Q8_0}
_FUSED = {"attn_q": "qkv", "attn_k": "qkv", "attn_v": "qkv", "ffn_gate": "gate_up", "ffn_up": "gate_up"}


# What DURE_WORKER_WEIGHTS makes of them and of the costly ones, and in groups of how many weights:
# dure_worker/engines/ark/packing.py, RECIPES.
_FITTED_BITS = {"int8": (8, 8), "int5": (5, 5), "int4": (4, 5), "int2": (2, 2)}
_FITTED_GROUPS = {"int8": 128, "int5": 128, "int4": 128}
_FILE_GROUP = 32
_COSTLY = ("qkv", "ffn_down")


def _packed_bytes(source: Gguf, weights: str) -> int:
    """Of the weights as the ark engine packs them: what is fused has the bits of the widest."""
    fused: dict[str, list[Tensor]] = {}
    for tensor in source.tensors.values():
        if len(tensor.shape) > 1:
            block, _, name = tensor.name.removesuffix(".weight").rpartition(".")
            fused.setdefault(f"{block}.{_FUSED.get(name, name)}", []).append(tensor)
    if OUTPUT not in source.tensors:
        fused["head"] = [source.tensors[EMBEDDING]]
    return sum(_fused_bytes(name, together, weights) for name, together in fused.items())


def _fused_bytes(name: str, together: list[Tensor], weights: str) -> int:
    is_vocabulary = together[0].name in (EMBEDDING, OUTPUT)
    if is_vocabulary:
        bits = 8
    elif weights in _FITTED_BITS:
        bits = _FITTED_BITS[weights][name.endswith(_COSTLY)]
    else:
        bits = max(_PACKED_BITS.get(tensor.type, 8) for tensor in together)
    num_weights = sum(tensor.num_weights for tensor in together)
    is_exact = is_vocabulary or weights not in _FITTED_BITS
    scale = _F32 if is_exact and any(tensor.type in _EXACT for tensor in together) else _F16
    # Scales too large for 16 bits are kept only in the file's own groups.
    group = math.gcd(_FITTED_GROUPS.get(weights, _FILE_GROUP), together[0].shape[0])
    return num_weights * bits // 8 + num_weights // group * scale


# Architectures whose windowed layers llama.cpp bounds, and each how many-th layer looks at everything.
_GLOBAL_EVERY = {"gemma2": 2, "gemma3": 6, "exaone4": 4}


def _shape_of(source: Gguf, vocab: int) -> Shape:
    layers, hidden = int(source.hyper("block_count")), int(source.hyper("embedding_length"))
    heads = int(_largest(source.hyper("attention.head_count")))
    kv_heads = source.hyper("attention.head_count_kv", heads)
    window = int(_largest(source.hyper("attention.sliding_window", 0)))
    global_every = _GLOBAL_EVERY.get(source.architecture, 0)
    shape = Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=int(_largest(kv_heads)),
        head_dim=int(source.hyper("attention.key_length", hidden // heads)),
        ffn=int(_largest(source.hyper("feed_forward_length"))),
        vocab=vocab,
        is_tied="output.weight" not in source.tensors,
        window=window if global_every else 0,
        global_every=global_every,
        # LFM2 gives a number for each layer: no KV heads, no attention.
        num_conv=sum(not number for number in kv_heads) if isinstance(kv_heads, list) else 0,
        is_gated=any(".ffn_gate." in name for name in source.tensors),
        has_merges=source.get("tokenizer.ggml.model", "gpt2") != "llama",
    )
    if min(layers, hidden, heads, shape.kv_heads, shape.head_dim, shape.ffn, vocab) < 1:
        raise ValueError("a shape of nothing")
    return shape


def _largest(value: Any) -> Any:
    return max(value) if isinstance(value, list) else value


def q4_k_m_bytes(shape: Shape) -> int:
    """Bytes of the weights as llama.cpp quantizes them to Q4_K_M.

    Source: llama-quant.cpp. Output (or the tied embedding) Q6_K; half of the value and down projections Q6_K; a fused
    QKV Q5_K; the rest Q4_K. Rows that are no multiple of 256 fall back to Q8_0, Q5_1 and Q5_0.
    """
    matrices = sum(_row_bytes(row, kind) * num_rows for row, num_rows, kind in _matrices(shape))
    norms = (4 * shape.layers + 1) * shape.hidden * _F32
    return matrices + norms


_FALLBACK = {TensorType.Q4_K: TensorType.Q5_0, TensorType.Q5_K: TensorType.Q5_1, TensorType.Q6_K: TensorType.Q8_0}


def q4_k_m_kind(name: str, layer: int, row: int, shape: Shape) -> TensorType:
    """The kind of a matrix by its name in a GGUF file, the number of its layer and the length of its rows."""
    has_more = (
        name == OUTPUT
        or (name == EMBEDDING and shape.is_tied)
        or (name.endswith(("attn_v.weight", "ffn_down.weight")) and _has_more_bits(layer, shape.layers))
    )
    return _fitting(row, TensorType.Q6_K if has_more else TensorType.Q4_K)


def _fitting(row: int, kind: TensorType) -> TensorType:
    return kind if row % BLOCKS[kind][0] == 0 else _FALLBACK[kind]


def _row_bytes(row: int, kind: TensorType) -> int:
    kind = _fitting(row, kind)
    weights, size = BLOCKS[kind]
    return math.ceil(row / weights) * size


def _matrices(shape: Shape) -> Iterator[tuple[int, int, TensorType]]:
    """(length of a row, rows, kind) of every matrix."""
    q4, q6 = TensorType.Q4_K, TensorType.Q6_K
    hidden, wide, narrow = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield hidden, shape.vocab, q6 if shape.is_tied else q4
    if not shape.is_tied:
        yield hidden, shape.vocab, q6
    for number in range(shape.num_conv):
        del number
        yield hidden, 3 * hidden, q4
        yield hidden, hidden, q4
    for number in range(shape.num_attention):
        if shape.is_gated:
            yield hidden, wide + narrow, q4
            yield hidden, narrow, q6 if _has_more_bits(number, shape.num_attention) else q4
        else:
            yield hidden, wide + 2 * narrow, TensorType.Q5_K
        yield wide, hidden, q4
    for number in range(shape.layers):
        yield hidden, shape.ffn * (2 if shape.is_gated else 1), q4
        yield shape.ffn, hidden, q6 if _has_more_bits(number, shape.layers) else q4


def _has_more_bits(number: int, count: int) -> bool:
    eighth = count // 8
    return number < eighth or number >= 7 * count // 8 or (number - eighth) % 3 == 2  # noqa: PLR2004 - as llama.cpp has it


def _rounded(number: int, step: int) -> int:
    return (number + step - 1) // step * step
