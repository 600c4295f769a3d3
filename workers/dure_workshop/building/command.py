"""`python -m dure_workshop build`: a recipe step by step, each in a process of its own; what is done stays done."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dure import artifact, model_names
from dure.errors import DureError, SettingsError
from dure.one_step import one_step
from dure.settings import Settings
from dure_workshop.building import recipe as recipes
from dure_workshop.building.recipe import MAKE_MODELS, OUTPUTS, Recipe
from dure_workshop.results_folder import prepared

RECORD, PROOF = "steps.json", "proof.md"
_PROGRAM = [sys.executable, "-m", "dure_workshop"]

Check = Callable[[list[str]], object]


class StepFailed(DureError):
    """A step of a recipe ended with an error, which it has told itself."""


@dataclass(frozen=True)
class Step:
    """Of a recipe, with its command line."""

    command: str
    arguments: list[str]
    out: Path


def run(options: argparse.Namespace, settings: Settings, console: Console, check: Check) -> dict[str, Any]:
    """check: of a step's command line. Raises SettingsError, ModelError, StepFailed."""
    recipe = recipes.read(options.recipe)
    given = _given(options.given, recipe, is_needed=not options.dry_run)
    folder = options.out or Path(recipe.name)
    steps = list(_steps(recipe, given, folder))
    for number, step in enumerate(steps, 1):
        try:
            check(step.arguments)
        except SettingsError as error:
            raise SettingsError(f"{options.recipe}, step {number}: {error}") from None
    missing = [name for name in (recipe.source, recipe.teacher) if name and _is_missing(name, settings)]
    record = _Record(folder / RECORD)
    if options.dry_run:
        return _planned(recipe, missing, steps, record, given)
    prepared(folder)
    for name in missing:
        _run(["fetch", name], f"fetch {name}", console)
    reports = []
    for number, step in enumerate(steps, 1):
        title = f"{number}/{len(steps)} {step.command}"
        found = record.get(number - 1, step)
        if found is None:
            _clear(step)
            found = _run(step.arguments, title, console)
            record.add(number - 1, step, found)
        reports.append({"command": step.command, **found})
    made = [report["out"] for step, report in zip(steps, reports, strict=True) if step.command in MAKE_MODELS][-1]
    added = _run(["add", made, f"--name={recipe.name}"], f"add {recipe.name}", console)
    proof = next((each["table"] for each in reversed(reports) if "table" in each), None)
    if proof is not None:
        shutil.copyfile(proof, Path(added["path"]).with_name(PROOF))
    return {"name": recipe.name, "path": added["path"], "bytes": added["bytes"], "proof": proof, "steps": reports}


def _given(told: list[str], recipe: Recipe, *, is_needed: bool) -> dict[str, list[str]]:
    """By name: files that whoever builds gives; where a plan alone is wanted, a mark for those that are missing."""
    found: dict[str, list[str]] = {}
    for each in told:
        name, mark, path = each.partition("=")
        if not mark or name not in recipe.needs:
            known = ", ".join(f"{need}=PATH" for need in recipe.needs) or "nothing"
            raise SettingsError(f"--given {each}: {recipe.name} needs {known}")
        if not Path(path).is_file():
            raise SettingsError(f"--given {each}: {path} is not there: name a file")
        found.setdefault(name, []).append(str(Path(path).resolve()))
    missing = {name: about for name, about in recipe.needs.items() if name not in found}
    if missing and is_needed:
        told_needs = "; ".join(f"--given {name}=PATH ({about})" for name, about in missing.items())
        raise SettingsError(f"{recipe.name} needs more: {told_needs}")
    return found | {name: [f"<{name}>"] for name in missing}


def _steps(recipe: Recipe, given: dict[str, list[str]], folder: Path) -> Iterator[Step]:
    known = {**given, "source": [recipe.source], "model": [recipe.source]}
    if recipe.teacher:
        known["teacher"] = [recipe.teacher]
    for number, (command, options) in enumerate(recipe.commands, 1):
        out = folder / f"{number:02}-{command}{OUTPUTS[command]}"
        yield Step(command, recipes.arguments(command, options, known, out), out)
        made = out if OUTPUTS[command] else out / "model.gguf"
        known[command] = [str(made)]
        if command in MAKE_MODELS:
            known["model"] = [str(made)]


def _is_missing(name: str, settings: Settings) -> bool:
    if model_names.is_path(name):
        return False
    try:
        artifact.require(name, settings.models_dir)
    except DureError:
        return True
    return False


def _clear(step: Step) -> None:
    """A file that no record tells of; a folder is gone on from."""
    if OUTPUTS[step.command]:
        step.out.unlink(missing_ok=True)


def _run(arguments: list[str], title: str, console: Console) -> dict[str, Any]:
    """Its progress and errors go to this terminal."""
    console.print(f"[bold]{title}[/bold]  {shlex.join(arguments)}", soft_wrap=True, highlight=False)
    done = subprocess.run([*_PROGRAM, *arguments], stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        raise StepFailed(f"{title} failed, see above; the same command goes on from there")
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found


def _planned(
    recipe: Recipe, missing: list[str], steps: list[Step], record: "_Record", given: dict[str, list[str]]
) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "about": recipe.about.strip(),
        "needs": {name: {"about": about, "given": given[name]} for name, about in recipe.needs.items()},
        "fetch": missing,
        "steps": [
            {"command": shlex.join(step.arguments), "is_done": record.get(number, step) is not None}
            for number, step in enumerate(steps)
        ],
    }


class _Record:
    """Which steps are done, and what they said; one that changes makes those behind it undone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._steps: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            self._steps = []
        except (OSError, ValueError):
            raise SettingsError(f"{path} cannot be read: delete it, or choose another --out") from None

    def get(self, number: int, step: Step) -> dict[str, Any] | None:
        if number >= len(self._steps) or self._steps[number]["arguments"] != step.arguments or not step.out.exists():
            return None
        report: dict[str, Any] = self._steps[number]["report"]
        return report

    def add(self, number: int, step: Step, report: dict[str, Any]) -> None:
        self._steps = [*self._steps[:number], {"arguments": step.arguments, "report": report}]
        with one_step(self._path) as unfinished:
            unfinished.write_text(json.dumps(self._steps, ensure_ascii=False, indent=1), "utf-8")
