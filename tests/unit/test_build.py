"""A recipe is checked whole before its first step, goes on where it was stopped, and ends in a model with its proof."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from dure.errors import SettingsError
from dure.settings import Settings
from dure_workshop.building import command, recipe
from dure_workshop.building.command import RECORD, StepFailed
from dure_workshop.parser import parser

RECIPE: dict[str, Any] = {
    "name": "own",
    "about": "for a test",
    "source": "first.gguf",
    "teacher": "second.gguf",
    "needs": {"text": "some text"},
    "steps": [
        {"trim": {"source": "$source", "size": 300}},
        {"calibrate": {"text": "$text"}},
        {"distil": {"teacher": "$teacher", "data": ["$text", "more.txt"], "frugal": True, "keep-all": False}},
        {"quantize": {"importance": "$calibrate", "bits": 4.5}},
        {"evaluate": {"models": ["$source", "$model"], "reference": "$trim"}},
    ],
}


class Workshop:
    """Instead of the commands: notes what was asked, writes what each would, and fails where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.fails_at = ""
        monkeypatch.setattr(command, "_run", self.run)

    def run(self, arguments: list[str], title: str, console: Console) -> dict[str, Any]:
        self.asked.append(arguments)
        name = arguments[0]
        if name == self.fails_at:
            raise StepFailed(title)
        if name == "add":
            return {"path": arguments[1], "bytes": 1}
        if name == "fetch":
            return {}
        out = Path(next(each for each in arguments if each.startswith("--out=")).removeprefix("--out="))
        if not recipe.OUTPUTS[name]:
            out.mkdir(exist_ok=True)
            out = out / "model.gguf"
        assert not out.exists(), "made twice"
        out.write_text(name)
        return {"out": str(out)} | ({"table": str(out)} if name == "evaluate" else {})

    @property
    def commands(self) -> list[str]:
        return [arguments[0] for arguments in self.asked]


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workshop:
    monkeypatch.chdir(tmp_path)
    for name in ("first.gguf", "second.gguf", "text.jsonl"):
        Path(name).write_text(name)
    return Workshop(monkeypatch)


def build(told: dict[str, Any] = RECIPE, given: tuple[str, ...] = ("text=text.jsonl",), **changes: Any) -> Any:
    Path("own.yaml").write_text(yaml.safe_dump(told, sort_keys=False), "utf-8")
    options = argparse.Namespace(recipe="own.yaml", given=list(given), out=None, dry_run=False)
    options.__dict__ |= changes
    settings = Settings(home=Path("home"))
    return command.run(options, settings, Console(quiet=True), lambda arguments: None)


def test_each_step_takes_what_the_ones_before_made(workshop: Workshop) -> None:
    found = build()
    text = str(Path("text.jsonl").resolve())
    assert workshop.asked == [
        ["trim", "first.gguf", "--size=300", "--out=own/01-trim.gguf"],
        ["calibrate", "own/01-trim.gguf", f"--text={text}", "--out=own/02-calibrate.safetensors"],
        ["distil", "own/01-trim.gguf", "--teacher=second.gguf", f"--data={text}", "--data=more.txt", "--frugal",
         "--out=own/03-distil"],
        ["quantize", "own/03-distil/model.gguf", "--importance=own/02-calibrate.safetensors", "--bits=4.5",
         "--out=own/04-quantize.gguf"],
        ["evaluate", "first.gguf", "own/04-quantize.gguf", "--reference=own/01-trim.gguf", "--out=own/05-evaluate"],
        ["add", "own/04-quantize.gguf", "--name=own"],
    ]  # fmt: skip
    assert (found["name"], found["path"]) == ("own", "own/04-quantize.gguf")
    # The proof lies beside the model that is served.
    assert Path("own/proof.md").read_text() == "evaluate"


def test_what_is_done_is_not_done_again(workshop: Workshop) -> None:
    workshop.fails_at = "quantize"
    with pytest.raises(StepFailed):
        build()
    workshop.fails_at, workshop.asked = "", []
    build()
    assert workshop.commands == ["quantize", "evaluate", "add"]


def test_a_step_that_changed_is_done_again_and_all_behind_it(workshop: Workshop) -> None:
    build()
    workshop.asked = []
    changed = json.loads(json.dumps(RECIPE))
    changed["steps"][1]["calibrate"] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_clear", lambda step: [each.unlink() for each in step.out.glob("*")]
                      if step.out.is_dir() else step.out.unlink(missing_ok=True))  # fmt: skip
        build(changed)
    assert workshop.commands == ["calibrate", "distil", "quantize", "evaluate", "add"]


def test_what_was_deleted_is_made_again(workshop: Workshop) -> None:
    build()
    workshop.asked = []
    Path("own/04-quantize.gguf").unlink()
    Path("own/05-evaluate/model.gguf").unlink()
    build()
    assert workshop.commands == ["quantize", "evaluate", "add"]


def test_a_file_that_no_record_tells_of_is_made_again(workshop: Workshop) -> None:
    Path("own").mkdir()
    Path("own/01-trim.gguf").write_text("torn")
    build()
    assert Path("own/01-trim.gguf").read_text() == "trim"


def test_a_dry_run_tells_all_and_does_nothing(workshop: Workshop) -> None:
    found = build(given=(), dry_run=True)
    assert workshop.asked == []
    assert not Path("own").exists()
    assert found["needs"] == {"text": {"about": "some text", "given": ["<text>"]}}
    assert [step["is_done"] for step in found["steps"]] == [False] * 5
    assert "'--text=<text>'" in found["steps"][1]["command"]
    build()
    assert all(step["is_done"] for step in build(dry_run=True)["steps"])


def test_a_model_that_is_not_here_is_fetched_first(workshop: Workshop) -> None:
    build(RECIPE | {"source": "qwen2.5-coder-0.5b-korean"})
    assert workshop.asked[0] == ["fetch", "qwen2.5-coder-0.5b-korean"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "두레"}, "name: String should match"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"steps": []}, "steps: List should have at least 1 item"),
        ({"steps": [{"shrink": {}}]}, "step 1 is shrink: write one of trim, "),
        ({"steps": [{"trim": {}, "prune": {}}]}, "step 1 is trim, prune: write one of"),
        ({"steps": [{"evaluate": {}}]}, "no step makes a model: give it one of adapt, distil, "),
        ({"steps": [{"trim": {"text": "$txt"}}]}, r"\$txt is nothing that is known there: known are \$text, "),
        ({"steps": [{"trim": {"text": "$quantize"}}, {"quantize": {}}]}, r"\$quantize is nothing that is known there"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_before_its_first_step(
    workshop: Workshop, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        build(RECIPE | change)
    assert workshop.asked == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), r"own needs more: --given text=PATH \(some text\)"),
        (("text",), "--given text: own needs text=PATH"),
        (("words=text.jsonl",), "own needs text=PATH"),
        (("text=nowhere.jsonl",), "nowhere.jsonl is not there: name a file"),
    ],
)
def test_what_it_needs_is_asked_for_at_once(workshop: Workshop, given: tuple[str, ...], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        build(given=given)
    assert workshop.asked == []


@pytest.mark.parametrize("name", recipe.names())
def test_those_that_come_along_are_whole(workshop: Workshop, name: str) -> None:
    options = argparse.Namespace(recipe=name, given=[], out=None, dry_run=True)
    found = command.run(options, Settings(home=Path("home")), Console(quiet=True), parser().parse_args)
    assert found["name"] == name
    assert found["fetch"]
    assert found["steps"][-1]["command"].startswith("evaluate ")


def test_an_option_that_a_step_does_not_have_is_refused_at_once(workshop: Workshop) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(RECIPE | {"steps": [{"prune": {"share": 0.5}}]}), "utf-8")
    options = argparse.Namespace(recipe="own.yaml", given=["text=text.jsonl"], out=None, dry_run=False)
    with pytest.raises(SettingsError, match=r"own\.yaml, step 1: unrecognized arguments: --share=0\.5"):
        command.run(options, Settings(home=Path("home")), Console(quiet=True), parser().parse_args)
    assert workshop.asked == []


def test_no_recipe_or_no_yaml(workshop: Workshop) -> None:
    with pytest.raises(SettingsError, match=r"nowhere is no recipe: name a .yaml file, or one of ko-"):
        build(recipe="nowhere")
    Path("torn.yaml").write_text("name: [")
    with pytest.raises(SettingsError, match=r"torn\.yaml is no YAML"):
        build(recipe="torn.yaml")


def test_a_damaged_record_is_refused(workshop: Workshop) -> None:
    Path("own").mkdir()
    Path("own", RECORD).write_text("[")
    with pytest.raises(SettingsError, match="delete it, or choose another --out"):
        build()
