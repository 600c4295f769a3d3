"""Quantization-aware training that leaves a file's codes alone: scales of its blocks learn, norms and biases with them.

Source: the end-to-end stage of EfficientQAT (Chen et al. 2024, arXiv:2407.11062). What comes of it is a file of the
same size and kinds, which every engine reads that read it before.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parametrize

from dure import gguf, memory_plan
from dure.errors import ModelCorrupt, ModelError, ModelUnsupported, SettingsError
from dure.gguf import Gguf, Tensor, TensorType
from dure.one_step import one_step
from dure_workshop.convert import name_of, order_of
from dure_workshop.dequantize import Floats
from dure_workshop.training.blocks import LAYOUTS, rescaled, taken_apart
from dure_workshop.training.scaled_linear import ScaledLinear

_ARCHITECTURES = {"llama", "qwen2", "qwen3"}
OnProgress = Callable[[int, int], None]


class Grown(torch.nn.Module):
    """A parametrization: a vector and its change, in shares of its root mean square, so that one rate fits all.

    start    float32, as the file has it
    dtype    of what comes out
    """

    start: torch.Tensor

    def __init__(self, start: Floats, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("start", torch.from_numpy(start), persistent=False)
        self.unit = float(np.sqrt(np.mean(start.astype(np.float64) ** 2))) or 1.0
        self.dtype = dtype

    def forward(self, change: torch.Tensor) -> torch.Tensor:
        return self.grown(change).to(self.dtype)

    def grown(self, change: torch.Tensor) -> torch.Tensor:
        """float32"""
        return self.start + self.unit * change


def scaled(model: Any, source: Gguf, *, learns_vectors: bool = True) -> None:
    """Replace the model's quantized matrices, in place, by those whose scales learn; all else is frozen.

    model            of transformers, loaded from that file; the weights of its matrices are dropped one by one
    learns_vectors   norms and biases learn as well

    Vocabulary, and matrices of kinds that are not in LAYOUTS, stay as they are. Raises ModelUnsupported, ModelCorrupt;
    SettingsError where no scale is left to learn.
    """
    if source.architecture not in _ARCHITECTURES:
        raise ModelUnsupported(
            f"{source.path.name}: scales of {source.architecture or '(no architecture)'} cannot be trained here: take "
            f"a model of {', '.join(sorted(_ARCHITECTURES))}"
        )
    model.requires_grad_(requires_grad=False)
    places = _Places(source)
    linears = [(name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)]
    num_replaced = 0
    while linears:
        # Popped, so that nothing holds the old weight.
        name, linear = linears.pop()
        tensor = places.tensor(f"{name}.weight")
        if tensor is not None and tensor.name not in gguf.VOCABULARY and tensor.type in LAYOUTS:
            model.set_submodule(name, _scaled_linear(linear, tensor, places))
            num_replaced += 1
    if not num_replaced:
        raise SettingsError(
            f"{source.path.name} has no matrix with scales that could learn: quantize it first (`dure workshop "
            "quantize`)"
        )
    if learns_vectors:
        _let_vectors_learn(model, places)


def written(model: Any, source: Gguf, target: Path, on_progress: OnProgress = lambda done, total: None) -> None:
    """Write the same file with what the model has learnt since `scaled`; all other bytes are as they were.

    on_progress(tensors written, of all that learn). Raises SettingsError where a scale is too large for float16, and
    ModelError; then nothing is left.
    """
    places = _Places(source)
    learnt = [*_matrices(model, places), *_vectors(model, places)]
    try:
        with one_step(target) as unfinished:
            shutil.copyfile(source.path, unfinished)
            with unfinished.open("r+b") as file:
                for done, (tensor, raw) in enumerate(learnt, 1):
                    file.seek(source.data_start + tensor.offset)
                    file.write(raw())
                    on_progress(done, len(learnt))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        size = source.path.stat().st_size >> 20
        raise ModelError(f"{target} cannot be written ({error.strerror}): free {size} MiB there") from None


class _Places:
    """Where a model's parameters lie in its file."""

    def __init__(self, source: Gguf) -> None:
        self.source = source
        self._shape = memory_plan.of_gguf(source)[1]

    def tensor(self, name: str) -> Tensor | None:
        """name: of the parameter. None for what the file does not have, such as an output that is the embedding's."""
        return self.source.tensors.get(name_of(name, self.source.path) or "")

    def raw(self, tensor: Tensor) -> bytes:
        """In the model's order of rows."""
        found = b"".join(gguf.rows(self.source, tensor))
        order = self._order(tensor)
        return found if order is None else _in_order(found, list(np.argsort(order)))

    def raw_of_file(self, raw: bytes, tensor: Tensor) -> bytes:
        """In the file's order of rows."""
        order = self._order(tensor)
        return raw if order is None else _in_order(raw, order)

    def _order(self, tensor: Tensor) -> list[int] | None:
        return order_of(tensor.name, self.source.architecture, self._shape)


def _in_order(raw: bytes, order: list[int]) -> bytes:
    return np.frombuffer(raw, np.uint8).reshape(len(order), -1)[order].tobytes()


def _scaled_linear(linear: torch.nn.Linear, tensor: Tensor, places: _Places) -> ScaledLinear:
    if tensor.shape != (linear.in_features, linear.out_features):
        raise ModelCorrupt(f"{places.source.path.name}: {tensor.name} is not of the model's shape: take an intact file")
    blocks = taken_apart(places.raw(tensor), tensor.type, linear.in_features)
    return ScaledLinear(blocks, linear.bias, linear.weight.dtype)


def _let_vectors_learn(model: Any, places: _Places) -> None:
    for stem, module in list(model.named_modules()):
        for part, old in list(module.named_parameters(recurse=False)):
            tensor = places.tensor(f"{stem}.{part}") if part in {"weight", "bias"} and old.ndim == 1 else None
            if tensor is None or tensor.type is not TensorType.F32:
                continue
            start = np.frombuffer(places.raw(tensor), "<f4").astype(np.float32)
            setattr(module, part, torch.nn.Parameter(torch.zeros(len(start))))
            parametrize.register_parametrization(module, part, Grown(start, old.dtype), unsafe=True)


_Learnt = Iterator[tuple[Tensor, Callable[[], bytes]]]


def _matrices(model: Any, places: _Places) -> _Learnt:
    for name, module in model.named_modules():
        tensor = places.tensor(f"{name}.weight") if isinstance(module, ScaledLinear) else None
        if tensor is not None:
            yield tensor, partial(_raw_matrix, module, tensor, places)


def _raw_matrix(module: ScaledLinear, tensor: Tensor, places: _Places) -> bytes:
    return places.raw_of_file(rescaled(places.raw(tensor), tensor.type, *module.grown()), tensor)


def _vectors(model: Any, places: _Places) -> _Learnt:
    for stem, module in model.named_modules():
        for part, found in getattr(module, "parametrizations", {}).items():
            tensor = places.tensor(f"{stem}.{part}") if isinstance(found[0], Grown) else None
            if tensor is not None:
                yield tensor, partial(_raw_vector, found, tensor, places)


def _raw_vector(found: Any, tensor: Tensor, places: _Places) -> bytes:
    numbers: Floats = found[0].grown(found.original).detach().cpu().numpy()
    return places.raw_of_file(numbers.astype("<f4").tobytes(), tensor)
