"""What a model thinks of every token of a text, in the ark engine. Needs torch and the kernels (extra `torch`)."""

from collections.abc import Iterator

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
        for at in range(0, len(ids), ROWS):
            chunk = ids[at : at + ROWS]
            num_rows = min(len(chunk), at + len(chunk) - first)
            # A chunk before them all is still asked for one row, which counts for nothing.
            logits = self._decoder.forward([Segment(0, at, chunk, max(num_rows, 1))], self._cache)
            if num_rows > 0:
                yield logits.float().numpy()
