"""What a model's parameters are parts of: vocabulary, layers, their feed-forward channels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dure import gguf, memory_plan
from dure.errors import ModelUnsupported
from dure.gguf import Gguf, Tensor
from dure.memory_plan import Shape
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.packing import OPTIONAL_NORMS
from dure_workshop.dequantize import Floats, read

# The width of a feed-forward part is a multiple of it: blocks of the K quants, and more than every vector's width.
CHANNELS_OF = 256
_SAMPLED_ROWS = 48
# Two roundings of one matrix agree far better, two matrices far worse.
_SAME = 0.9

_ROWS = ("ffn_gate.weight", "ffn_up.weight")
_BIASES = ("ffn_gate.bias", "ffn_up.bias")
DOWN = "ffn_down.weight"
CHANNEL_TENSORS = (*_ROWS, *_BIASES, DOWN)
OUTPUT = "attn_output.weight"
HEAD_TENSORS = ("attn_q.weight", "attn_q.bias", OUTPUT)
_OTHERS = {
    *(f"{part}.{ending}" for part in ("attn_k", "attn_v", "attn_qkv", "attn_norm", "ffn_norm")
      for ending in ("weight", "bias")),
    *(f"{name}.weight" for name in OPTIONAL_NORMS.values()),
    "attn_output.bias",
    "ffn_down.bias",
}  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """Parameters of each part, each counted once however often it is stored.

    vocabulary    embedding, and output where it is a matrix of its own
    outside       the last norm
    of_layer      without its feed-forward channels and its query heads
    of_channel    of one channel in one layer
    of_head       of one query head in one layer; 0 where queries, keys and values are one matrix
    is_repeated   the file holds the embedding a second time as the output
    """

    shape: Shape
    vocabulary: int
    outside: int
    of_layer: int
    of_channel: int
    of_head: int
    is_repeated: bool

    @classmethod
    def of(cls, source: Gguf) -> "Structure":
        """Raises ModelUnsupported for what ark does not compute, or whose layers differ."""
        DecoderConfig.of_gguf(source)
        shape = memory_plan.of_gguf(source)[1]
        counted: dict[int, list[int]] = {}
        outside = 0
        for tensor in source.tensors.values():
            layer, part = place(tensor.name)
            if layer is None:
                outside += 0 if tensor.name in gguf.VOCABULARY else tensor.num_weights
                continue
            if part not in {*_OTHERS, *CHANNEL_TENSORS, *HEAD_TENSORS}:
                raise ModelUnsupported(
                    f"{source.path.name} has {tensor.name}, which is not known here: take a {source.architecture} "
                    "model without it"
                )
            counts = counted.setdefault(layer, [0, 0, 0])
            counts[_kind_of(part, source)] += tensor.num_weights
        if sorted(counted) != list(range(shape.layers)) or len({tuple(each) for each in counted.values()}) != 1:
            raise ModelUnsupported(f"the layers of {source.path.name} differ in size: take a model whose layers do not")
        of_layer, of_channels, of_heads = counted[0]
        is_repeated = is_output_repeated(source)
        vocabulary = source.tensors[gguf.EMBEDDING].num_weights
        if gguf.OUTPUT in source.tensors and not is_repeated:
            vocabulary += source.tensors[gguf.OUTPUT].num_weights
        return cls(shape, vocabulary, outside, of_layer, of_channels // shape.ffn, of_heads // shape.heads, is_repeated)

    @property
    def num_parameters(self) -> int:
        return self.after(self.shape.layers, self.shape.ffn, self.shape.heads)

    def after(self, num_layers: int, num_channels: int, num_heads: int) -> int:
        """Parameters with so many layers, each of so many channels and query heads."""
        layer = self.of_layer + num_channels * self.of_channel + num_heads * self.of_head
        return self.vocabulary + self.outside + num_layers * layer


def _kind_of(part: str, source: Gguf) -> int:
    """0: of the layer, 1: of its channels, 2: of its query heads."""
    if part in CHANNEL_TENSORS:
        return 1
    return 2 if part in HEAD_TENSORS and "blk.0.attn_q.weight" in source.tensors else 0


def place(name: str) -> tuple[int | None, str]:
    """Layer and part of a tensor; no layer: the whole name."""
    if not name.startswith("blk."):
        return None, name
    _, layer, part = name.split(".", 2)
    return int(layer), part


def numbers(source: Gguf, tensor: Tensor, wanted: list[int]) -> Floats:
    """The wanted rows, of kinds too that only the runtime reads."""
    return read(b"".join(gguf.rows(source, tensor, wanted)), tensor.type, tensor.shape[0])


def pieces(tensor: Tensor, num_weights: int = 1 << 22) -> Iterator[list[int]]:
    """All rows of a tensor, some MB of numbers at a time."""
    step = max(1, num_weights // tensor.shape[0])
    for at in range(0, tensor.num_rows, step):
        yield list(range(at, min(at + step, tensor.num_rows)))


def is_output_repeated(source: Gguf) -> bool:
    """Whether the output is the embedding once more, perhaps rounded in another way, by a sample of its rows."""
    output, embedding = (source.tensors.get(name) for name in (gguf.OUTPUT, gguf.EMBEDDING))
    if output is None or embedding is None:
        return False
    wanted = sorted({int(row) for row in np.linspace(0, output.num_rows - 1, _SAMPLED_ROWS)})
    left, right = (numbers(source, tensor, wanted).astype(np.float64) for tensor in (output, embedding))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return bool(np.median((left * right).sum(1) / np.maximum(lengths, 1e-30)) > _SAME)
