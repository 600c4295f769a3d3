"""Several models on the same texts and questions; what is done is kept, so that a run that was stopped goes on.

evaluation.json in the folder of the results holds one entry a step: a text, a task or a comparison by one model and
engine. An entry counts again only for the same bytes of weights, text and questions.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dure import gguf
from dure.errors import ModelCorrupt, SettingsError
from dure.one_step import one_step
from dure_workshop.evaluate import choices
from dure_workshop.evaluate.choices import Question
from dure_workshop.evaluate.likelihood import divergence, text_perplexity
from dure_workshop.evaluate.logits import LlamaLogits, Logits
from dure_workshop.results_folder import prepared

ENGINES = ("llama", "ark")
FILE = "evaluation.json"
# Raised when a step's figures change their meaning.
_SCHEMA = 1

Kind = Literal["text", "task", "divergence"]
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Subject:
    """A model that is judged, in the engine that would serve it.

    weights    how ark holds them, by DURE_WORKER_WEIGHTS
    """

    name: str
    path: Path
    engine: str = "llama"
    weights: str = "int5"

    @property
    def identity(self) -> str:
        """Of its bytes: a file that was written anew is another."""
        status = self.path.stat()
        return f"{self.title} {self.path.resolve()} {status.st_size} {status.st_mtime_ns}"

    @property
    def title(self) -> str:
        """Of the engine."""
        return f"{self.engine} {self.weights}" if self.engine == "ark" else self.engine


@dataclass(frozen=True)
class Exam:
    """What every subject is put through.

    texts        name → text
    questions    task → questions
    reference    whose distribution the others are compared with, over the texts
    """

    texts: dict[str, str]
    questions: dict[str, list[Question]]
    reference: Subject | None = None

    def steps(self) -> Iterator[tuple[Kind, str]]:
        for name in self.texts:
            yield "text", name
        if self.reference is not None:
            for name in self.texts:
                yield "divergence", name
        for name in self.questions:
            yield "task", name


class Results:
    """The folder's entries, written after each step. Raises SettingsError for a file that is of another release."""

    def __init__(self, folder: Path) -> None:
        self._path = prepared(folder) / FILE
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            found = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be read ({error.strerror}): choose another --out") from None
        except ValueError:
            raise SettingsError(f"{self._path} is damaged: delete it, or choose another --out") from None
        if found.get("schema") != _SCHEMA:
            raise SettingsError(f"{self._path} is of another release of dure: delete it, or choose another --out")
        self._entries = found["entries"]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._entries.get(key)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        self._entries[key] = entry
        told = json.dumps({"schema": _SCHEMA, "entries": self._entries}, ensure_ascii=False, indent=1)
        with one_step(self._path) as unfinished:
            unfinished.write_text(told, "utf-8")


def evaluate(
    subjects: list[Subject], exam: Exam, results: Results, num_threads: int, on_step: OnStep
) -> list[dict[str, Any]]:
    """One row a subject: model, engine, megabytes, bits_per_weight, and text, divergence, task by name.

    on_step(what, parts done, of all). Raises SettingsError, ModelError, EngineError.
    """
    return [_row(subject, exam, results, num_threads, on_step) for subject in subjects]


def _row(subject: Subject, exam: Exam, results: Results, num_threads: int, on_step: OnStep) -> dict[str, Any]:
    row: dict[str, Any] = {"model": subject.name, "engine": subject.title}
    with ExitStack() as opened:
        found = _Lazy(lambda: opened.enter_context(_logits(subject, num_threads)))
        other = _Lazy(lambda: opened.enter_context(_logits(_required(exam.reference), num_threads)))
        for kind, name in exam.steps():
            key = _key(subject, exam, kind, name)
            entry = results.get(key)
            if entry is None:
                on_part = partial(on_step, f"{subject.name} ({subject.title}), {name}")
                entry = _step(exam, kind, name, found, other, on_part)
                results.add(key, entry)
            row.setdefault(kind, {})[name] = entry
    return row | _size(subject)


class _Lazy:
    """Loaded where a step is missing only, and then once."""

    def __init__(self, make: Callable[[], Logits]) -> None:
        self._make = make
        self._made: Logits | None = None

    def __call__(self) -> Logits:
        self._made = self._made or self._make()
        return self._made


def _required(reference: Subject | None) -> Subject:
    if reference is None:
        raise SettingsError("there is no reference: name one with --reference")
    return reference


def _step(
    exam: Exam, kind: Kind, name: str, found: _Lazy, other: _Lazy, on_part: Callable[[int, int], None]
) -> dict[str, Any]:
    if kind == "text":
        told = text_perplexity(found(), exam.texts[name], on_part)
        return asdict(told) | {"per_token": told.per_token, "bits_per_byte": told.bits_per_byte}
    if kind == "divergence":
        return asdict(divergence(found(), other(), exam.texts[name], on_part))
    score = choices.score(found(), name, exam.questions[name], on_part)
    return asdict(score) | {"error": score.error}


def _key(subject: Subject, exam: Exam, kind: Kind, name: str) -> str:
    asked: list[Any] = [kind, name, subject.identity]
    asked.append(exam.questions[name] if kind == "task" else exam.texts[name])
    if kind == "divergence":
        asked.append(_required(exam.reference).identity)
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


@contextmanager
def _logits(subject: Subject, num_threads: int) -> Iterator[Logits]:
    if subject.engine == "llama":
        with LlamaLogits(subject.path, num_threads) as logits:
            yield logits
        return
    # torch and the kernels are an extra, and loading them takes seconds.
    import torch  # noqa: PLC0415

    from dure_worker.engines.ark.loading import load  # noqa: PLC0415
    from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415
    from dure_workshop.evaluate.ark_logits import ArkLogits  # noqa: PLC0415

    torch.set_num_threads(num_threads)
    source = gguf.read(subject.path)
    yield ArkLogits(source, load(source, RECIPES[subject.weights]))


def _size(subject: Subject) -> dict[str, Any]:
    """Of the weights as the engine holds them; bits over all of them, vocabulary and norms included."""
    source = gguf.read(subject.path)
    num_weights = sum(tensor.num_weights for tensor in source.tensors.values())
    path = subject.path
    if subject.engine == "ark":
        from dure_worker.engines.ark.loading import packed  # noqa: PLC0415 - needs torch
        from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415

        path = packed(subject.path, RECIPES[subject.weights])
        num_bytes = path.stat().st_size
    else:
        num_bytes = sum(tensor.num_bytes for tensor in source.tensors.values())
    if not num_weights:
        raise ModelCorrupt(f"{subject.path} has no weights: take an intact file")
    return {
        "megabytes": path.stat().st_size / 1e6,
        "num_weights": num_weights,
        "bits_per_weight": 8 * num_bytes / num_weights,
    }
