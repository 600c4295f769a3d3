"""A model in the engine that would serve it, by the names that a command line has for both."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dure import artifact, engines, gguf, memory_plan, model_names
from dure.errors import ModelUnsupported, SettingsError
from dure.memory_plan import Load
from dure.settings import Settings
from dure_worker.choice import rules
from dure_worker.settings import WorkerSettings

ENGINES = ("llama", "ark", "transformers")


@dataclass(frozen=True)
class Subject:
    """A model that is judged, in the engine that would serve it.

    path       a .gguf file
    weights    how ark and transformers hold them, by DURE_WORKER_WEIGHTS
    """

    name: str
    path: Path
    engine: str = "llama"
    weights: str = ""

    @classmethod
    def named(cls, name: str, engine: str, settings: Settings) -> "Subject":
        """engine: `ark`, or with the weights it shall hold `ark:int4`; without, those of DURE_WORKER_WEIGHTS.

        Raises SettingsError, EngineMissing, ModelUnknown, ModelMissing, ModelUnsupported.
        """
        kind, weights = parsed(engine)
        path = model_names.weights_of(name, settings.models_dir)
        if path.is_dir():
            path = path / artifact.WEIGHTS
        if not path.is_file():
            raise SettingsError(f"{name} holds no {artifact.WEIGHTS}: `dure model add` makes one of a checkpoint")
        architecture = gguf.read(path).architecture
        if kind not in (known := engines.that_run(architecture)):
            raise ModelUnsupported(f"{name} is {architecture}, which {kind} does not run: choose {', '.join(known)}")
        return cls(Path(name).stem if model_names.is_path(name) else name, path, kind, weights)

    @property
    def identity(self) -> str:
        """Of its bytes: a file that was written anew is another."""
        status = self.path.stat()
        return f"{self.title} {self.path.resolve()} {status.st_size} {status.st_mtime_ns}"

    @property
    def title(self) -> str:
        """Of the engine."""
        return f"{self.engine} {self.weights}".strip()

    def memory(self, num_slots: int, context: int, *, has_editor: bool) -> int:
        """Bytes that a process takes to serve it so, at its peak. Raises ModelCorrupt."""
        weights, shape = memory_plan.of_gguf(gguf.read(self.path), self.engine, self.weights)
        load = Load(num_slots, context, 0, has_editor=has_editor, engine=self.engine, weights=self.weights)
        return memory_plan.plan(weights, shape, load).rss


def parsed(engine: str) -> tuple[str, str]:
    """`engine` or `engine:weights` as (engine, weights). Raises SettingsError, EngineMissing."""
    name, colon, wanted = engine.partition(":")
    if name not in ENGINES:
        raise SettingsError(f"--engine {engine}: there is no engine {name!r}: choose {_choices(ENGINES)}")
    rules.require_packages(name)
    known = engines.WEIGHTS.get(name, ())
    if not colon:
        return name, engines.weights_of(name, WorkerSettings.read().weights) if known else ""
    if wanted not in known:
        remedy = f"choose {_choices(f'{name}:{each}' for each in known)}" if known else f"write {name} alone"
        raise SettingsError(f"--engine {engine}: {name} does not hold weights as {wanted!r}: {remedy}")
    return name, wanted


def _choices(names: Iterable[str]) -> str:
    return ", ".join(names)
