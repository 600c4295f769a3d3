"""A Hugging Face checkpoint: a folder with config.json, tokenizer.json and safetensors files, found whole."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dure import safetensors
from dure.errors import ModelCorrupt, ModelError
from dure.safetensors import Safetensors, Tensor
from dure_workshop.trim import token_ids, tokenizer_json
from dure_workshop.trim.text import Encoder, segmenter_of
from dure_workshop.trim.tokenizer_json import Tokenizer
from dure_workshop.trim.vocabulary import NotTrimmable, Vocabulary

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "word_embeddings.weight", "wte.weight")
_OUTPUTS = ("lm_head.weight", "lm_head.bias", "embed_out.weight")
# All JSON files beside tokenizer.json that may name ids.
_WITH_IDS = (CONFIG, GENERATION, "tokenizer_config.json", "added_tokens.json", "vocab.json")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was found whole. Make it with `read`."""

    path: Path
    files: dict[str, dict[str, Any]]  # the JSON files that name ids
    shards: list[Safetensors]
    tokenizer: Tokenizer

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Raises NotTrimmable, ModelCorrupt, ModelError."""
        try:
            shards = _shards(path)
            return cls(path, _json_files(path), shards, _tokenizer(path, _num_rows(path, shards)))._checked()
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}): correct its rights") from None

    def _checked(self) -> "Checkpoint":
        num_rows, size = len(self.tokenizer.bpe.tokens), token_ids.vocab_size(self.files[CONFIG])
        if size != num_rows:
            raise ModelCorrupt(
                f"{self.path / CONFIG} says vocab_size {size}, but the embedding has {num_rows} rows: "
                "take files that belong together"
            )
        if self.named and max(self.named) >= num_rows:
            raise ModelCorrupt(f"{self.path} names a token {max(self.named)} beyond its {num_rows}: take intact files")
        return self

    @property
    def named(self) -> set[int]:
        """Ids of tokens that the model's own settings name."""
        return token_ids.named(self.files[CONFIG]) | token_ids.named(self.files.get(GENERATION, {}))

    @property
    def num_bytes(self) -> int:
        """Of the weights' files."""
        return sum(shard.path.stat().st_size for shard in self.shards)

    @property
    def row_bytes(self) -> int:
        """Of a token's row, in the output too where it has its own."""
        return sum(
            tensor.row_bytes for shard in self.shards for tensor in shard.tensors.values() if is_vocabulary(tensor)
        )

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer.bpe

    @property
    def pre(self) -> str:
        return self.tokenizer.pre

    @cached_property
    def segmenter(self) -> Encoder | None:
        return segmenter_of(self.vocabulary, self.pre)

    def chat_template(self) -> str:
        path = self.path / "chat_template.jinja"
        if path.is_file():
            return path.read_text("utf-8", errors="replace")
        return str(self.files.get("tokenizer_config.json", {}).get("chat_template") or "")


def is_vocabulary(tensor: Tensor) -> bool:
    return tensor.name.endswith((*_EMBEDDINGS, *_OUTPUTS))


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelCorrupt(f"{path} is missing: take the whole checkpoint from its source again") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ModelCorrupt(f"{path} is no JSON object: take it from its source again")
    return found


def _json_files(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: read_json(folder / name) for name in _WITH_IDS if name == CONFIG or (folder / name).is_file()}


def _tokenizer(folder: Path, num_rows: int) -> Tokenizer:
    path = folder / TOKENIZER
    if not path.is_file() and (folder / "tokenizer.model").is_file():
        raise NotTrimmable(
            f"{folder} has its vocabulary as tokenizer.model (SentencePiece) only: convert the model to GGUF, "
            "and trim that file"
        )
    return tokenizer_json.parse(read_json(path), path, num_rows)


def _shards(folder: Path) -> list[Safetensors]:
    if (folder / WEIGHTS).is_file():
        return [safetensors.read(folder / WEIGHTS)]
    if not (folder / INDEX).is_file():
        raise NotTrimmable(f"{folder} has neither {WEIGHTS} nor {INDEX}: take or make a checkpoint in safetensors")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelCorrupt(f"{folder / INDEX} has no weight_map: take it from its source again")
    names = sorted(set(map(str, places.values())))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelCorrupt(f"{folder / name} is missing: take the whole checkpoint from its source again")
    shards = [safetensors.read(folder / name) for name in names]
    if {tensor: shard.path.name for shard in shards for tensor in shard.tensors} != places:
        raise ModelCorrupt(f"{folder / INDEX} names other tensors than the files have: take files that belong together")
    return shards


def _num_rows(folder: Path, shards: list[Safetensors]) -> int:
    """Of the embedding. Raises NotTrimmable where it has none of a known name, or where other tensors go with it."""
    tensors = [tensor for shard in shards for tensor in shard.tensors.values()]
    embedding = next((tensor for tensor in tensors if tensor.name.endswith(_EMBEDDINGS) and tensor.shape), None)
    if embedding is None:
        kind = read_json(folder / CONFIG).get("model_type", "unknown")
        raise NotTrimmable(
            f"{folder} has no embedding of a known name (architecture {kind}): convert it to GGUF and trim that"
        )
    num_rows = embedding.shape[0]
    for tensor in tensors:
        if is_vocabulary(tensor) and tensor.shape[:1] != (num_rows,):
            raise ModelCorrupt(
                f"{folder}: {tensor.name} has not the embedding's {num_rows} rows: take an intact checkpoint"
            )
        if not is_vocabulary(tensor) and num_rows in tensor.shape:
            raise NotTrimmable(
                f"{folder}: {tensor.name} goes with the vocabulary in a way not known here: trim its GGUF"
            )
    return num_rows
