"""What a model thinks of every token of a text, in the transformers engine. Needs the extra `torch`.

With weights int8 and nf4 it is the baseline that others are compared with: bitsandbytes as transformers applies it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dure_worker.engines.hf.loading import Weights, load
from dure_workshop.dequantize import Floats
from dure_workshop.evaluate.logits import ROWS
from dure_workshop.perplexity import begin
from dure_workshop.trim.gguf_file import GgufModel


class HfLogits:
    """Of a .gguf file that transformers reads, on a GPU where there is one.

    num_bytes    that its weights take in memory, scales included
    """

    def __init__(self, path: Path, weights: Weights) -> None:
        """Raises ModelCorrupt, ModelUnsupported, EngineError."""
        self.model = GgufModel.read(path)
        self._begin = begin(self.model.source)
        self._num_tokens = len(self.model.vocabulary.tokens)
        self._decoder = load(path, weights).model
        # bitsandbytes has put its own where it computes.
        if torch.cuda.is_available() and weights in ("bf16", "float32"):
            self._decoder.to("cuda")
        self.num_bytes = _num_bytes(self._decoder)

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        with torch.inference_mode():
            given = torch.tensor([self._begin + ids], device=self._decoder.device)
            logits = self._decoder(input_ids=given, use_cache=False, logits_to_keep=num_wanted).logits[0]
        for first in range(0, num_wanted, ROWS):
            # Some models have rows for more tokens than there are.
            yield logits[first : first + ROWS, : self._num_tokens].float().cpu().numpy()


def _num_bytes(model: Any) -> int:
    """The library's own get_memory_footprint counts no scales of bitsandbytes."""
    tensors = [*model.parameters(), *model.buffers()]
    scales: list[torch.Tensor] = []
    for weight in model.parameters():
        if (state := getattr(weight, "quant_state", None)) is not None:
            scales += state.as_dict(packed=True).values()
        elif getattr(weight, "SCB", None) is not None:
            scales.append(weight.SCB)
    return sum(each.numel() * each.element_size() for each in (*tensors, *scales))
