"""Weights of a GGUF file into the packed form: tensor by tensor, never as a whole in floats.

`python -m dure_worker.engines.ark.packing SOURCE.gguf TARGET.safetensors '{"bits": 0, …}'`
"""

import io
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from dure import errors, gguf
from dure.errors import DureError, ModelCorrupt
from dure.gguf import Gguf, TensorType
from dure_worker.engines.ark import calibration
from dure_worker.engines.ark.blocks import FLOATS, Codes, codes, floats
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.fit import fitted, fitted_floats
from dure_worker.engines.ark.gptq import Inputs, compensated
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
_OF_A_LAYER = 4  # matrices
_COSTLY = ("qkv", "down")
# Rows of a matrix that are read at a time.
_ROWS = 4096


@dataclass(frozen=True)
class Recipe:
    """Into how many bits, and groups of how many weights, matrices are fitted. 0: as exactly as the file has them.

    group         at most; half of it, and so on, where a row is no multiple. The kernels multiply a chunk of a prompt
                  twice as fast in groups of 64 as in groups of 32, and three times as fast in groups of 128.
    head_bits     of the output
    more_bits     of the matrices whose loss costs most: queries, keys and values; the end of the feed-forward part.
                  llama.cpp's Q4_K_M gives such more, too. 0: as the others
    method        how: by the weights alone, by the importance of their inputs, or with later columns making good what
                  earlier ones lost (GPTQ). The last two need a pass over a Korean text.
    """

    bits: int = 0
    group: int = 32
    head_bits: int = 8
    more_bits: int = 0
    method: Literal["plain", "importance", "gptq"] = "plain"

    def bits_of(self, name: str) -> int:
        """Of the matrix of that name in a packed file."""
        return self.more_bits if self.more_bits and name.endswith(_COSTLY) else self.bits

    def group_of(self, k: int) -> int:
        """For rows of k weights."""
        return math.gcd(self.group, k)


AS_IN_THE_FILE = Recipe()
# By DURE_WORKER_WEIGHTS.
RECIPES = {
    "int5": Recipe(5, 128, method="gptq"),
    "file": AS_IN_THE_FILE,
    "int8": Recipe(8, 128),
    "int4": Recipe(4, 128, more_bits=5, method="gptq"),
    "int2": Recipe(2, 32, method="gptq"),
}


def pack(
    weights: Path,
    target: Path,
    recipe: Recipe = AS_IN_THE_FILE,
    on_progress: Callable[[int], None] = lambda percent: None,
) -> None:
    """on_progress(percent): at each tenth. Raises ModelCorrupt, ModelUnsupported, NotReadable, ModelError."""
    source = gguf.read(weights)
    config = DecoderConfig.of_gguf(source)
    with writing(target) as writer:
        _Packing(source, config, recipe, writer, on_progress).run()


def vectors(source: Gguf, config: DecoderConfig) -> dict[str, torch.Tensor]:
    """What a decoder needs beside its matrices, norms and frequencies, by their names in a packed file.

    Raises ModelCorrupt.
    """
    writer = Writer(io.BytesIO())
    # By this method matrices wait for their inputs, which do not come.
    _Packing(source, config, Recipe(method="gptq"), writer, lambda percent: None).layers()
    return writer.vectors


class _Packing:
    def __init__(
        self, source: Gguf, config: DecoderConfig, recipe: Recipe, writer: Writer, on_progress: Callable[[int], None]
    ) -> None:
        self._source, self._config, self._recipe, self._writer = source, config, recipe, writer
        self._on_progress = on_progress
        self._num_done = 0
        self._waiting: dict[str, tuple[str, tuple[str, ...]]] = {}

    def layers(self) -> None:
        for number in range(self._config.shape.layers):
            self._layer(f"{number}.", f"blk.{number}.")
        self._norm("norm", "output_norm")
        self._frequencies()

    def run(self) -> None:
        self.layers()
        embedding = self._embedding()
        if self._waiting:
            calibration.run(self._source, self._config, self._writer.vectors, embedding, self._made)
        else:
            self._head()

    def _made(self, name: str, x: torch.Tensor) -> Linear:
        """The matrix of that name, now that its inputs x (rows, k) are known."""
        return self._head() if name == "head" else self._fit(name, *self._waiting[name], x)

    def _head(self) -> Linear:
        head = self._codes(gguf.OUTPUT if gguf.OUTPUT in self._source.tensors else gguf.EMBEDDING)
        return self._add("head", Linear.packed(_with_bits(head, self._recipe.head_bits, self._recipe)))

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
        if self._recipe.method == "plain":
            self._fit(target, source, names)
        else:
            self._waiting[target] = source, names

    def _fit(self, target: str, source: str, names: tuple[str, ...], x: torch.Tensor | None = None) -> Linear:
        found = [self._codes(f"{source}{name}.weight") for name in names]
        biases = [self._optional(f"{source}{name}.bias") for name in names]
        bits = self._recipe.bits_of(target) or max(map(_exact_bits, found))
        group = self._recipe.group_of(found[0].codes.shape[1])
        inputs = None if x is None else Inputs(x, group, is_alone=self._recipe.method == "importance")
        found = [_with_bits(each, bits, self._recipe, inputs) for each in found]
        whole = Codes(
            np.concatenate([each.codes for each in found]), np.concatenate([each.scales for each in found]), None, bits
        )
        given = [bias for bias in biases if bias is not None]
        self._tell()
        return self._add(target, Linear.packed(whole.merged(), torch.cat(given) if given else None))

    def _tell(self) -> None:
        self._num_done += 1
        total = self._config.shape.layers * _OF_A_LAYER
        if self._num_done * 10 // total > (self._num_done - 1) * 10 // total:
            self._on_progress(100 * self._num_done // total)

    def _add(self, name: str, found: Linear) -> Linear:
        self._writer.add(name, found.blob)
        if len(found.bias):
            self._writer.add(f"{name}.bias", found.bias)
        self._writer.info[name] = found.info
        return found

    def _embedding(self) -> Codes:
        found = self._codes(gguf.EMBEDDING)
        kept = (
            found
            if found.minima is None
            else fitted(found, _EMBEDDING_BITS, self._recipe.group_of(found.codes.shape[1]))
        )
        num_rows, num_groups = kept.scales.shape
        self._writer.add("embedding.codes", torch.from_numpy(kept.codes.reshape(num_rows, num_groups, -1)))
        self._writer.add("embedding.scales", torch.from_numpy(kept.scales).half()[:, :, None])
        return kept

    def _frequencies(self) -> None:
        """Of the rotation, by rotated pair; Llama 3 divides each by a factor of its own."""
        config = self._config
        plain = _frequencies(config.rope_theta, config.num_rotated) / config.rope_scale
        factors = self._optional("rope_freqs.weight")
        self._writer.add("frequencies", plain if factors is None else plain / factors.double())
        self._writer.add("local_frequencies", _frequencies(config.local_theta, config.num_rotated))

    def _codes(self, name: str) -> Codes:
        """Some rows at a time, so that no more than their codes is ever there."""
        tensor = self._tensor(name)
        starts = range(0, tensor.num_rows, _ROWS)
        return Codes.joined([self._rows(tensor, range(start, min(start + _ROWS, tensor.num_rows))) for start in starts])

    def _rows(self, tensor: gguf.Tensor, wanted: range) -> Codes:
        raw = b"".join(gguf.rows(self._source, tensor, list(wanted)))
        if tensor.type not in FLOATS:
            found = codes(raw, tensor.type, tensor.shape[0])
        else:
            found = fitted_floats(floats(raw, tensor.type, tensor.shape[0]), 8, self._recipe.group_of(tensor.shape[0]))
        if not found.is_finite:
            raise self._no_numbers(tensor.name)
        return found

    def _no_numbers(self, name: str) -> ModelCorrupt:
        return ModelCorrupt(
            f"{self._source.path.name}: {name} holds what is no number (NaN or infinite): take an intact file"
        )

    def _vector(self, name: str) -> torch.Tensor:
        tensor = self._tensor(name)
        if tensor.type is not TensorType.F32:
            raise ModelCorrupt(f"{self._source.path.name}: {name} is {tensor.type.name}, not F32: take an intact file")
        found = torch.from_numpy(np.frombuffer(b"".join(gguf.rows(self._source, tensor)), "<f4").copy())
        if not found.isfinite().all():
            raise self._no_numbers(name)
        return found

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
    return found.fewest_bits if found.minima is None else found.bits + 1


def _with_bits(found: Codes, bits: int, recipe: Recipe, inputs: Inputs | None = None) -> Codes:
    group = recipe.group_of(found.codes.shape[1])
    whole = found.merged()
    if whole.minima is None and whole.fewest_bits <= bits and whole.group % group == 0:
        return replace(whole.split(group), bits=bits)
    if inputs is None or not inputs.blocks:
        return fitted(found, bits, group, None if inputs is None else inputs.mean_square)
    return compensated(found, bits, group, inputs)


def _tell(percent: int) -> None:
    sys.stdout.write(f"{percent} %\n")
    sys.stdout.flush()


def main() -> None:
    source, target, recipe = sys.argv[1:]
    try:
        pack(Path(source), Path(target), Recipe(**json.loads(recipe)), _tell)
    except DureError as error:
        kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
        sys.exit(f"{kind.__name__}: {error}")


if __name__ == "__main__":
    main()
