"""What a LoRA adapter holds is added by the runtime that serves it, as it would be in a merged file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dure import gguf
from dure.errors import EngineError

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("peft", reason="the extra `workshop` is not installed")

import torch

from dure_worker.engines.hf.loading import load
from dure_workshop.dequantize import Floats
from dure_workshop.hidden_states import HiddenStates
from dure_workshop.training.export import adapter, merged
from dure_workshop.training.student import Student

pytestmark = pytest.mark.weights

MODEL = "qwen2.5-coder-0.5b-korean"
IDS = list(range(1000, 1040))


def states(path: Path, added: Path | None = None) -> Floats:
    with HiddenStates(path, 64, 2, added) as runtime:
        return runtime.of(IDS)


def test_the_runtime_adds_what_was_learnt(fetched: Callable[[str], Path], tmp_path: Path) -> None:
    source = gguf.read(fetched(MODEL))
    learner = Student(load(source.path, "bf16").model, "lora", rank=4)
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in learner.learning.values():
            each.add_(torch.randn(each.shape, generator=dice) * 0.01)
    merged(learner, source, tmp_path / "merged.gguf")
    adapter(learner, source, tmp_path / "adapter.gguf")
    before, wanted = states(source.path), states(tmp_path / "merged.gguf")
    found = states(source.path, tmp_path / "adapter.gguf")
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(wanted - before).mean()
    (tmp_path / "broken.gguf").write_bytes((tmp_path / "adapter.gguf").read_bytes()[:5000])
    with pytest.raises(EngineError, match="cannot be loaded"):
        states(source.path, tmp_path / "broken.gguf")
