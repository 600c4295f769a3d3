"""What was learnt is in the file that engines load, in its own place, and nothing else has changed."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("peft", reason="the extra `workshop` is not installed")

from dure import gguf  # noqa: E402
from dure.budget import Budget  # noqa: E402
from dure.errors import ModelMissing, ModelUnsupported  # noqa: E402
from dure.gguf import Gguf, TensorType  # noqa: E402
from dure_worker import adapter as adapter_file  # noqa: E402
from dure_worker.budget import planned  # noqa: E402
from dure_worker.engines.hf.loading import load  # noqa: E402
from dure_worker.settings import WorkerSettings  # noqa: E402
from dure_workshop.dequantize import Floats, rows  # noqa: E402
from dure_workshop.training.export import adapter, merged  # noqa: E402
from dure_workshop.training.student import Method, Student  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

IDS = list(range(30, 60))


def taught(reference: ReferenceModel, method: Method) -> Student:
    """A student of which each weight that learns has changed."""
    learner = Student(reference.model, method, rank=4)
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in learner.learning.values():
            each.add_(torch.randn(each.shape, generator=dice) * 0.05)
    return learner


def all_rows(file: Gguf, name: str) -> Floats:
    return rows(file, file.tensors[name], list(range(file.tensors[name].num_rows)))


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_the_file_computes_what_the_student_does(kind: str, method: Method, tmp_path: Path) -> None:
    reference = ReferenceModel.make(kind)
    source = gguf.read(reference.write(tmp_path / "before.gguf"))
    before = reference.logits(IDS)
    learner = taught(reference, method)
    merged(learner, source, tmp_path / "after.gguf")
    wanted = reference.logits(IDS)
    with torch.inference_mode():
        found = load(tmp_path / "after.gguf", "float32").model(torch.tensor([IDS])).logits[0].numpy()
    moved = np.abs(wanted - before).mean()
    # Q8_0 rounds; what was learnt is much more than that.
    assert np.abs(found - wanted).mean() < 0.05 * moved


def test_what_did_not_learn_keeps_its_bytes(tmp_path: Path) -> None:
    reference = ReferenceModel.make("qwen2")
    source = gguf.read(reference.write(tmp_path / "before.gguf"))
    merged(taught(reference, "lora"), source, tmp_path / "after.gguf")
    after = gguf.read(tmp_path / "after.gguf")
    assert after.values == source.values
    same = {
        name
        for name, tensor in source.tensors.items()
        if b"".join(gguf.rows(source, tensor)) == b"".join(gguf.rows(after, after.tensors[name]))
    }
    assert {name for name in source.tensors if name.startswith(("token_embd", "output")) or "norm" in name} <= same
    assert not any(name.endswith(("attn_q.weight", "ffn_down.weight")) for name in same)


def test_matrices_that_changed_leave_their_coarse_grid(tmp_path: Path) -> None:
    reference = ReferenceModel.make("qwen2")
    source = gguf.read(reference.write(tmp_path / "before.gguf"))
    learner = taught(reference, "lora")
    merged(learner, source, tmp_path / "after.gguf")
    after = gguf.read(tmp_path / "after.gguf")
    update = dict(learner.updates())["model.layers.1.mlp.up_proj"]
    name = "blk.1.ffn_up.weight"
    moved = all_rows(after, name) - all_rows(source, name)
    assert after.tensors[name].type is TensorType.Q8_0
    assert np.abs(moved - update.scale * update.b @ update.a).mean() < 0.05 * np.abs(moved).mean()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_each_weight_is_in_its_own_place(kind: str, tmp_path: Path) -> None:
    reference = ReferenceModel.make(kind)
    source = gguf.read(reference.write(tmp_path / "before.gguf"))
    merged(taught(reference, "full"), source, tmp_path / "after.gguf")
    after = gguf.read(tmp_path / "after.gguf")
    wanted = dict(reference.weights())
    assert set(wanted) == set(after.tensors)
    for name, numbers in wanted.items():
        found = all_rows(after, name)
        assert np.allclose(found.reshape(numbers.shape), numbers, atol=np.abs(numbers).max() / 200), name


def test_an_adapter_is_the_update_in_two_parts(tmp_path: Path) -> None:
    reference = ReferenceModel.make("llama")
    source = gguf.read(reference.write(tmp_path / "before.gguf"))
    learner = taught(reference, "lora")
    merged(learner, source, tmp_path / "after.gguf")
    adapter(learner, source, tmp_path / "adapter.gguf")
    found, after = adapter_file.opened(tmp_path / "adapter.gguf", source), gguf.read(tmp_path / "after.gguf")
    # llama.cpp divides alpha by the rank, the length of b's rows.
    rank = found.tensors["blk.0.attn_q.weight.lora_b"].shape[0]
    scale = found.get("adapter.lora.alpha") / rank
    assert (rank, scale) == (4, 2)
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight"):
        a, b = (all_rows(found, f"{name}.{part}") for part in ("lora_a", "lora_b"))
        moved = all_rows(after, name) - all_rows(source, name)
        assert np.abs(scale * b @ a - moved).mean() < 0.1 * np.abs(moved).mean()


def test_an_adapter_is_planned_with_its_model(tmp_path: Path) -> None:
    reference = ReferenceModel.make("qwen2")
    source = gguf.read(reference.write(tmp_path / "model.gguf"))
    path = tmp_path / "adapter.gguf"
    adapter(taught(reference, "lora"), source, path)
    worker = WorkerSettings.read({"DURE_WORKER_ENGINE": "llama"})
    here = Budget(1 << 40)
    (_, without), (_, added) = (
        planned(worker.model_copy(update={"adapter": told}), source, here) for told in ("", str(path))
    )
    assert added.weights - without.weights == adapter_file.num_bytes(gguf.read(path)) > 0
    with pytest.raises(ModelMissing, match=r"nowhere\.gguf is not there: name a file"):
        planned(worker.model_copy(update={"adapter": "nowhere.gguf"}), source, here)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    reference = ReferenceModel.make("qwen2")
    source = gguf.read(reference.write(tmp_path / "model.gguf"))
    adapter(taught(reference, "lora"), source, tmp_path / "adapter.gguf")
    smaller = gguf.read(ReferenceModel.make("qwen2", num_hidden_layers=1).write(tmp_path / "smaller.gguf"))
    with pytest.raises(ModelUnsupported, match=r"changes blk\.1\.\S+, which smaller\.gguf has not: take its own"):
        adapter_file.opened(tmp_path / "adapter.gguf", smaller)
    with pytest.raises(ModelUnsupported, match="is no LoRA adapter"):
        adapter_file.opened(tmp_path / "model.gguf", source)


def test_a_model_whose_matrices_have_other_names_is_refused(tmp_path: Path) -> None:
    reference = ReferenceModel.make("gemma3")
    source = gguf.read(reference.write(tmp_path / "model.gguf"))
    with pytest.raises(ModelUnsupported, match=r"has (no tensor for|a tensor)"):
        merged(taught(reference, "full"), source, tmp_path / "after.gguf")
    assert not (tmp_path / "after.gguf").exists()
