"""What a decoder computes, as its GGUF file says it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional

from dure import engines, memory_plan
from dure.errors import ModelUnsupported
from dure.gguf import Gguf
from dure.memory_plan import Shape


@dataclass(frozen=True)
class Family:
    """In what decoders of one name differ that their tensors do not show.

    activation           of the feed-forward part
    is_neighbours        rotated pairs are neighbours, not half of the rotated width apart
    scales_embedding     by the square root of the hidden size
    local_theta          base of the rotation in layers with a window, where the file names none
    """

    activation: Callable[[torch.Tensor], torch.Tensor] = functional.silu
    is_neighbours: bool = False
    scales_embedding: bool = False
    local_theta: float = 10_000.0


# Sources: modeling_*.py of Hugging Face transformers, and llama.cpp's converter for what it has already computed: the
# order of Llama's rotated rows, Gemma's norms with their one added, GPT-NeoX's rows of queries, keys and values.
_FAMILIES = {
    "llama": Family(is_neighbours=True),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma3": Family(partial(functional.gelu, approximate="tanh"), scales_embedding=True),
    "gptneox": Family(functional.gelu),
}


@dataclass(frozen=True)
class DecoderConfig:
    """eps of the norms; num_rotated of a head's width; rope_theta: base of the rotation's wavelengths; rope_scale: by
    which positions are divided; local_theta: the base in layers with a window.

    is_parallel    attention and feed-forward part both read the layer's input
    """

    shape: Shape
    family: Family
    eps: float
    num_rotated: int
    rope_theta: float
    rope_scale: float
    local_theta: float
    is_parallel: bool

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.shape.heads // self.shape.kv_heads

    @property
    def embedding_scale(self) -> float:
        return float(self.shape.hidden**0.5) if self.family.scales_embedding else 1.0

    def window(self, layer: int) -> int:
        """How many tokens back this layer looks, the token itself included; 0: to the beginning."""
        every = self.shape.global_every
        return 0 if not every or (layer + 1) % every == 0 else self.shape.window

    @classmethod
    def of_gguf(cls, source: Gguf) -> "DecoderConfig":
        """Raises ModelUnsupported, ModelCorrupt."""
        if source.architecture not in engines.ARK:
            raise ModelUnsupported(
                f"the ark engine runs {', '.join(sorted(engines.ARK))}, and {source.path.name} is "
                f"{source.architecture or 'none'}: serve it with DURE_WORKER_ENGINE=llama"
            )
        shape, family = memory_plan.of_gguf(source)[1], _FAMILIES[source.architecture]
        eps = source.hyper("attention.layer_norm_rms_epsilon", source.hyper("attention.layer_norm_epsilon", 1e-6))
        return cls(
            shape,
            family,
            float(eps),
            int(source.hyper("rope.dimension_count", shape.head_dim)),
            float(source.hyper("rope.freq_base", 10_000.0)),
            float(source.hyper("rope.scaling.factor", 1.0)),
            float(source.hyper("rope.freq_base_swa", family.local_theta)),
            bool(source.hyper("use_parallel_residual", 0)),
        )
