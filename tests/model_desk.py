"""A user's terminal, and small GGUF files, for tests of `dure model …`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from dure import artifact, catalog, gguf
from dure.artifact import Manifest
from dure.catalog import CatalogModel
from dure.gguf import Tensor, TensorType, Value, ValueType
from support import DEADLINE_S, DURE

WORDS = ["hello", " hello", "두레", "마을", "漢字", "Ж", "123"]
SMALL = catalog.CATALOG["qwen2.5-coder-0.5b-korean"]


def _byte(code: int) -> str:
    """GPT-2's printable stand-in for a byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return chr(code) if code in printable else chr(0x100 + others.index(code))


def disguised(text: str) -> list[str]:
    return [_byte(byte) for byte in text.encode()]


def make_model(path: Path, *, ballast_rows: int = 1, pre: str = "qwen2", rows: int | None = None) -> Path:
    """A model of one layer with a byte-level vocabulary. rows: of its embeddings, if not as many as it has tokens."""
    tokens = [_byte(code) for code in range(256)]
    merges: list[str] = []
    for word in WORDS:
        pieces = disguised(word)
        while len(pieces) > 1:
            if (merge := f"{pieces[0]} {pieces[1]}") not in merges:
                merges.append(merge)
                tokens.append(pieces[0] + pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
    tokens += ["<|end|>", "[PAD]"]
    kinds = [1] * (len(tokens) - 2) + [3, 5]
    text, number = ValueType.STRING, ValueType.UINT32
    values = {
        "general.architecture": Value(text, "qwen2"),
        "qwen2.block_count": Value(number, 1),
        "qwen2.embedding_length": Value(number, 64),
        "qwen2.feed_forward_length": Value(number, 128),
        "qwen2.attention.head_count": Value(number, 4),
        "qwen2.attention.head_count_kv": Value(number, 2),
        "tokenizer.ggml.model": Value(text, "gpt2"),
        "tokenizer.ggml.pre": Value(text, pre),
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, tokens, text),
        "tokenizer.ggml.token_type": Value(ValueType.ARRAY, kinds, ValueType.INT32),
        "tokenizer.ggml.merges": Value(ValueType.ARRAY, merges, text),
        "tokenizer.ggml.eos_token_id": Value(number, tokens.index("<|end|>")),
        "tokenizer.chat_template": Value(text, "{{ 'hello' }}"),
    }
    tensors = gguf.placed(
        [
            Tensor("token_embd.weight", (64, rows or len(tokens)), TensorType.Q8_0, 0),
            Tensor("blk.0.ffn_gate.weight", (64, ballast_rows), TensorType.Q8_0, 0),
        ],
        32,
    )
    weights = b"".join(bytes(tensor.num_bytes) + gguf.padding(tensor.num_bytes, 32) for tensor in tensors)
    path.write_bytes(gguf.head(values, tensors) + weights)
    return path


def own_model(models_dir: Path, name: str) -> Path:
    """That model of one layer, as `dure model add` would have placed it."""
    folder = models_dir / name
    folder.mkdir(parents=True)
    path = make_model(folder / artifact.WEIGHTS)
    model = CatalogModel(name, name, f"{name}.gguf", path.stat().st_size, catalog.sha256_of(path), "MIT")
    artifact.write(folder, Manifest.of(gguf.read(path), model, "made here"))
    return path


class Desk:
    """A user's terminal with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
        self.environ = clean | {"DURE_HOME": str(self.home), "COLUMNS": "100", "PYTHONUTF8": "1"}

    def run(self, *arguments: object, stdin: int = subprocess.DEVNULL, **environ: str) -> Any:
        return subprocess.run(
            [DURE, "model", *map(str, arguments)], env=self.environ | environ, stdin=stdin, capture_output=True,
            encoding="utf-8", timeout=DEADLINE_S, check=False, cwd=self.folder,
        )  # fmt: skip

    def said(self, *arguments: object, **environ: str) -> str:
        done = self.run(*arguments, **environ)
        assert (done.returncode, done.stderr) == (0, ""), done
        return str(done.stdout)

    def json(self, *arguments: object, **environ: str) -> Any:
        return json.loads(self.said(*arguments, "--json", **environ).splitlines()[-1])

    def refused(self, *arguments: object, **environ: str) -> str:
        """What it says on one line when it cannot."""
        done = self.run(*arguments, **environ)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith(("dure: ", "dure model: ")), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
        return str(done.stderr)

    def place(self, name: str = SMALL.name) -> Path:
        """A file where the catalogue's model of that name belongs."""
        path = catalog.weights_path(self.home / "models", catalog.CATALOG[name])
        path.parent.mkdir(parents=True)
        return make_model(path)
