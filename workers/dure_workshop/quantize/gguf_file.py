"""A GGUF file written anew in the kinds that were chosen, with the runtime's own quantizer and the importance.

Source: ggml_quantize_chunk of ggml; the K kinds of llama.cpp #1684, importance of #4861.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dure import gguf
from dure.errors import ModelError
from dure.gguf import Gguf, Tensor, TensorType
from dure.one_step import one_step
from dure_workshop.calibrate import Importance
from dure_workshop.dequantize import quantize, rows
from dure_workshop.quantize.fitting import fit
from dure_workshop.quantize.mixture import Mixture
from dure_workshop.trim.gguf_file import in_kinds, rewrite

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


def told(before: Size, out: Path) -> dict[str, Any]:
    """What a command says of a file that it has made: out, bytes, num_weights, bits_per_weight before and after."""
    after = size_of(gguf.read(out))
    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "num_weights": after.num_weights,
        "bits_per_weight": [round(before.bits_per_weight, 4), round(after.bits_per_weight, 4)],
    }


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
    with ThreadPoolExecutor(num_threads, "quantizer") as pool:
        rewrite(source, target, _kinds(mixture), partial(_rounded, source, importance, pool, num_threads), on_progress)


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
    values, placed = in_kinds(source, _kinds(mixture))
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
                take(name, b"".join(_rounded(source, importance, pool, num_threads, tensor)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ModelError(f"{target} cannot be written ({error.strerror}): free {total >> 20} MiB there") from None
    return num_tokens


def _kinds(mixture: Mixture) -> dict[str, TensorType]:
    return {name: option.kind for name, option in mixture.items()}


def _rounded(
    source: Gguf, importance: Importance, pool: ThreadPoolExecutor, num_threads: int, tensor: Tensor
) -> Iterator[bytes]:
    """tensor: in its new kind."""
    old = source.tensors[tensor.name]
    if tensor.type is old.type:
        # Rounded once already: twice would only lose more.
        yield from gguf.rows(source, old)
        return
    step = max(1, _PIECE_WEIGHTS // tensor.shape[0])
    pieces = [list(range(at, min(at + step, old.num_rows))) for at in range(0, old.num_rows, step)]
    piece = partial(_piece, source, old, tensor, importance)
    for at in range(0, len(pieces), num_threads):
        yield from pool.map(piece, pieces[at : at + num_threads])


def _piece(source: Gguf, old: Tensor, new: Tensor, importance: Importance, wanted: list[int]) -> bytes:
    return quantize(rows(source, old, wanted), new.type, importance.columns.get(new.name))
