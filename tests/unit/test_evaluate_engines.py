"""Models judged in an engine that the command line names: how it is named, sized, asked, and what is kept of it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_gguf
from dure.errors import ModelUnsupported, PlanTooLarge, SettingsError
from dure.machine_memory import Memory
from dure.settings import Settings
from dure_worker.engines import Engine
from dure_worker.engines.scripted import ScriptedEngine
from dure_workshop import room
from dure_workshop.evaluate import evaluation, said
from dure_workshop.evaluate.evaluation import Exam, evaluate
from dure_workshop.evaluate.results import FILE, Results
from dure_workshop.evaluate.subject import Subject, parsed
from dure_workshop.generation import questions

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("bitsandbytes", reason="the extra `torch` is not installed")

from dure_workshop.evaluate.hf_logits import HfLogits  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

TEXT = "두레는 hello 123 漢字 か Ж. " * 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReferenceModel, Path]:
    model = ReferenceModel.make("llama", tie_word_embeddings=True)
    return model, model.write(tmp_path_factory.mktemp("reference") / "model.gguf")


def test_an_engine_is_named_with_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed("llama") == ("llama", "")
    assert parsed("transformers:nf4") == ("transformers", "nf4")
    assert parsed("transformers") == ("transformers", "bf16")
    monkeypatch.setenv("DURE_WORKER_WEIGHTS", "int8")
    assert parsed("transformers") == ("transformers", "int8")
    assert parsed("transformers:nf4") == ("transformers", "nf4")
    assert parsed("llama") == ("llama", "")


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("vllm", "there is no engine 'vllm': choose llama, ark, transformers"),
        ("", "there is no engine ''"),
        ("llama:int4", "llama does not hold weights as 'int4': write llama alone"),
        ("transformers:int5", "as 'int5': choose transformers:bf16, .*transformers:nf4"),
        ("transformers:", "as '': choose transformers:bf16"),
    ],
)
def test_an_engine_that_is_none_is_named(engine: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parsed(engine)


def test_weights_that_the_setting_names_for_another_engine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURE_WORKER_WEIGHTS", "int5")
    with pytest.raises(SettingsError, match="DURE_WORKER_WEIGHTS is int5, and the transformers engine has"):
        parsed("transformers")


def test_a_model_is_refused_in_an_engine_that_does_not_run_it(tmp_path: Path) -> None:
    tiny_gguf.write(path := tmp_path / "model.gguf")
    assert Subject.named(str(path), "llama", Settings()).title == "llama"
    path.write_bytes(path.read_bytes().replace(b"qwen2", b"arcee"))
    with pytest.raises(ModelUnsupported, match=r"is arcee, which transformers does not run: choose llama$"):
        Subject.named(str(path), "transformers", Settings())


@pytest.mark.parametrize(("weights", "tolerance"), [("float32", 1e-3), ("bf16", 0.05)])
def test_logits_are_those_of_the_model(made: tuple[ReferenceModel, Path], weights: Any, tolerance: float) -> None:
    model, path = made
    dice = np.random.default_rng(1)
    ids = dice.integers(0, 250, size=300).tolist()
    found = np.concatenate(list(HfLogits(path, weights).blocks(ids, 200)))
    wanted = model.logits(ids)[-200:]
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) < tolerance * np.linalg.norm(wanted)


def test_megabytes_are_those_in_memory(made: tuple[ReferenceModel, Path]) -> None:
    """bitsandbytes keeps a scale for 64 weights (nf4), itself in 8 bits, or for a row (int8)."""
    model, path = made
    linear = sum(each.weight.numel() for name, each in model.model.named_modules() if ".layers." in name
                 and isinstance(each, torch.nn.Linear))  # fmt: skip
    rest = sum(each.numel() for each in model.model.parameters()) - linear
    sizes = {weights: HfLogits(path, weights).num_bytes for weights in ("float32", "bf16", "int8", "nf4")}  # type: ignore[arg-type]
    assert sizes["float32"] == pytest.approx(4 * (linear + rest), rel=0.01)
    assert sizes["bf16"] == pytest.approx(2 * (linear + rest), rel=0.01)
    assert sizes["int8"] == pytest.approx(linear + 2 * rest, rel=0.05)
    # Of so small a matrix the tables of the scales are a part.
    assert linear / 2 + linear / 64 + 2 * rest < sizes["nf4"] < 0.8 * sizes["int8"]


def test_a_model_is_judged_in_transformers(made: tuple[ReferenceModel, Path], tmp_path: Path) -> None:
    whole, few = (Subject("tiny", made[1], "transformers", weights) for weights in ("float32", "nf4"))
    exam = Exam({"village": TEXT}, {}, whole)
    rows = evaluate([whole, few], exam, Results(tmp_path), 2, lambda *_: None)
    assert [row["engine"] for row in rows] == ["transformers float32", "transformers nf4"]
    assert rows[0]["divergence"]["village"]["kl_nats"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["divergence"]["village"]["kl_nats"] > 0
    assert rows[0]["megabytes"] > rows[1]["megabytes"]
    assert rows[0]["bits_per_weight"] == pytest.approx(32, rel=0.01)


def test_what_is_done_is_not_loaded_again(
    made: tuple[ReferenceModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject("tiny", made[1], "transformers", "bf16")
    exam = Exam({"village": TEXT}, {})
    first = evaluate([subject], exam, Results(tmp_path), 2, lambda *_: None)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(evaluation, "logits_of", refuse)
    assert evaluate([subject], exam, Results(tmp_path), 2, lambda *_: None) == first
    with pytest.raises(AssertionError):
        evaluate([Subject("tiny", made[1], "transformers", "nf4")], exam, Results(tmp_path), 2, lambda *_: None)


@pytest.mark.parametrize("engine", [("llama", ""), ("transformers", "nf4"), ("transformers", "float32")])
def test_a_model_that_does_not_fit_is_not_loaded(
    made: tuple[ReferenceModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: tuple[str, str]
) -> None:
    monkeypatch.setattr(room, "usable_memory", lambda: Memory(1 << 30, 1 << 20))
    subject = Subject("tiny", made[1], *engine)
    with pytest.raises(PlanTooLarge, match=r"tiny \(.*\) needs about .* MB of memory, and 1 MB are free: end other"):
        evaluate([subject], Exam({"village": TEXT}, {}), Results(tmp_path), 2, lambda *_: None)
    asked = Exam({}, {}, asked=questions.first_held_out(1))
    Results(tmp_path).add(evaluation._digest("size", subject.identity), {"megabytes": 1})
    with pytest.raises(PlanTooLarge, match=r"tiny \(.*\) with the Korean editor needs about"):
        evaluate([subject], asked, Results(tmp_path), 2, lambda *_: None)


class Asked(ScriptedEngine):
    num_asked = 0

    def generate(self, request: Any) -> Any:
        Asked.num_asked += 1
        if Asked.num_asked == 3:
            raise KeyboardInterrupt
        return super().generate(request)


def test_answers_are_kept_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_gguf.write(path := tmp_path / "model.gguf")
    subject = Subject("tiny", path)
    num_opened = 0

    @contextlib.contextmanager
    def opened(*_: object) -> Iterator[Engine]:
        nonlocal num_opened
        num_opened += 1
        yield Asked()

    monkeypatch.setattr(said, "opened", opened)
    Asked.num_asked = 0
    steps: list[tuple[int, int]] = []

    def ask(number: int, seed: int = 1) -> dict[str, Any]:
        asked = questions.first_held_out(number)
        return said.answers(subject, asked, seed, Results(tmp_path), 2, lambda *step: steps.append(step))

    with pytest.raises(KeyboardInterrupt):
        ask(4)
    assert len(json.loads((tmp_path / FILE).read_text("utf-8"))["entries"]) == 2
    found = ask(4)
    assert Asked.num_asked == 5
    assert steps[-1] == (4, 4)
    assert ask(4) == found
    assert (Asked.num_asked, num_opened) == (5, 2)
    assert [each["question"] for each in found["said"]] == [each.text for each in questions.first_held_out(4)]
    # The scripted engine recites in 합쇼체 until the limit, in circles.
    figures = found["answers"]
    assert (figures["num_answers"], figures["replies_with_loops"], figures["replies_with_foreign_letters"]) == (4, 4, 0)
    assert 0 < figures["register_kept"] < 1
    assert figures["tokens_per_s"] > 0
    ask(5)
    assert Asked.num_asked == 6
    ask(4, seed=2)
    assert Asked.num_asked == 10
