"""A GGUF file written anew in the kinds that were chosen, with the runtime's own quantizer and the importance.

Source: ggml_quantize_chunk of ggml; the K kinds of llama.cpp #1684, importance of #4861.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dure import gguf
from dure.errors import ModelError
from dure.gguf import Gguf, Tensor, Value
from dure.one_step import one_step
from dure_workshop.calibrate import Importance
from dure_workshop.dequantize import quantize, rows
from dure_workshop.quantize.fitting import fit
from dure_workshop.quantize.mixture import Mixture
from dure_workshop.trim.gguf_file import write

# Rows that are quantized at a time: some MB.
_PIECE_WEIGHTS = 1 << 20


@dataclass(frozen=True)
class Size:
    """Of all tensors, vocabulary and norms included."""

    num_weights: int
    num_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / self.num_weights


def size_of(source: Gguf) -> Size:
    tensors = source.tensors.values()
    return Size(sum(tensor.num_weights for tensor in tensors), sum(tensor.num_bytes for tensor in tensors))


def requantized(
    source: Gguf,
    target: Path,
    mixture: Mixture,
    importance: Importance,
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write it in one step. on_progress(bytes written, of all).

    Raises NotReadable, ModelError; then nothing is left.
    """
    values, placed = _plan(source, mixture)
    alignment = gguf.alignment_of(values)
    with ThreadPoolExecutor(num_threads, "quantizer") as pool:
        weights = _weights(source, placed, importance, pool, alignment, num_threads)
        write(target, values, placed, weights, on_progress)


def compensated(
    source: Gguf,
    target: Path,
    mixture: Mixture,
    importance: Importance,
    text: str,
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """As `requantized`, but errors of a matrix's columns are undone in later ones, for what the text gives as inputs.

    on_progress(matrices done, of all). Returns how many tokens it was. Raises SettingsError, ModelError, EngineError.
    """
    values, placed = _plan(source, mixture)
    alignment = gguf.alignment_of(values)
    kinds = {tensor.name: tensor.type for tensor in placed}
    head = gguf.head(values, placed)
    total = sum(tensor.num_bytes for tensor in placed)
    waiting = {tensor.name: tensor for tensor in placed}
    try:
        with one_step(target) as unfinished, unfinished.open("wb") as file, ThreadPoolExecutor(num_threads) as pool:
            file.write(head)

            def take(name: str, weights: bytes) -> None:
                tensor = waiting.pop(name)
                file.seek(len(head) + tensor.offset)
                file.write(weights + gguf.padding(tensor.num_bytes, alignment))

            num_tokens = fit(source, kinds, text, take, num_threads, on_progress)
            for name, tensor in list(waiting.items()):
                pieces = _weights(source, [tensor], importance, pool, alignment, num_threads)
                take(name, b"".join(pieces)[: tensor.num_bytes])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ModelError(f"{target} cannot be written ({error.strerror}): free {total >> 20} MiB there") from None
    return num_tokens


def _plan(source: Gguf, mixture: Mixture) -> tuple[dict[str, Value], list[Tensor]]:
    """The new file's values, and where its tensors will lie."""
    values = {key: value for key, value in source.values.items() if key != "general.file_type"}
    kinds = {name: option.kind for name, option in mixture.items()}
    tensors = [replace(tensor, type=kinds.get(name, tensor.type)) for name, tensor in source.tensors.items()]
    return values, gguf.placed(tensors, gguf.alignment_of(values))


def _weights(
    source: Gguf,
    tensors: list[Tensor],
    importance: Importance,
    pool: ThreadPoolExecutor,
    alignment: int,
    num_threads: int,
) -> Iterator[bytes]:
    for tensor in tensors:
        old = source.tensors[tensor.name]
        if tensor.type is old.type:
            # Rounded once already: twice would only lose more.
            yield from gguf.rows(source, old)
        else:
            step = max(1, _PIECE_WEIGHTS // tensor.shape[0])
            pieces = [list(range(at, min(at + step, old.num_rows))) for at in range(0, old.num_rows, step)]
            piece = partial(_piece, source, old, tensor, importance)
            for at in range(0, len(pieces), num_threads):
                yield from pool.map(piece, pieces[at : at + num_threads])
        yield gguf.padding(tensor.num_bytes, alignment)


def _piece(source: Gguf, old: Tensor, new: Tensor, importance: Importance, wanted: list[int]) -> bytes:
    return quantize(rows(source, old, wanted), new.type, importance.columns.get(new.name))
