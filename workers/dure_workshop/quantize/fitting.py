"""A pass over a text in which each matrix is rounded at the moment when its inputs are there.

So inputs are those that already rounded matrices give, and what one of them does wrong the next can undo. The ark
decoder's own code decides the order; one matrix is there in floats at a time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch.nn.functional import linear

from dure import gguf
from dure.errors import SettingsError
from dure.gguf import Gguf, TensorType
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.kv_cache import KvCache, Pair
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.loading import decoder
from dure_worker.engines.ark.packed_file import PackedFile
from dure_worker.engines.ark.packing import vectors
from dure_workshop.calibrate import tensors_of
from dure_workshop.dequantize import quantize, read_by_runtime, rounded, rows
from dure_workshop.perplexity import begin, encoder_of, spread
from dure_workshop.quantize import k_blocks
from dure_workshop.quantize.compensated import Inputs, Order, compensated
from dure_workshop.trim.gguf_file import GgufModel

Kinds = dict[str, TensorType]
Take = Callable[[str, bytes], None]

# Inputs that are multiplied at a time.
_ROWS = 2048


class _OneLayer(KvCache):
    """Keys and values of the layer that is being computed; those before it are not looked at again."""

    def __init__(self, config: DecoderConfig, num_slots: int, context: int) -> None:
        super().__init__(replace(config, shape=replace(config.shape, layers=1)), num_slots, context)

    def write(self, layer: int, slots: torch.Tensor, positions: torch.Tensor, pairs: torch.Tensor) -> None:
        super().write(0, slots, positions, pairs)

    def read(self, layer: int, slots: slice, cells: slice) -> Pair:
        return super().read(0, slots, cells)


def fit(
    source: Gguf,
    kinds: Kinds,
    text: str,
    take: Take,
    num_threads: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Call take(tensor, rows in its new kind) for each matrix of the layers that `kinds` gives another kind.

    kinds        by tensor; those it does not name, and the vocabulary, stay as they are
    text         its windows of 512 tokens, at most 12,288 tokens, spread evenly over it
    on_progress  (matrices done, of all)

    Returns how many tokens it was. Raises SettingsError, ModelError, EngineError.
    """
    config = DecoderConfig.of_gguf(source)
    segments, wanted = _segments(source, text)
    file = PackedFile(vectors(source, config) | _embedding(source, kinds, wanted), {})
    num_tokens = sum(len(segment.ids) for segment in segments)
    total, num_done = config.shape.layers * _OF_A_LAYER, 0
    with ThreadPoolExecutor(num_threads, "quantizer") as pool:

        def made(name: str, x: torch.Tensor) -> torch.Tensor:
            nonlocal num_done
            if name == "head":
                return x
            found = _Matrix(source, kinds, name).fit(x, take, pool)
            num_done += 1
            on_progress(num_done, total)
            return found

        def awaited(name: str) -> Linear:
            return cast("Linear", lambda x: made(name, x))

        context = max(len(segment.ids) for segment in segments)
        decoder(file, config, awaited).forward(segments, _OneLayer(config, len(segments), context))
    return num_tokens


_OF_A_LAYER = 4


def _segments(source: Gguf, text: str) -> tuple[list[Segment], list[int]]:
    """Tokens numbered among those that occur, and these."""
    ids, first = encoder_of(GgufModel(source)).encode(text), begin(source)
    if not ids:
        raise SettingsError("the text is empty: give some thousand words")
    # A segment of one token would have to come first.
    pieces = [first + piece for piece in spread(ids)]
    pieces = [piece for piece in pieces if len(piece) > 1] or pieces[:1]
    wanted = sorted({number for piece in pieces for number in piece})
    places = {number: place for place, number in enumerate(wanted)}
    return [Segment(slot, 0, [places[number] for number in piece]) for slot, piece in enumerate(pieces)], wanted


def _embedding(source: Gguf, kinds: Kinds, wanted: list[int]) -> dict[str, torch.Tensor]:
    """Rows as they will be, in one group with the scale 1."""
    tensor = source.tensors[gguf.EMBEDDING]
    numbers, kind = rows(source, tensor, wanted), kinds.get(tensor.name, tensor.type)
    found = torch.from_numpy(numbers if kind is tensor.type else rounded(numbers, kind))
    return {"embedding.codes": found[:, None], "embedding.scales": torch.ones(len(found), 1, 1)}


class _Matrix:
    """Tensors over the same inputs, as ark takes them together."""

    def __init__(self, source: Gguf, kinds: Kinds, name: str) -> None:
        self._source, self._kinds = source, kinds
        self._tensors = [source.tensors[each] for each in tensors_of(name) if each in source.tensors]
        # The widest output, which waits while the next matrix is fitted.
        self._dtype = torch.bfloat16 if name.endswith("gate_up") else torch.float32

    def fit(self, x: torch.Tensor, take: Take, pool: ThreadPoolExecutor) -> torch.Tensor:
        order = _order(x) if any(self._kind(tensor) is not tensor.type for tensor in self._tensors) else None
        found = torch.empty(len(x), sum(tensor.num_rows for tensor in self._tensors), dtype=self._dtype)
        first = 0
        for tensor in self._tensors:
            numbers = torch.from_numpy(rows(self._source, tensor, list(range(tensor.num_rows))))
            if order is not None and self._kind(tensor) is not tensor.type:
                raw = _written(numbers, self._kind(tensor), order, pool)
                take(tensor.name, raw)
                numbers = torch.from_numpy(read_by_runtime(raw, self._kind(tensor), tensor.shape[0]))
            _multiply(x, numbers, self._bias(tensor), found[:, first : first + tensor.num_rows])
            first += tensor.num_rows
        return found

    def _bias(self, tensor: gguf.Tensor) -> torch.Tensor | None:
        bias = self._source.tensors.get(tensor.name.removesuffix("weight") + "bias")
        return None if bias is None else torch.from_numpy(rows(self._source, bias, [0])[0])

    def _kind(self, tensor: gguf.Tensor) -> TensorType:
        return self._kinds.get(tensor.name, tensor.type)


def _order(x: torch.Tensor) -> Order:
    inputs = Inputs(x.shape[1])
    with _fast_products():
        for start in range(0, len(x), _ROWS):
            inputs.add(x[start : start + _ROWS].float())
    return inputs.order()


def _written(numbers: torch.Tensor, kind: TensorType, order: Order, pool: ThreadPoolExecutor) -> bytes:
    if kind in k_blocks.KINDS:
        return compensated(numbers, kind, order, pool)
    return quantize(numbers.numpy(), kind, order.mean_square.numpy())


def _multiply(x: torch.Tensor, numbers: torch.Tensor, bias: torch.Tensor | None, found: torch.Tensor) -> None:
    with _fast_products():
        for start in range(0, len(x), _ROWS):
            found[start : start + _ROWS] = linear(x[start : start + _ROWS].float(), numbers, bias)


@contextmanager
def _fast_products() -> Iterator[None]:
    """Factors in bfloat16 where the CPU multiplies these faster; sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
