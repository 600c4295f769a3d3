"""`python -m dure_workshop answer`: a teacher and questions in, training data out."""

import argparse
import time
from typing import Any

from rich.console import Console

from dure.errors import SettingsError
from dure.persona import STYLES
from dure.settings import Settings
from dure_worker.korean import parser
from dure_worker.settings import WorkerSettings
from dure_workshop import manifest_line
from dure_workshop.evaluate.subject import ENGINES, Subject
from dure_workshop.generation import questions
from dure_workshop.generation.engines import opened
from dure_workshop.progress import bar
from dure_workshop.room import require_disk
from dure_workshop.training.answers import Plan, answered

_BYTES_A_CHARACTER = 4
_COPIES = 2  # journal and data


def run(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """out, asked, kept, left_out by reason, held_out (questions that `evaluate` asks, which are not asked), num_tokens.

    Raises SettingsError, ModelError, EngineError.
    """
    began = time.monotonic()
    subject, plan = _plan(options, settings)
    given = questions.read(options.prompts, options.style or STYLES)
    judging = {question.text for question in questions.held_out()}
    asked = [question for question in given if question.text not in judging]
    if not asked:
        raise SettingsError(f"{options.prompts} holds only questions that models are judged by: write others")
    require_disk(options.out, len(asked) * plan.most_characters * _BYTES_A_CHARACTER * _COPIES)
    worker = WorkerSettings.read()
    parser.load()
    with bar(console, "스승이 답하는 중 / The teacher answers") as on_progress:
        found = answered(
            lambda: opened(subject, worker.slots, worker.context, worker.num_threads), asked, plan, options.out,
            on_progress,
        )  # fmt: skip
    told = {
        "asked": found.num_asked,
        "kept": found.num_kept,
        "left_out": found.left_out,
        "held_out": len(given) - len(asked),
        "num_tokens": found.num_tokens,
    }
    manifest_line.add_line(
        options.out.absolute().parent, command=_command(options), inputs=[subject.path, options.prompts],
        seed=options.seed, seconds=time.monotonic() - began, out=str(options.out), **told,
    )  # fmt: skip
    return {"out": str(options.out), **told}


def _plan(options: argparse.Namespace, settings: Settings) -> tuple[Subject, Plan]:
    subject = Subject.named(options.model, options.engine or ENGINES[0], settings)
    status = subject.path.stat()
    return subject, Plan(
        teacher=f"{subject.name} {subject.title} {status.st_size} {status.st_mtime_ns}",
        num_candidates=options.candidates,
        seed=options.seed,
        max_tokens=options.max_tokens,
        most_characters=options.most_characters,
    )


def _command(options: argparse.Namespace) -> str:
    given = [
        f"--prompts {options.prompts} --out {options.out}",
        *(f"--style {name}" for name in options.style or ()),
        *([f"--engine {options.engine}"] if options.engine else []),
        f"--candidates {options.candidates} --seed {options.seed}",
        f"--max-tokens {options.max_tokens} --most-characters {options.most_characters}",
    ]
    return " ".join(["dure workshop answer", options.model, *given])
