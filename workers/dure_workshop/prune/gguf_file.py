"""A GGUF file without the layers, channels and heads that a cut leaves out.

What keeps all its columns keeps its bytes. Columns are cut from quantized blocks exactly where whole blocks go;
otherwise the numbers that stay are rounded anew, to Q8_0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dure import gguf
from dure.errors import ModelUnsupported
from dure.gguf import BLOCKS, Gguf, Tensor, TensorType, Value, ValueType
from dure_worker.engines.ark.blocks import FLOATS
from dure_workshop.dequantize import quantize
from dure_workshop.prune.cut import Cut
from dure_workshop.prune.structure import CHANNEL_TENSORS, DOWN, HEAD_TENSORS, OUTPUT, numbers, pieces, place
from dure_workshop.trim.gguf_file import write

# What new columns are rounded to where the old kind cannot be kept.
_ROUNDED = TensorType.Q8_0


@dataclass(frozen=True)
class _Part:
    """A tensor of the new file and what it is of the old one. None: all rows, all columns."""

    new: Tensor
    old: Tensor
    rows: list[int] | None = None
    columns: list[int] | None = None


def pruned(
    source: Gguf, target: Path, cut: Cut, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write it in one step. on_progress(bytes written, of all). Raises ModelError; then nothing is left."""
    parts = [_part(source, tensor, cut) for tensor in source.tensors.values() if _stays(tensor, cut)]
    values = _values(source, cut)
    alignment = gguf.alignment_of(values)
    placed = gguf.placed([part.new for part in parts], alignment)
    write(target, values, placed, _weights(source, parts, alignment), on_progress)


def _stays(tensor: Tensor, cut: Cut) -> bool:
    layer = place(tensor.name)[0]
    return layer is None or layer in cut.layers


def _part(source: Gguf, old: Tensor, cut: Cut) -> _Part:
    layer, part = place(old.name)
    if layer is None:
        return _Part(old, old)
    new = replace(old, name=f"blk.{cut.layers.index(layer)}.{part}")
    if cut.channels is not None and part in CHANNEL_TENSORS:
        kept = cut.channels[layer]
    elif cut.heads is not None and part in HEAD_TENSORS:
        width = source.hyper("attention.key_length")
        kept = [head * width + at for head in cut.heads[layer] for at in range(width)]
    else:
        return _Part(new, old)
    if part in (DOWN, OUTPUT) or len(old.shape) == 1:
        kind = old.type if old.type in FLOATS or _whole_blocks(kept, old.type) is not None else _ROUNDED
        return _Part(replace(new, shape=(len(kept), *old.shape[1:]), type=kind), old, columns=kept)
    return _Part(replace(new, shape=(old.shape[0], len(kept))), old, rows=kept)


def _values(source: Gguf, cut: Cut) -> dict[str, Value]:
    # The kinds and the size that these name are no longer true.
    values = {
        key: value for key, value in source.values.items() if key not in ("general.file_type", "general.size_label")
    }
    prefix = source.architecture
    num_layers = source.hyper("block_count")
    for key, value in values.items():
        if key.startswith(f"{prefix}.") and value.type is ValueType.ARRAY and len(value.value) == num_layers:
            values[key] = replace(value, value=[value.value[layer] for layer in cut.layers])
    values[f"{prefix}.block_count"] = replace(values[f"{prefix}.block_count"], value=len(cut.layers))
    if cut.heads is not None:
        heads = values[f"{prefix}.attention.head_count"]
        values[f"{prefix}.attention.head_count"] = replace(heads, value=len(next(iter(cut.heads.values()))))
    if cut.channels is not None:
        width = values[f"{prefix}.feed_forward_length"]
        if width.type is ValueType.ARRAY:
            raise ModelUnsupported(f"the layers of {source.path.name} differ in width: prune its depth only")
        values[f"{prefix}.feed_forward_length"] = replace(width, value=len(next(iter(cut.channels.values()))))
    return values


def _weights(source: Gguf, parts: list[_Part], alignment: int) -> Iterator[bytes]:
    for part in parts:
        if part.columns is None:
            yield from gguf.rows(source, part.old, part.rows)
        else:
            yield from _columns(source, part)
        yield gguf.padding(part.new.num_bytes, alignment)


def _columns(source: Gguf, part: _Part) -> Iterator[bytes]:
    old, kept = part.old, part.columns or []
    blocks = _whole_blocks(kept, old.type)
    for wanted in pieces(old):
        if blocks is None:
            yield quantize(numbers(source, old, wanted)[:, kept], part.new.type)
        else:
            raw = np.frombuffer(b"".join(gguf.rows(source, old, wanted)), np.uint8)
            yield raw.reshape(len(wanted), -1, BLOCKS[old.type][1])[:, blocks].tobytes()


def _whole_blocks(columns: list[int], kind: TensorType) -> list[int] | None:
    """The blocks of a row that these columns are, where they are whole ones."""
    weights = BLOCKS[kind][0]
    if len(columns) % weights:
        return None
    found = np.array(columns).reshape(-1, weights)
    is_whole = (found == found[:, :1] + np.arange(weights)).all() and not (found[:, 0] % weights).any()
    return (found[:, 0] // weights).tolist() if is_whole else None
