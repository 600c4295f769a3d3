"""What a model thinks of every token of a text, in the ark engine. Needs torch and the kernels (extra `torch`)."""

from collections.abc import Iterator

import torch

from dure.gguf import Gguf
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.kv_cache import KvCache
from dure_workshop.dequantize import Floats
from dure_workshop.evaluate.logits import LONGEST, ROWS
from dure_workshop.perplexity import begin
from dure_workshop.trim.gguf_file import GgufModel


class ArkLogits:
    """Of a decoder that was made of that file."""

    def __init__(self, source: Gguf, decoder: Decoder) -> None:
        self.model = GgufModel(source)
        self._begin = begin(source)
        self._decoder = decoder
        self._cache = KvCache(decoder.config, 1, LONGEST + len(self._begin))

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        ids = self._begin + ids
        first = len(ids) - num_wanted
        for at in range(0, first, ROWS):
            # Even of those that nobody asked for the engine gives the last one's.
            self._forward(at, ids[at : min(at + ROWS, first)], 1)
        for at in range(first, len(ids), ROWS):
            chunk = ids[at : at + ROWS]
            yield self._forward(at, chunk, len(chunk)).float().numpy()

    def _forward(self, at: int, chunk: list[int], num_rows: int) -> torch.Tensor:
        return self._decoder.forward([Segment(0, at, chunk, num_rows)], self._cache)
