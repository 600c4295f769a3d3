"""What a student has learnt as files that engines load: its GGUF file written anew, and a LoRA adapter for llama.

Source: llama.cpp's convert_lora_to_gguf.py for the adapter's keys and names.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dure import gguf, memory_plan
from dure.errors import ModelUnsupported
from dure.gguf import BLOCKS, Gguf, Tensor, TensorType, Value, ValueType
from dure_workshop.convert import name_of, order_of
from dure_workshop.dequantize import Floats, quantize, read
from dure_workshop.training.student import Student, Update
from dure_workshop.trim.gguf_file import rewrite, write

OnProgress = Callable[[int, int], None]
# New numbers of a tensor from those that it had.
Change = Callable[[Floats], Floats]


def merged(student: Student, source: Gguf, target: Path, on_progress: OnProgress = lambda done, total: None) -> None:
    """The student's file with what it has learnt in place; changed matrices in Q8_0, since the grid on which few bits
    lie would swallow small changes. on_progress(bytes written, of all).

    Raises ModelUnsupported, ModelError; then nothing is left.
    """
    changes = dict(_changes(student, source))
    kinds = {name: _kind(source.tensors[name]) for name in changes}
    rewrite(source, target, kinds, lambda tensor: [_changed(source, tensor, changes[tensor.name])], on_progress)


def adapter(student: Student, source: Gguf, target: Path) -> None:
    """A LoRA adapter of that file, in float16. Raises ModelUnsupported, ModelError; then nothing is left."""
    rank_scale = 1.0
    tensors, numbers = [], {}
    for name, update in student.updates():
        place, order = _place(f"{name}.weight", source)
        rank_scale = update.scale * len(update.a)
        rows = update.b if order is None else update.b[order]
        for end, matrix in (("lora_a", update.a), ("lora_b", rows)):
            tensor = Tensor(f"{place}.{end}", matrix.shape[::-1], TensorType.F16, 0)
            tensors.append(tensor)
            numbers[tensor.name] = matrix
    text = ValueType.STRING
    values = {
        "general.architecture": Value(text, source.architecture),
        "general.type": Value(text, "adapter"),
        "adapter.type": Value(text, "lora"),
        "adapter.lora.alpha": Value(ValueType.FLOAT32, rank_scale),
    }
    alignment = gguf.alignment_of(values)
    placed = gguf.placed(tensors, alignment)

    def weights() -> Iterator[bytes]:
        for tensor in placed:
            yield numbers[tensor.name].astype("<f2").tobytes()
            yield gguf.padding(tensor.num_bytes, alignment)

    write(target, values, placed, weights(), lambda done, total: None)


def _changes(student: Student, source: Gguf) -> Iterator[tuple[str, Change]]:
    """By the file's names of tensors."""
    if student.method == "lora":
        for name, update in student.updates():
            place, order = _place(f"{name}.weight", source)
            yield place, _adding(update, order)
        return
    for name, weight in student.learning.items():
        place, order = _place(name, source)
        yield place, _replacing(weight.detach().float().cpu().numpy(), order)


def _adding(update: Update, order: list[int] | None) -> Change:
    b = update.b if order is None else update.b[order]
    return lambda old: old + update.scale * (b @ update.a)


def _replacing(new: Floats, order: list[int] | None) -> Change:
    return lambda old: (new if order is None else new[order]).reshape(old.shape)


def _place(name: str, source: Gguf) -> tuple[str, list[int] | None]:
    """The file's name of a tensor of transformers, and its rows' order there."""
    found = name_of(name, source.path)
    if found is None or found not in source.tensors:
        raise ModelUnsupported(f"{source.path} has no tensor for {name}: teach a Qwen2, Qwen3 or Llama model")
    return found, order_of(found, source.architecture, memory_plan.of_gguf(source)[1])


def _kind(tensor: Tensor) -> TensorType:
    if len(tensor.shape) == 1:
        return TensorType.F32
    return TensorType.F16 if tensor.shape[0] % BLOCKS[TensorType.Q8_0][0] else TensorType.Q8_0


def _changed(source: Gguf, tensor: Tensor, change: Change) -> bytes:
    """tensor: in its new kind."""
    old = source.tensors[tensor.name]
    new = change(read(b"".join(gguf.rows(source, old)), old.type, old.shape[0]))
    return quantize(np.ascontiguousarray(new, np.float32), tensor.type)
