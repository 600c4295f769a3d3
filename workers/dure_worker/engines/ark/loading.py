"""A decoder from packed weights, which are made from the GGUF file when they are first wanted on this machine."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from filelock import FileLock

from dure.errors import EngineError
from dure.gguf import Gguf
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.decoder import Decoder, Embedding, Layer, Norm, Rotation
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.packed_file import PackedFile
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, OPTIONAL_NORMS, Recipe

_PATTERN = "ark-*.safetensors"
# Of what is in a packed file, and how it was made.
_FORMAT = 3


def load(source: Gguf, recipe: Recipe = AS_IN_THE_FILE) -> Decoder:
    """Raises ModelCorrupt, ModelUnsupported, EngineError."""
    config = DecoderConfig.of_gguf(source)
    return decoder(PackedFile.open(packed(source.path, recipe)), config)


def packed(weights: Path, recipe: Recipe) -> Path:
    """The packed file beside the weights. It is of this machine: the kernels' layout depends on the CPU."""
    path = weights.with_name(_PATTERN.replace("*", _key(weights, recipe)))
    if path.exists():
        return path
    with FileLock(weights.with_name(".ark.lock")):
        if not path.exists():
            _pack(weights, path, recipe)
            for old in set(weights.parent.glob(_PATTERN)) - {path}:
                old.unlink(missing_ok=True)
    return path


def _pack(weights: Path, path: Path, recipe: Recipe) -> None:
    """In a process of its own: what it takes for that is given back whole."""
    command = [
        sys.executable,
        "-m",
        "dure_worker.engines.ark.packing",
        str(weights),
        str(path),
        json.dumps(vars(recipe)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"{weights} cannot be packed: {said[-1]}")


def _key(weights: Path, recipe: Recipe) -> str:
    """Changes with the file, the recipe, the kernels and the CPU."""
    status = weights.stat()
    flags = next(
        (line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("flags")), ""
    )
    parts = (_FORMAT, status.st_size, status.st_mtime_ns, vars(recipe), metadata.version("auto-round-lib"), flags)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def decoder(source: PackedFile, config: DecoderConfig, made: Callable[[str], Linear] | None = None) -> Decoder:
    """made: matrices by name, where they are not in the file."""
    tensors = source.tensors

    def from_file(name: str) -> Linear:
        return Linear(tensors[name], tensors.get(f"{name}.bias", torch.empty(0)), *source.info[name])

    linear = made or from_file

    def norm(name: str) -> Norm:
        return Norm(tensors[name], tensors.get(f"{name}.bias"), config.eps)

    def optional(name: str) -> Norm | None:
        return norm(name) if name in tensors else None

    def rotation(name: str) -> Rotation:
        return Rotation(tensors[name], is_neighbours=config.family.is_neighbours)

    layers = [
        Layer(
            norm(f"{number}.attention_norm"),
            linear(f"{number}.qkv"),
            linear(f"{number}.output"),
            norm(f"{number}.ffn_norm"),
            linear(f"{number}.gate_up"),
            linear(f"{number}.down"),
            *(optional(f"{number}.{name}") for name in OPTIONAL_NORMS),
        )
        for number in range(config.shape.layers)
    ]
    embedding = Embedding(tensors["embedding.codes"], tensors["embedding.scales"])
    return Decoder(
        config, embedding, layers, norm("norm"), linear("head"), rotation("frequencies"), rotation("local_frequencies")
    )
