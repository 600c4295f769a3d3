"""Several models on the same texts and questions; what is done is kept, so that a run that was stopped goes on.

evaluation.json in the folder of the results holds one entry a step: a text, a task, a comparison or an answer by one
model and engine. An entry counts again only for the same bytes of weights, text and questions.
"""

import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from dure import gguf
from dure.errors import ModelCorrupt, SettingsError
from dure.gguf import Gguf
from dure_workshop.evaluate import choices, said
from dure_workshop.evaluate.choices import Question
from dure_workshop.evaluate.likelihood import divergence, text_perplexity
from dure_workshop.evaluate.logits import LONGEST, ROWS, LlamaLogits, Logits
from dure_workshop.evaluate.results import Results
from dure_workshop.evaluate.subject import Subject
from dure_workshop.generation import asking
from dure_workshop.room import require_memory

if TYPE_CHECKING:
    from dure_workshop.evaluate.hf_logits import HfLogits  # needs torch

__all__ = ["Exam", "Results", "Subject", "evaluate", "logits_of"]

_F32 = 4

Kind = Literal["text", "task", "divergence"]
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exam:
    """What every subject is put through.

    texts        name → text
    questions    task → questions
    reference    whose distribution the others are compared with, over the texts
    asked        what is answered in the subject's own words, for the Korean editor to judge
    seed         of the answers' dice
    """

    texts: dict[str, str]
    questions: dict[str, list[Question]]
    reference: Subject | None = None
    asked: tuple[asking.Question, ...] = ()
    seed: int = 1

    def steps(self) -> Iterator[tuple[Kind, str]]:
        for name in self.texts:
            yield "text", name
        if self.reference is not None:
            for name in self.texts:
                yield "divergence", name
        for name in self.questions:
            yield "task", name


def evaluate(
    subjects: list[Subject], exam: Exam, results: Results, num_threads: int, on_step: OnStep
) -> list[dict[str, Any]]:
    """One row a subject: model, engine, megabytes, num_weights, bits_per_weight; text, divergence, task by name; where
    something was asked, answers and said (see `said.answers`).

    on_step(what, parts done, of all). Raises SettingsError, ModelError, EngineError.
    """
    return [_row(subject, exam, results, num_threads, on_step) for subject in subjects]


def _row(subject: Subject, exam: Exam, results: Results, num_threads: int, on_step: OnStep) -> dict[str, Any]:
    title = f"{subject.name} ({subject.title})"
    row = {"model": subject.name, "engine": subject.title}
    row |= _by_likelihood(subject, exam, results, num_threads, lambda name, *part: on_step(f"{title}, {name}", *part))
    if exam.asked:
        gc.collect()  # two engines at once may be too much; libraries' models hold each other in circles
        on_answer = partial(on_step, f"{title}, answers")
        row |= said.answers(subject, exam.asked, exam.seed, results, num_threads, on_answer)
    return row


def _by_likelihood(subject: Subject, exam: Exam, results: Results, num_threads: int, on_step: OnStep) -> dict[str, Any]:
    row: dict[str, Any] = {}
    with ExitStack() as opened:
        found = _Lazy(lambda: opened.enter_context(logits_of(subject, num_threads)))
        other = _Lazy(lambda: opened.enter_context(logits_of(_required(exam.reference), num_threads)))
        for kind, name in exam.steps():
            make = partial(_step, exam, kind, name, found, other, partial(on_step, name))
            row.setdefault(kind, {})[name] = results.kept(_key(subject, exam, kind, name), make)
        return row | results.kept(_digest("size", subject.identity), lambda: _size(subject, found))


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
    return _digest(*asked)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:16]


@contextmanager
def logits_of(subject: Subject, num_threads: int) -> Iterator[Logits]:
    """In its engine, for the length of the block. Raises PlanTooLarge, ModelError, EngineError."""
    source = gguf.read(subject.path)
    require_memory(_memory(subject, source), f"{subject.name} ({subject.title})")
    if subject.engine == "llama":
        with LlamaLogits(subject.path, num_threads) as logits:
            yield logits
        return
    # torch and the kernels are an extra, and loading them takes seconds.
    import torch  # noqa: PLC0415

    torch.set_num_threads(num_threads)
    if subject.engine == "transformers":
        from dure_worker.engines.hf.loading import Weights  # noqa: PLC0415
        from dure_workshop.evaluate.hf_logits import HfLogits  # noqa: PLC0415

        yield HfLogits(subject.path, cast("Weights", subject.weights))
        return
    from dure_worker.engines.ark.loading import load  # noqa: PLC0415
    from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415
    from dure_workshop.evaluate.ark_logits import ArkLogits  # noqa: PLC0415

    yield ArkLogits(source, load(source, RECIPES[subject.weights]))


def _memory(subject: Subject, source: Gguf) -> int:
    """Bytes: the engine with one text, its logits, and what llama's states are multiplied with."""
    vocab = gguf.num_tokens(source)
    num_rows = LONGEST if subject.engine == "transformers" else ROWS
    # Logits, their exponentials, and logarithms of both models while they are compared.
    num_bytes = 3 * num_rows * vocab * _F32
    if subject.engine == "llama":
        num_bytes += int(source.hyper("embedding_length")) * vocab * _F32
    return subject.memory(1, LONGEST, has_editor=False) + num_bytes


def _size(subject: Subject, found: _Lazy) -> dict[str, Any]:
    """Of the weights as the engine holds them; bits over all of them, vocabulary and norms included."""
    source = gguf.read(subject.path)
    num_weights = sum(tensor.num_weights for tensor in source.tensors.values())
    if not num_weights:
        raise ModelCorrupt(f"{subject.path} has no weights: take an intact file")
    if subject.engine == "transformers":
        num_bytes = megabytes = cast("HfLogits", found()).num_bytes
    elif subject.engine == "ark":
        from dure_worker.engines.ark.loading import packed  # noqa: PLC0415 - needs torch
        from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415

        num_bytes = megabytes = packed(subject.path, RECIPES[subject.weights]).stat().st_size
    else:
        num_bytes = sum(tensor.num_bytes for tensor in source.tensors.values())
        megabytes = subject.path.stat().st_size
    return {
        "megabytes": megabytes / 1e6,
        "num_weights": num_weights,
        "bits_per_weight": 8 * num_bytes / num_weights,
    }
