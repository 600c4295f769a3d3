"""`distil` and `adapt` on tiny models: files and figures at the end, gone on from where they stopped, refused early."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("peft", reason="the extra `workshop` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure import gguf  # noqa: E402
from dure.errors import PlanTooLarge, SettingsError  # noqa: E402
from dure.settings import Settings  # noqa: E402
from dure_worker import adapter  # noqa: E402
from dure_workshop.evaluate import said  # noqa: E402
from dure_workshop.evaluate.subject import Subject  # noqa: E402
from dure_workshop.generation.asking import Question  # noqa: E402
from dure_workshop.training import command  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

TEXT = "두레는 hello 123 漢字 か Ж. "


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, num_layers in (("student", 2), ("teacher", 1)):
        Path(name).mkdir()
        ReferenceModel.make("qwen2", num_hidden_layers=num_layers).write(Path(name, "model.gguf"))
    lines = [json.dumps({"text": TEXT * 2 + str(number)}, ensure_ascii=False) for number in range(30)]
    Path("data.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def options(kind: str, **changes: Any) -> argparse.Namespace:
    found = argparse.Namespace(
        command=kind, model="student/model.gguf", data=[Path("data.jsonl")], held_out=[], out=Path("out"),
        method="lora", rank=4, steps=4, batch=4, length=64, rate=1e-3, samples=None, every=2, frugal=False, seed=0,
    )  # fmt: skip
    if kind == "distil":
        found.__dict__ |= {"teacher": "teacher/model.gguf", "teacher_engine": "ark:file", "ce_share": 0.1, "kept": 20}
    else:
        # The tiny vocabulary has no Korean to be judged.
        found.answers = 0
    found.__dict__ |= changes
    return found


def run(kind: str, **changes: Any) -> dict[str, Any]:
    given = options(kind, **changes)
    source = gguf.read(Path(given.model))
    console = Console(quiet=True)
    if kind == "distil":
        return command.run_distil(given, source, Settings(home=Path("home")), console)
    return command.run_adapt(given, source, Settings(home=Path("home")), console)


@pytest.mark.parametrize("kind", ["distil", "adapt"])
def test_it_ends_in_a_model_an_adapter_and_its_curve(kind: str, folder: Path) -> None:
    found = run(kind)
    source = gguf.read(folder / "student/model.gguf")
    made = gguf.read(Path(found["out"]))
    assert made.tensors.keys() == source.tensors.keys()
    adapter.opened(Path(found["adapter"]), source)
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert (found["steps"], found["samples"], found["samples_held_out"]) == (4, 27, 3)
    assert found["ce"][1] < found["ce"][0]
    assert (found["kl"][1] < found["kl"][0]) if kind == "distil" else found["kl"] == [0, 0]
    line = json.loads(Path("out/manifest.jsonl").read_text("utf-8"))
    assert (line["command"], line["seed"], line["options"]["rank"]) == (kind, 0, "4")
    assert {Path(each["path"]).name for each in line["inputs"]} == {"model.gguf", "data.jsonl"}


def test_all_weights_can_learn_and_there_is_no_adapter_then(folder: Path) -> None:
    found = run("distil", method="full")
    assert "adapter" not in found
    before, after = (gguf.read(path) for path in (folder / "student/model.gguf", Path(found["out"])))
    assert b"".join(gguf.rows(before, before.tensors["output_norm.weight"])) != b"".join(
        gguf.rows(after, after.tensors["output_norm.weight"])
    )


def test_what_was_done_is_not_done_again(folder: Path) -> None:
    first = run("distil")
    written = {path: path.stat().st_mtime_ns for path in Path("out/teacher").rglob("*.safetensors")}
    assert len(written) == 2
    again = run("distil")
    assert {path: path.stat().st_mtime_ns for path in Path("out/teacher").rglob("*.safetensors")} == written
    assert (again["kl"], again["tokens"]) == (first["kl"], first["tokens"])


def test_what_is_held_out_may_be_given(folder: Path) -> None:
    Path("other.txt").write_text(TEXT * 20, "utf-8")
    found = run("adapt", held_out=[Path("other.txt")], samples=8)
    assert found["samples"] == 8
    assert found["samples_held_out"] > 1


def test_a_teacher_of_another_vocabulary_is_refused(folder: Path) -> None:
    path = Path("teacher/model.gguf")
    raw = path.read_bytes()
    token = gguf.read(path).get("tokenizer.ggml.tokens")[-1].encode()
    path.write_bytes(raw.replace(token, token[:-1] + b"#", 1))
    with pytest.raises(SettingsError, match="different vocabularies: take models of one family"):
        run("distil")
    assert not list(Path("out").rglob("*.safetensors"))


def test_answers_are_judged_before_and_after(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []

    def answers(subject: Subject, questions: tuple[Question, ...], seed: int, *_: Any) -> dict[str, Any]:
        asked.append((str(subject.path), len(questions), seed))
        return {"answers": {"errors_per_100_sentences": float(len(asked))}, "said": []}

    monkeypatch.setattr(said, "answers", answers)
    found = run("adapt", answers=3, seed=5)
    assert asked == [("student/model.gguf", 3, 5), ("out/model.gguf", 3, 5)]
    assert found["answers"] == {
        "before": {"errors_per_100_sentences": 1.0},
        "after": {"errors_per_100_sentences": 2.0},
    }
    with pytest.raises(SettingsError, match=r"--answers 1000: there are \d+ questions"):
        run("adapt", answers=1000)


def test_too_little_data_is_said_at_once(folder: Path) -> None:
    Path("data.jsonl").write_text(json.dumps({"text": TEXT}), "utf-8")
    with pytest.raises(SettingsError, match="1 samples are too few to hold some out: give 10 at least"):
        run("distil")


def test_too_little_memory_is_said_before_the_teacher_is_asked(folder: Path) -> None:
    with pytest.raises(PlanTooLarge, match=r"learning needs about .* choose a smaller --batch or --length"):
        run("distil", batch=1 << 30)
    assert not Path("out").exists()


def test_too_little_disk_is_said_before_the_teacher_is_asked(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"out needs about .* MB of disk"):
        run("distil", kept=1 << 40)
    assert not Path("out").exists()
