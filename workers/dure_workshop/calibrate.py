"""Which columns of a model's matrices count: the mean square of what comes in, over a Korean text.

The ark engine runs the text through the weights as the file has them; one window's activations and the packed file,
which is mapped, are all that is in memory. The result has the names of the GGUF file's tensors, so that any way to
quantize can use it. Needs torch and the kernels (extra `workshop`).
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.numpy import save

from dure import gguf, safetensors
from dure.errors import ModelCorrupt, SettingsError
from dure.gguf import Gguf
from dure.one_step import one_step
from dure_worker.engines.ark import calibration
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.loading import decoder, matrix, packed
from dure_worker.engines.ark.packed_file import PackedFile
from dure_worker.engines.ark.packing import AS_IN_THE_FILE
from dure_workshop.dequantize import Floats
from dure_workshop.perplexity import WINDOW, begin, encoder_of, spread
from dure_workshop.texts import read_text
from dure_workshop.trim.gguf_file import GgufModel

_SCHEMA = "1"
# What a matrix of the packed file was made of.
_MADE_OF = {
    "qkv": ("attn_q", "attn_k", "attn_v", "attn_qkv"),
    "output": ("attn_output",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}


@dataclass(frozen=True)
class Importance:
    """columns: tensor of the GGUF file → mean square of each of its inputs. num_tokens: of the text."""

    columns: dict[str, Floats]
    num_tokens: int

    def write(self, path: Path, source: Gguf, text: str) -> None:
        """For that model's shapes. Raises SettingsError."""
        told = {
            "schema": _SCHEMA, "architecture": source.architecture, "num_tokens": str(self.num_tokens),
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }  # fmt: skip
        try:
            with one_step(path) as unfinished:
                unfinished.write_bytes(save(self.columns, metadata={"dure_importance": json.dumps(told)}))
        except OSError as error:
            raise SettingsError(f"{path} cannot be written ({error.strerror}): choose another --out") from None

    @classmethod
    def read(cls, path: Path, source: Gguf) -> "Importance":
        """Raises SettingsError for another model's, ModelCorrupt for what is none."""
        try:
            found = safetensors.read(path)
            told = json.loads(found.metadata["dure_importance"])
            num_tokens, schema = int(told["num_tokens"]), told["schema"]
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be read ({error.strerror}): `dure workshop calibrate` makes it"
            ) from None
        except (KeyError, ValueError):
            raise ModelCorrupt(f"{path} is no importance: make it with `dure workshop calibrate`") from None
        if schema != _SCHEMA:
            raise SettingsError(f"{path} is of another release: make it again with `dure workshop calibrate`")
        columns = {
            name: np.frombuffer(b"".join(safetensors.rows(found, tensor)), "<f4")
            for name, tensor in found.tensors.items()
        }
        if {name: len(each) for name, each in columns.items()} != _lengths(source):
            raise SettingsError(
                f"{path} is of another model than {source.path}: make it with `dure workshop calibrate`"
            )
        return cls(columns, num_tokens)


def calibrate(
    source: Gguf, text: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Importance:
    """Over the text, of a long one 12,288 tokens. on_progress(windows done, of all).

    Raises SettingsError, ModelError, EngineError.
    """
    config = DecoderConfig.of_gguf(source)
    ids = encoder_of(GgufModel(source)).encode(text)
    if not ids:
        raise SettingsError("the text is empty: give some thousand words")
    file = opened_for_ark(source)
    sums: dict[str, torch.Tensor] = {}

    def recording(name: str) -> Linear:
        linear = matrix(file, name)

        def product(x: torch.Tensor) -> torch.Tensor:
            found = x.double().square().sum(0)
            sums[name] = found if name not in sums else sums[name] + found
            return linear(x)

        return cast("Linear", product)

    model, first = decoder(file, config, recording), begin(source)
    cache = KvCache(config, 1, WINDOW + len(first))
    pieces = spread(ids)
    num_tokens = 0
    for done, piece in enumerate(pieces):
        chunk = first + piece
        model.forward([Segment(0, 0, chunk, len(chunk))], cache)
        num_tokens += len(chunk)
        on_progress(done + 1, len(pieces))
    return Importance(_by_tensor(source, sums, num_tokens), num_tokens)


def text_of(paths: list[Path]) -> str:
    """Of the files of --text together; of none, the text that ark's weights are fitted on. Raises SettingsError."""
    return "\n".join(map(read_text, paths)) or calibration.TEXT.read_text("utf-8")


def opened_for_ark(source: Gguf) -> PackedFile:
    """Packed beside links to the file and to what a worker has packed of it, so that this stays, and is not made twice;
    mapped, it outlives its folder.
    """
    path = source.path.resolve()
    with tempfile.TemporaryDirectory(prefix=".calibrate-", dir=source.path.parent) as folder:
        for each in (path, *path.parent.glob("ark-*.safetensors")):
            (Path(folder) / each.name).symlink_to(each)
        return PackedFile.open(packed(Path(folder) / path.name, AS_IN_THE_FILE))


def _by_tensor(source: Gguf, sums: dict[str, torch.Tensor], num_tokens: int) -> dict[str, Floats]:
    found = {}
    for name, total in sums.items():
        mean = (total / num_tokens).float().numpy()
        for tensor in tensors_of(name):
            if tensor in source.tensors:
                found[tensor] = mean.copy()
    # What has the head's weights but not its place, the embedding of a model with an own output, has no inputs.
    return {name: found[name] for name in _lengths(source)}


def tensors_of(name: str) -> list[str]:
    """Of the GGUF file, that a matrix of the packed file is made of."""
    if name == "head":
        return [gguf.OUTPUT, gguf.EMBEDDING]
    layer, part = name.split(".")
    return [f"blk.{layer}.{each}.weight" for each in _MADE_OF[part]]


def _lengths(source: Gguf) -> dict[str, int]:
    """Inputs of each matrix that is multiplied."""
    output = gguf.OUTPUT if gguf.OUTPUT in source.tensors else gguf.EMBEDDING
    parts = {f"{part}.weight" for parts in _MADE_OF.values() for part in parts}
    return {
        name: tensor.shape[0]
        for name, tensor in source.tensors.items()
        if name == output or (name.startswith("blk.") and name.split(".", 2)[2] in parts)
    }
