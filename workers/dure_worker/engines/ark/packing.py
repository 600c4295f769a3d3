"""Weights of a GGUF file into the packed form: tensor by tensor, never as a whole in floats.

`python -m dure_worker.engines.ark.packing SOURCE.gguf TARGET.safetensors '{"bits": 0, …}'`
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dure import gguf
from dure.errors import DureError, ModelCorrupt
from dure.gguf import Gguf, TensorType
from dure_worker.engines.ark.blocks import FLOATS, Codes, codes, floats
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.fit import fitted
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.packed_file import Writer, writing

_EMBEDDING_BITS = 8
# Of a layer, by the names that the packed file and the GGUF file have for them, in the order of Layer's fields.
OPTIONAL_NORMS = {
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "attention_post_norm": "post_attention_norm",
    "ffn_post_norm": "post_ffw_norm",
}


@dataclass(frozen=True)
class Recipe:
    """Into how many bits, and groups of how many weights, matrices are fitted. 0: as exactly as the file has them.

    head_bits     of the output
    """

    bits: int = 0
    group: int = 32
    head_bits: int = 8


AS_IN_THE_FILE = Recipe()


def pack(weights: Path, target: Path, recipe: Recipe = AS_IN_THE_FILE) -> None:
    """Raises ModelCorrupt, ModelUnsupported, NotReadable, ModelError."""
    source = gguf.read(weights)
    config = DecoderConfig.of_gguf(source)
    with writing(target) as writer:
        _Packing(source, config, recipe, writer).run()


class _Packing:
    def __init__(self, source: Gguf, config: DecoderConfig, recipe: Recipe, writer: Writer) -> None:
        self._source, self._config, self._recipe, self._writer = source, config, recipe, writer

    def run(self) -> None:
        for number in range(self._config.shape.layers):
            self._layer(f"{number}.", f"blk.{number}.")
        self._norm("norm", "output_norm")
        self._frequencies()
        embedding = self._codes(gguf.EMBEDDING)
        self._embedding(embedding)
        head = self._codes(gguf.OUTPUT) if gguf.OUTPUT in self._source.tensors else embedding
        self._add("head", Linear.packed(_with_bits(head, self._recipe.head_bits, self._recipe.group)))

    def _layer(self, target: str, source: str) -> None:
        self._norm(f"{target}attention_norm", f"{source}attn_norm")
        self._norm(f"{target}ffn_norm", f"{source}ffn_norm")
        for name, told in OPTIONAL_NORMS.items():
            if f"{source}{told}.weight" in self._source.tensors:
                self._norm(f"{target}{name}", f"{source}{told}")
        is_fused = f"{source}attn_qkv.weight" in self._source.tensors
        self._fused(f"{target}qkv", source, *(["attn_qkv"] if is_fused else ["attn_q", "attn_k", "attn_v"]))
        self._fused(f"{target}output", source, "attn_output")
        self._fused(f"{target}gate_up", source, *(["ffn_gate"] if self._config.shape.is_gated else []), "ffn_up")
        self._fused(f"{target}down", source, "ffn_down")

    def _norm(self, target: str, source: str) -> None:
        self._writer.add(target, self._vector(f"{source}.weight"))
        if (bias := self._optional(f"{source}.bias")) is not None:
            self._writer.add(f"{target}.bias", bias)

    def _fused(self, target: str, source: str, *names: str) -> None:
        """Matrices over the same input as one: their rows follow each other."""
        found = [self._codes(f"{source}{name}.weight") for name in names]
        biases = [self._optional(f"{source}{name}.bias") for name in names]
        bits = self._recipe.bits or max(map(_exact_bits, found))
        found = [_with_bits(each, bits, self._recipe.group) for each in found]
        whole = Codes(
            np.concatenate([each.codes for each in found]), np.concatenate([each.scales for each in found]), None, bits
        )
        given = [bias for bias in biases if bias is not None]
        self._add(target, Linear.packed(whole, torch.cat(given) if given else None))

    def _add(self, name: str, found: Linear) -> None:
        self._writer.add(name, found.blob)
        if len(found.bias):
            self._writer.add(f"{name}.bias", found.bias)
        self._writer.info[name] = [found.n, found.k, found.bits, found.group]

    def _embedding(self, found: Codes) -> None:
        kept = found if found.minima is None else fitted(found.numbers(), _EMBEDDING_BITS, self._recipe.group)
        num_rows, num_groups = kept.scales.shape
        self._writer.add("embedding.codes", torch.from_numpy(kept.codes.reshape(num_rows, num_groups, -1)))
        self._writer.add("embedding.scales", torch.from_numpy(kept.scales).bfloat16()[:, :, None])

    def _frequencies(self) -> None:
        """Of the rotation, by rotated pair; Llama 3 divides each by a factor of its own."""
        config = self._config
        plain = _frequencies(config.rope_theta, config.num_rotated) / config.rope_scale
        factors = self._optional("rope_freqs.weight")
        self._writer.add("frequencies", plain if factors is None else plain / factors.double())
        self._writer.add("local_frequencies", _frequencies(config.local_theta, config.num_rotated))

    def _codes(self, name: str) -> Codes:
        tensor = self._tensor(name)
        raw = b"".join(gguf.rows(self._source, tensor))
        if tensor.type in FLOATS:
            return fitted(floats(raw, tensor.type, tensor.shape[0]), 8, self._recipe.group)
        return codes(raw, tensor.type, tensor.shape[0])

    def _vector(self, name: str) -> torch.Tensor:
        tensor = self._tensor(name)
        if tensor.type is not TensorType.F32:
            raise ModelCorrupt(f"{self._source.path.name}: {name} is {tensor.type.name}, not F32: take an intact file")
        return torch.from_numpy(np.frombuffer(b"".join(gguf.rows(self._source, tensor)), "<f4").copy())

    def _optional(self, name: str) -> torch.Tensor | None:
        return self._vector(name) if name in self._source.tensors else None

    def _tensor(self, name: str) -> gguf.Tensor:
        if name not in self._source.tensors:
            raise ModelCorrupt(f"{self._source.path.name} lacks {name}: take an intact file")
        return self._source.tensors[name]


def _frequencies(theta: float, width: int) -> torch.Tensor:
    powers: torch.Tensor = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return powers


def _exact_bits(found: Codes) -> int:
    """Minima cannot be packed; five bits without them come near four bits with."""
    return found.bits if found.minima is None else found.bits + 1


def _with_bits(found: Codes, bits: int, group: int) -> Codes:
    is_exact = found.minima is None and found.group == group and found.bits <= bits
    if is_exact:
        return replace(found, bits=bits)
    return fitted(found.numbers(), bits, group)


def main() -> None:
    source, target, recipe = sys.argv[1:]
    try:
        pack(Path(source), Path(target), Recipe(**json.loads(recipe)))
    except DureError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
