"""Hugging Face checkpoints of some kilobytes, made by hand: for tests that need a folder and no model."""

import json
from pathlib import Path
from typing import Any

import tiny_gguf
from dure import safetensors
from dure.byte_tokens import as_token
from dure.gguf import CONTROL, NORMAL
from dure.safetensors import Tensor

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HIDDEN = 4
EMBEDDING, OUTPUT, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def tokens() -> list[str]:
    """By row; the last six rows have no token."""
    return tiny_gguf.vocabulary()[0]


def row(name: str, number: int) -> bytes:
    """Each row tells its tensor and its token's old id: 4 weights of 2 bytes."""
    return bytes([name == OUTPUT, 7]) * 2 + number.to_bytes(4, "little")


def tokenizer_json(*, pairs: bool = False, pattern: str = QWEN2) -> dict[str, Any]:
    names, merges, kinds = tiny_gguf.vocabulary()
    roles = [number for number, kind in enumerate(kinds) if kind == CONTROL]
    steps = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ]
    begin = names.index("<|begin|>")
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": names[number], "special": True} for number in roles],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": {
            "type": "TemplateProcessing",
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [begin], "tokens": ["<|begin|>"]}},
        },
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "vocab": {name: number for number, name in enumerate(names) if kinds[number] == NORMAL},
            "merges": [merge.split(" ") for merge in merges] if pairs else merges,
        },
    }


def write(folder: Path, *, is_tied: bool = True, is_sharded: bool = False, pairs: bool = False) -> Path:
    folder.mkdir()
    names = tokens()
    end, begin, han = names.index("<|end|>"), names.index("<|begin|>"), names.index(as_token("漢字".encode()))
    texts: dict[str, Any] = {
        "config.json": {
            "model_type": "qwen2", "vocab_size": len(names), "bos_token_id": begin, "eos_token_id": [end, begin],
            "pad_token_id": None, "tie_word_embeddings": is_tied,
        },
        "generation_config.json": {"eos_token_id": end, "suppress_tokens": [end, han, -1]},
        "tokenizer.json": tokenizer_json(pairs=pairs),
        "tokenizer_config.json": {"added_tokens_decoder": {str(end): {"content": "<|end|>"}}, "eos_token": "<|end|>"},
        "added_tokens.json": {"<|end|>": end, "<|begin|>": begin},
    }  # fmt: skip
    for name, content in texts.items():
        write_json(folder / name, content)
    (folder / "merges.txt").write_text("#version: 0.2\nx y\n", "utf-8")
    (folder / "LICENSE").write_text("free", "utf-8")
    (folder / "chat_template.jinja").write_text("{{ 'hello' }}", "utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"the same in another form")
    _write_weights(folder, is_tied=is_tied, is_sharded=is_sharded)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), "utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _write_weights(folder: Path, *, is_tied: bool, is_sharded: bool) -> None:
    wanted = [EMBEDDING, NORM] + ([] if is_tied else [OUTPUT])
    if not is_sharded:
        write_shard(folder / "model.safetensors", wanted)
        return
    num_shards = len(wanted)
    places = {name: f"model-{n + 1:05d}-of-{num_shards:05d}.safetensors" for n, name in enumerate(wanted)}
    for name, file in places.items():
        write_shard(folder / file, [name])
    index = {"metadata": {"total_size": 1, "total_parameters": 1}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def write_shard(path: Path, names: list[str], num_rows: int | None = None) -> None:
    num_rows = num_rows or len(tokens())
    shapes = {name: (HIDDEN,) if name == NORM else (num_rows, HIDDEN) for name in names}
    tensors = safetensors.placed(Tensor(name, "BF16", shape, 0) for name, shape in shapes.items())
    weights = [
        b"norm" * 2 if name == NORM else b"".join(row(name, number) for number in range(num_rows)) for name in names
    ]
    path.write_bytes(safetensors.head(tensors, {"format": "pt"}) + b"".join(weights))
