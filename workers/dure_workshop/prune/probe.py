"""A model in the ark engine of which parts can be left out for a while: what counts in it, and what is left without.

Sources: block influence of ShortGPT (Men et al., 2024): 1 - cos(what comes into a layer, what comes out), the mean over
a text's tokens. A channel counts by the energy that it adds to the residual stream, mean square of its input times the
squared length of its column; Wanda (Sun et al., 2023) and FLAP (An et al., 2024) weigh alike.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.nn import functional

from dure.errors import SettingsError
from dure.gguf import Gguf
from dure.one_step import one_step
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.loading import decoder, matrix, packed
from dure_worker.engines.ark.packed_file import PackedFile
from dure_worker.engines.ark.packing import AS_IN_THE_FILE
from dure_workshop.dequantize import Floats
from dure_workshop.evaluate.ark_logits import ArkLogits
from dure_workshop.evaluate.likelihood import text_perplexity
from dure_workshop.perplexity import WINDOW, Perplexity, begin, encoder_of, spread
from dure_workshop.prune.cut import Cut
from dure_workshop.prune.structure import DOWN, OUTPUT, numbers, pieces
from dure_workshop.trim.gguf_file import GgufModel

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """influence (layers,) of each layer; channels (layers, channels) and heads (layers, query heads): energy of each.

    num_tokens: of the text
    """

    influence: Floats
    channels: Floats
    heads: Floats
    num_tokens: int

    def write(self, path: Path) -> None:
        with one_step(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, influence=self.influence, channels=self.channels, heads=self.heads, tokens=self.num_tokens)

    @classmethod
    def read(cls, path: Path) -> "Measured":
        with np.load(path) as found:
            return cls(found["influence"], found["channels"], found["heads"], int(found["tokens"]))

    def cut(self, num_dropped: int, num_channels: int, num_heads: int, num_groups: int) -> Cut:
        """Without the layers of least influence, and with the channels and heads of most energy.

        num_groups: of heads that share a key head
        """
        layers = sorted(np.argsort(self.influence, kind="stable")[num_dropped:].tolist())
        channels = {layer: _best(self.channels[layer], num_channels) for layer in layers}
        heads = {layer: _best_of_groups(self.heads[layer], num_heads, num_groups) for layer in layers}
        return Cut(
            layers,
            channels if num_channels < self.channels.shape[1] else None,
            heads if num_heads < self.heads.shape[1] else None,
        )


def _best(energies: Floats, number: int) -> list[int]:
    return sorted(np.argsort(-energies, kind="stable")[:number].tolist())


def _best_of_groups(energies: Floats, number: int, num_groups: int) -> list[int]:
    grouped = energies.reshape(num_groups, -1)
    width = grouped.shape[1]
    return [group * width + head for group, each in enumerate(grouped) for head in _best(each, number // num_groups)]


class Probe:
    """folder: where the engine's own file of the weights goes."""

    def __init__(self, source: Gguf, folder: Path) -> None:
        """Raises ModelCorrupt, ModelUnsupported, EngineError."""
        self._source = source
        self._config = DecoderConfig.of_gguf(source)
        link = folder / source.path.name
        if link != source.path:
            link.unlink(missing_ok=True)
            link.symlink_to(source.path.resolve())
        self._file = PackedFile.open(packed(link, AS_IN_THE_FILE))
        self._dropped: set[str] = set()
        self._masks: dict[str, torch.Tensor] = {}
        self._sums: _Sums | None = None
        self._decoder = decoder(self._file, self._config, self._linear)

    def measure(self, text: str, on_progress: OnProgress = lambda done, total: None) -> Measured:
        """on_progress(windows done, of all). Raises SettingsError."""
        ids = encoder_of(GgufModel(self._source)).encode(text)
        if not ids:
            raise SettingsError("the text is empty: give some thousand words")
        first, windows = begin(self._source), spread(ids)
        cache = KvCache(self._config, 1, WINDOW + len(first))
        self._sums = sums = _Sums(self._file, self._config.shape.layers)
        try:
            for done, window in enumerate(windows):
                chunk = first + window
                self._decoder.forward([Segment(0, 0, chunk, len(chunk))], cache)
                sums.num_tokens += len(chunk)
                on_progress(done + 1, len(windows))
        finally:
            self._sums = None
        layers = range(self._config.shape.layers)
        channels, columns = (
            np.stack(
                [sums.mean_square(f"{layer}.{part}") * _column_energies(self._source, layer, told) for layer in layers]
            )
            for part, told in (("down", DOWN), ("output", OUTPUT))
        )
        heads = columns.reshape(len(layers), self._config.shape.heads, -1).sum(2)
        influence = (sums.influence / sums.num_tokens).numpy()
        return Measured(influence.astype(np.float32), channels, heads, sums.num_tokens)

    def perplexity(self, cut: Cut, text: str, on_progress: OnProgress = lambda done, total: None) -> Perplexity:
        """Of what the cut leaves, without a file of it. Raises SettingsError."""
        with self._without(cut):
            return text_perplexity(ArkLogits(self._source, self._decoder), text, on_progress)

    @contextmanager
    def _without(self, cut: Cut) -> Iterator[None]:
        shape = self._config.shape
        self._dropped = {str(layer) for layer in set(range(shape.layers)) - set(cut.layers)}
        for layer, kept in (cut.channels or {}).items():
            mask = torch.zeros(shape.ffn)
            mask[kept] = 1
            self._masks[f"{layer}.down"] = mask
        for layer, kept in (cut.heads or {}).items():
            mask = torch.zeros(shape.heads, shape.head_dim)
            mask[kept] = 1
            self._masks[f"{layer}.output"] = mask.flatten()
        try:
            yield
        finally:
            self._dropped, self._masks = set(), {}

    def _linear(self, name: str) -> Linear:
        linear = matrix(self._file, name)
        layer = name.partition(".")[0]

        def product(x: torch.Tensor) -> torch.Tensor:
            if self._sums is not None:
                self._sums.add(name, x)
                if name == "head":
                    return torch.zeros(len(x), 1)
            if layer in self._dropped:
                # A layer that adds nothing is not there.
                return torch.zeros(len(x), linear.n)
            return linear(x * self._masks[name] if name in self._masks else x)

        return cast("Linear", product)


class _Sums:
    """Over the tokens of a text.

    What comes into a layer is known from its norm's result: without the norm's weights it has the same direction (of a
    LayerNorm: that of the state less its mean).
    """

    def __init__(self, file: PackedFile, num_layers: int) -> None:
        self._tensors = file.tensors
        self._norms = {f"{layer}.qkv": f"{layer}.attention_norm" for layer in range(num_layers)} | {"head": "norm"}
        self._before: torch.Tensor | None = None
        self.influence = torch.zeros(num_layers, dtype=torch.float64)
        self._squares: dict[str, torch.Tensor] = {}
        self.num_tokens = 0

    def add(self, name: str, x: torch.Tensor) -> None:
        """Of each matrix of each layer in order, then of the head."""
        layer, _, part = name.partition(".")
        if part in ("down", "output"):
            found = x.double().square().sum(0)
            self._squares[name] = self._squares[name] + found if name in self._squares else found
        elif name in self._norms:
            direction = self._direction(self._norms[name], x)
            number = len(self.influence) if name == "head" else int(layer)
            if number:
                cos = functional.cosine_similarity(direction, cast("torch.Tensor", self._before))
                self.influence[number - 1] += (1 - cos).double().sum()
            self._before = direction

    def mean_square(self, name: str) -> Floats:
        """(inputs,) of a matrix."""
        return np.asarray(self._squares[name].numpy() / self.num_tokens, np.float32)

    def _direction(self, norm: str, x: torch.Tensor) -> torch.Tensor:
        bias = self._tensors.get(f"{norm}.bias")
        found = (x if bias is None else x - bias) / self._tensors[norm]
        # What the norm multiplies by zero is lost.
        return found.nan_to_num_(0, 0, 0)


def _column_energies(source: Gguf, layer: int, part: str) -> Floats:
    """(columns,): the squared length of each."""
    tensor = source.tensors[f"blk.{layer}.{part}"]
    total = np.zeros(tensor.shape[0])
    for wanted in pieces(tensor):
        total += np.square(numbers(source, tensor, wanted).astype(np.float64)).sum(0)
    return np.asarray(total, np.float32)
