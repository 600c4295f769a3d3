"""What a recipe file says: YAML, with the workshop's own commands as steps and their options as they are typed.

name: ko-small            what the model will be called
about: …
source: MODEL             what it is made of; $source in the steps
teacher: MODEL            $teacher, where there is one
needs:                    files that whoever builds it gives, as --given NAME=PATH
  text: Korean text …
steps:
  - trim: {size: 32000}
  - evaluate: {models: [$source, $model]}

A step takes the model that the one before has made, $model, unless it names another. The name of a command is what
its last step has made: {importance: $calibrate}.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dure.errors import SettingsError

FOLDER = Path(__file__).parent.parent / "recipes"

# What a command makes, by the end of its --out; a folder where nothing is said. None: it makes nothing to go on with.
OUTPUTS = {
    "trim": ".gguf",
    "prune": ".gguf",
    "quantize": ".gguf",
    "calibrate": ".safetensors",
    "answer": ".jsonl",
    "distil": "",
    "adapt": "",
    "evaluate": "",
}
# Those after which $model is another.
MAKE_MODELS = {"trim", "prune", "quantize", "distil", "adapt"}
_POSITIONAL = ("model", "models", "source")

Given = Mapping[str, list[str]]


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
    about: str
    source: str
    teacher: str | None = None
    needs: dict[str, str] = {}
    steps: list[dict[str, dict[str, Any]]] = Field(min_length=1)

    @field_validator("steps")
    @classmethod
    def _are_commands(cls, steps: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
        for number, step in enumerate(steps, 1):
            if len(step) != 1 or next(iter(step)) not in OUTPUTS:
                raise ValueError(f"step {number} is {', '.join(step) or 'empty'}: write one of {', '.join(OUTPUTS)}")
        if MAKE_MODELS.isdisjoint(next(iter(step)) for step in steps):
            raise ValueError(f"no step makes a model: give it one of {', '.join(sorted(MAKE_MODELS))}")
        return steps

    @property
    def commands(self) -> list[tuple[str, dict[str, Any]]]:
        return [next(iter(step.items())) for step in self.steps]


def names() -> list[str]:
    """Of the recipes that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Recipe:
    """One that comes along, or a file. Raises SettingsError."""
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    try:
        told = yaml.safe_load(path.read_text("utf-8"))
    except OSError:
        raise SettingsError(f"{name} is no recipe: name a .yaml file, or one of {', '.join(names())}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return Recipe.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"{path}: {where}: {first['msg']}; `dure workshop build --help` tells its form") from None


def arguments(command: str, options: Mapping[str, Any], known: Given, out: Path) -> list[str]:
    """The command line of a step. Raises SettingsError for a $name that is not known."""
    places = {key: _values(value, known) for key, value in options.items() if key in _POSITIONAL}
    told = [command, *(next(iter(places.values())) if places else known["model"])]
    for key, value in options.items():
        if key not in _POSITIONAL:
            told += _flags(key, value, known)
    return [*told, f"--out={out}"]


def _flags(key: str, value: Any, known: Given) -> Iterator[str]:
    if value is True:
        yield f"--{key}"
    elif value is not False:
        yield from (f"--{key}={each}" for each in _values(value, known))


def _values(value: Any, known: Given) -> list[str]:
    if isinstance(value, list):
        return [found for each in value for found in _values(each, known)]
    text = str(value)
    if not text.startswith("$"):
        return [text]
    if text[1:] not in known:
        there = ", ".join(f"${name}" for name in known)
        raise SettingsError(f"{text} is nothing that is known there: known are {there}")
    return known[text[1:]]
