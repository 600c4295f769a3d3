"""All engines of one model, in turn."""

import argparse
import json
from pathlib import Path

from rich.console import Console

from benchmarks.comparison import table
from benchmarks.comparison.children import ChildFailed, own_link, run
from benchmarks.comparison.contestants import Contestant
from benchmarks.comparison.table import Measured
from dure import catalog
from dure.catalog import CatalogModel
from dure.settings import Settings
from dure_workshop.fetch import Fetcher

# Packing weights for the first time, and an engine that is twenty times slower than the others.
_LIMITS_S = {"start": 900.0, "speed": 1800.0, "memory": 2000.0, "limits": 600.0}
# What is said to be missing where a process failed.
_LOST = {"start": "all", "speed": "a round", "memory": "peak"}


class Contest:
    def __init__(self, model: CatalogModel, wanted: list[Contestant], options: argparse.Namespace) -> None:
        self._options = options
        self._wanted = wanted
        self._paths: dict[str, Path] = {}
        self._trimmed, self._whole = _fetched(model)
        self.found = Measured(model.name, wanted[0].name)

    def measure(self) -> Measured:
        for one in self._wanted:
            self._paths[one.name] = own_link(self._weights(one), self.folder, one.name)
            self._in_child(one, "start")
        for number in range(self._options.rounds):
            for one in self._wanted:
                self._in_child(one, "speed", number)
        if not self._options.quick:
            for one in self._wanted:
                self._in_child(one, "memory")
        self._limits()
        return self.found

    @property
    def folder(self) -> Path:
        """Beside the models, where the weights can be linked: packing them takes minutes, and they are kept."""
        return self._trimmed.parent.with_name(".engines") / self._trimmed.parent.name

    def _weights(self, one: Contestant) -> Path:
        return self._trimmed if one.is_trimmed else self._whole

    def _in_child(self, one: Contestant, what: str, number: int = 0) -> None:
        """An engine that does not start is left out; of one that fails later, only that process is missing."""
        if one.name not in self._paths:
            return
        arguments = [what, one.name, str(self._paths[one.name]), f"--round={number}"]
        arguments += ["--quick"] if self._options.quick else []
        if self._options.llama_server:
            arguments.append(f"--llama-server={self._options.llama_server}")
        try:
            said = run("child", arguments, self._options.threads, _LIMITS_S[what])
        except ChildFailed as reason:
            self._miss(one, what, reason)
            return
        print(f"  {what} {number + 1}  {one.name}  {_short(said['figures'])}", flush=True)
        self.found.add(one.name, said["figures"], said["missing"], number)

    def _miss(self, one: Contestant, what: str, reason: ChildFailed) -> None:
        self.found.missing[one.name, _LOST[what]] = str(reason)
        print(f"  not measured: {one.name}, {_LOST[what]}: {reason}", flush=True)
        if what == "start":
            del self._paths[one.name]

    def _limits(self) -> None:
        told = json.dumps([(name, str(path)) for name, path in self._paths.items()])
        try:
            self.found.limits = run("limits", [], self._options.threads, _LIMITS_S["limits"], told)
        except ChildFailed as reason:
            self.found.missing["the machine", "limits"] = str(reason)


def _fetched(model: CatalogModel) -> tuple[Path, Path]:
    """The trimmed file, and the one that it was made from."""
    assert model.made_by is not None
    fetcher = Fetcher(Settings.read(), Console(stderr=True))
    return fetcher.fetch(model), fetcher.fetch(catalog.find(model.made_by.base))


def _short(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {table.METRICS[name].form.format(value)}" for name, value in figures.items())
