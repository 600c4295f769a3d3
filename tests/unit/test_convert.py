"""A checkpoint becomes a GGUF file that computes the same."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny_checkpoint
from dure import gguf, memory_plan
from dure.errors import ModelCorrupt, ModelError, ModelUnsupported
from dure.gguf import TensorType
from dure.memory_plan import Precision
from dure_workshop import convert
from dure_workshop.convert import shape_of
from dure_workshop.hidden_states import HiddenStates
from dure_workshop.trim.checkpoint_files import Checkpoint
from tiny_decoder import TinyDecoder

KINDS = ("qwen2", "qwen3", "llama")
IDS = [(number * 37) % 250 for number in range(120)]


def converted(folder: Path, precision: Precision = Precision.F16) -> gguf.Gguf:
    target = folder.parent / "converted.gguf"
    convert.convert(Checkpoint.read(folder), target, precision)
    return gguf.read(target)


def nearness(found: np.ndarray, wanted: np.ndarray) -> float:
    """The cosine between states, of the worst position."""
    sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / sizes).min())


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_computes_from_it_what_its_makers_define(tmp_path: Path, kind: str) -> None:
    """Proved: fails without the order of rows (llama), rope_freqs (llama), biases (qwen2), norms of keys (qwen3)."""
    decoder = TinyDecoder.make(kind)
    source = converted(decoder.write(tmp_path / "checkpoint"))
    with HiddenStates(source.path, 128, 2) as runtime:
        found = runtime.of(IDS)
    assert nearness(found, decoder.states(IDS)) > 0.999


@pytest.mark.parametrize("precision", list(Precision))
def test_each_precision_is_of_the_kinds_and_the_size_that_are_planned(tmp_path: Path, precision: Precision) -> None:
    folder = TinyDecoder.make("qwen2").write(tmp_path / "checkpoint")
    source = converted(folder, precision)
    kinds = {tensor.type for tensor in source.tensors.values()} - {TensorType.F32}
    assert (
        kinds
        == {
            Precision.F16: {TensorType.F16},
            Precision.Q8_0: {TensorType.Q8_0},
            Precision.Q4_K_M: {TensorType.Q4_K, TensorType.Q6_K, TensorType.Q5_0, TensorType.Q8_0},
        }[precision]
    )
    if precision is Precision.Q4_K_M:
        matrices = sum(t.num_bytes for t in source.tensors.values() if t.type is not TensorType.F32)
        norms = memory_plan.q4_k_m_bytes(shape_of(Checkpoint.read(folder))) - matrices
        assert 0 < norms < 10_000
    assert memory_plan.of_gguf(source)[1] == shape_of(Checkpoint.read(folder))


def test_vocabulary_roles_and_template_come_along(tmp_path: Path) -> None:
    source = converted(TinyDecoder.make("qwen3").write(tmp_path / "checkpoint"))
    tokens = source.get("tokenizer.ggml.tokens")
    assert tokens[: len(tiny_checkpoint.tokens()) - 6] == tiny_checkpoint.tokens()[:-6]
    assert tokens[source.get("tokenizer.ggml.eos_token_id")] == "<|end|>"
    assert source.get("tokenizer.chat_template") == "{{ 1 }}"
    assert source.get("tokenizer.ggml.pre") == "qwen2"


def change(folder: Path, name: str, **fields: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), "utf-8")


@pytest.mark.parametrize(
    ("fields", "error", "word"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, ModelUnsupported, "yarn"),
        ({"num_attention_heads": 0}, ModelCorrupt, "shape"),
        ({"hidden_size": None}, ModelCorrupt, "shape"),
        ({"num_hidden_layers": 3}, ModelCorrupt, "lacks 3 tensors"),
        ({"vocab_size": 7}, ModelCorrupt, "vocab_size 7"),
    ],
)
def test_what_is_not_known_or_does_not_belong_is_refused(
    tmp_path: Path, fields: dict[str, object], error: type[ModelError], word: str
) -> None:
    folder = TinyDecoder.make("qwen2").write(tmp_path / "checkpoint")
    change(folder, "config.json", **fields)
    with pytest.raises(error, match=word):
        converted(folder)
    assert not (tmp_path / "converted.gguf").exists()


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    decoder = TinyDecoder.make("qwen2")
    decoder.weights["model.layers.0.self_attn.sinks.weight"] = np.zeros((4, 4), np.float32)
    with pytest.raises(ModelUnsupported, match=r"sinks\.weight, which is not known"):
        converted(decoder.write(tmp_path / "checkpoint"))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    folder = TinyDecoder.make("qwen2").write(tmp_path / "checkpoint")
    code = (
        "import resource, sys; from pathlib import Path; from dure.errors import ModelError;"
        "from dure_workshop import convert; from dure_workshop.trim.checkpoint_files import Checkpoint;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}));"
        f"convert.convert(Checkpoint.read(Path({str(folder)!r})), Path({str(tmp_path / 'converted.gguf')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert "ModelError" in done.stderr
    assert "File too large" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}
