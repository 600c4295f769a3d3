"""What a model thinks of every token of a text, by the engine that would serve it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from dure import gguf
from dure_workshop.dequantize import Floats, rows
from dure_workshop.hidden_states import HiddenStates
from dure_workshop.perplexity import begin
from dure_workshop.trim.gguf_file import GgufModel

LONGEST = 1024  # tokens of one text
# Logits of so many tokens are there at a time: 78 MB with 152,000 tokens.
ROWS = 128


class Logits(Protocol):
    @property
    def model(self) -> GgufModel:
        """Whose vocabulary the ids are of."""
        ...

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        """Behind each of the last `num_wanted` of up to LONGEST ids: (ROWS, vocabulary) one block after the other, the
        last one with what is left. What the model expects before a text is put before them.
        """
        ...


class LlamaLogits:
    """Of a .gguf file: states by the serving runtime, times the output matrix. A context manager.

    The output matrix is held in float32: 115 MB for 32,000 tokens of 896 numbers.
    """

    def __init__(self, path: Path, num_threads: int) -> None:
        """Raises ModelError, NotTrimmable, EngineError."""
        self.model = GgufModel.read(path)
        source = self.model.source
        self._begin = begin(source)
        tensor = source.tensors.get(gguf.OUTPUT) or source.tensors[gguf.EMBEDDING]
        self._output = rows(source, tensor, list(range(tensor.num_rows))).T
        self._runtime = HiddenStates(path, LONGEST + len(self._begin), num_threads)

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        states = self._runtime.of(self._begin + ids)[-num_wanted:]
        for first in range(0, num_wanted, ROWS):
            yield np.asarray(states[first : first + ROWS] @ self._output, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runtime.__exit__()
