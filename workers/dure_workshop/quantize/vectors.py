"""What a decoder of ark needs beside its matrices, without packing these."""

import torch

from dure.gguf import Gguf
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.packed_file import Writer
from dure_worker.engines.ark.packing import Recipe, _Packing

# Matrices wait for their inputs, which do not come.
_WAITING = Recipe(method="gptq")


class _Kept(Writer):
    """Nothing is written."""

    def __init__(self) -> None:
        self.info = {}
        self.vectors = {}

    def add(self, name: str, found: torch.Tensor) -> None:
        self.vectors[name] = found


def vectors(source: Gguf, config: DecoderConfig) -> dict[str, torch.Tensor]:
    """Norms and frequencies, by their names in a packed file. Raises ModelCorrupt."""
    kept = _Kept()
    packing = _Packing(source, config, _WAITING, kept, lambda percent: None)
    for number in range(config.shape.layers):
        packing._layer(f"{number}.", f"blk.{number}.")
    packing._norm("norm", "output_norm")
    packing._frequencies()
    return kept.vectors
