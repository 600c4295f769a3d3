"""A LoRA adapter: a GGUF file of small matrices that the llama runtime adds to a model's own.

Source: llama.cpp's llama-adapter.cpp for its keys.
"""

from pathlib import Path

from dure import gguf
from dure.errors import ModelCorrupt, ModelMissing, ModelUnsupported
from dure.gguf import Gguf


def opened(path: Path, source: Gguf) -> Gguf:
    """The file, found to be an adapter of that model. Raises ModelMissing, ModelCorrupt, ModelUnsupported."""
    if not path.is_file():
        raise ModelMissing(f"DURE_WORKER_ADAPTER: {path} is not there: name a file as `dure workshop adapt` writes it")
    found = gguf.read(path)
    if found.get("general.type") != "adapter" or found.get("adapter.type") != "lora":
        raise ModelUnsupported(f"{path} is no LoRA adapter: name a file as `dure workshop adapt` writes it")
    for name, tensor in found.tensors.items():
        stem, _, part = name.rpartition(".")
        matrix = source.tensors.get(stem)
        if matrix is None or part not in ("lora_a", "lora_b"):
            raise ModelUnsupported(f"{path} changes {stem or name}, which {source.path.name} has not: take its own")
        wanted = matrix.shape[0] if part == "lora_a" else matrix.num_rows
        given = tensor.shape[0] if part == "lora_a" else tensor.num_rows
        if wanted != given:
            raise ModelUnsupported(f"{path} is of a model of another size than {source.path.name}: take its own")
    if not found.tensors:
        raise ModelCorrupt(f"{path} holds no matrices: make it again")
    return found


def num_bytes(adapter: Gguf) -> int:
    return sum(tensor.num_bytes for tensor in adapter.tensors.values())
