"""What a decoder computes, as its GGUF file says it."""

from dataclasses import dataclass

from dure import engines, memory_plan
from dure.errors import ModelUnsupported
from dure.gguf import Gguf
from dure.memory_plan import Shape

# Rotation of pairs that lie half a head apart; Llama's GGUF files have neighbours as pairs.
_NEIGHBOURS = {"llama"}


@dataclass(frozen=True)
class DecoderConfig:
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    eps                 of the norms
    rope_theta          base of the rotation's wavelengths
    is_neighbours       rotated pairs are neighbours, not half a head apart
    """

    shape: Shape
    eps: float
    rope_theta: float
    is_neighbours: bool

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.shape.heads // self.shape.kv_heads

    @classmethod
    def of_gguf(cls, source: Gguf) -> "DecoderConfig":
        """Raises ModelUnsupported, ModelCorrupt."""
        if source.architecture not in engines.ARK:
            raise ModelUnsupported(
                f"the ark engine runs {', '.join(sorted(engines.ARK))}, and {source.path.name} is "
                f"{source.architecture or 'none'}: serve it with DURE_WORKER_ENGINE=llama"
            )
        return cls(
            memory_plan.of_gguf(source)[1],
            float(source.hyper("attention.layer_norm_rms_epsilon", 1e-6)),
            float(source.hyper("rope.freq_base", 10_000.0)),
            source.architecture in _NEIGHBOURS,
        )
