"""A decoder from packed weights, which are made from the GGUF file when they are first wanted on this machine."""

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from filelock import FileLock

from dure import errors
from dure.errors import DureError, EngineError, ModelCorrupt
from dure.gguf import Gguf
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.decoder import Decoder, Embedding, Layer, Norm, Rotation
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.packed_file import PackedFile
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, OPTIONAL_NORMS, Recipe

log = logging.getLogger(__name__)

_PATTERN = "ark-*.safetensors"
# Of what is in a packed file, and how it was made.
_FORMAT = 4


def load(source: Gguf, recipe: Recipe = AS_IN_THE_FILE) -> Decoder:
    """Raises ModelCorrupt, ModelUnsupported, ModelError, EngineError."""
    config = DecoderConfig.of_gguf(source)
    return decoder(_opened(source.path, recipe), config)


def _opened(weights: Path, recipe: Recipe) -> PackedFile:
    path = packed(weights, recipe)
    try:
        return PackedFile.open(path)
    except ModelCorrupt as error:
        log.warning("packed weights are made again: %s", error, extra={"action": "ark.damaged"})
        path.unlink(missing_ok=True)
        return PackedFile.open(packed(weights, recipe))


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
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        for line in child.stdout or ():
            log.info("packing %s: %s", weights.name, line.strip(), extra={"action": "ark.pack"})
        if child.wait():
            said.seek(0)
            raise _failure(weights, child.returncode, said.read().strip().splitlines())


def _failure(weights: Path, status: int, said: list[str]) -> DureError:
    """The child's own error where it names one."""
    name, _, message = (said[-1] if said else "").partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DureError) and kind.__init__ is DureError.__init__:
        return kind(message)
    # A process that the system ends for want of memory says nothing.
    told = said[-1] if said else f"its process ended with status {status}: free memory, or take a smaller model"
    return EngineError(f"{weights} cannot be packed: {told}")


def _key(weights: Path, recipe: Recipe) -> str:
    """Changes with the file, the recipe, the kernels and the CPU."""
    status = weights.stat()
    parts = (_FORMAT, status.st_size, status.st_mtime_ns, vars(recipe), metadata.version("auto-round-lib"), _cpu())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _cpu() -> str:
    """What this CPU can do."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line for line in lines if line.startswith("flags")), "")


def matrix(source: PackedFile, name: str) -> Linear:
    tensors = source.tensors
    return Linear(tensors[name], tensors.get(f"{name}.bias", torch.empty(0)), *source.info[name])


def decoder(source: PackedFile, config: DecoderConfig, made: Callable[[str], Linear] | None = None) -> Decoder:
    """made: matrices by name, where they are not in the file."""
    tensors = source.tensors

    linear = made or (lambda name: matrix(source, name))

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
