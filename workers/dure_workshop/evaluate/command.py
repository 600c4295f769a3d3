"""`python -m dure_workshop evaluate`: the steps of an evaluation with a progress bar, and its table."""

import argparse
import datetime as dt
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn

from dure import artifact
from dure.settings import Settings
from dure_worker.settings import WorkerSettings
from dure_workshop import manifest_line, texts
from dure_workshop.bench import cpu_name
from dure_workshop.evaluate import choices, report
from dure_workshop.evaluate.evaluation import Exam, Results, Subject, evaluate
from dure_workshop.evaluate.subject import ENGINES
from dure_workshop.generation import questions
from dure_workshop.progress import bars
from dure_workshop.room import require_disk
from dure_workshop.texts import read_text

TABLE, FIGURES, PLOT, SAID = "evaluation.md", "figures.json", "evaluation.png", "answers.jsonl"
_MOST_BYTES = 10 << 20  # of the results


def run(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Returns the rows, and where the table lies. Raises SettingsError, ModelError, EngineError."""
    began = time.monotonic()
    chosen = options.engine or ENGINES[:1]
    subjects = [Subject.named(name, engine, settings) for name in options.models for engine in chosen]
    exam = Exam(
        {path.stem: read_text(path) for path in options.text or ()} or {name: texts.own(name) for name in texts.NAMES},
        choices.read(options.questions, options.limit) if options.questions else {},
        Subject.named(options.reference, chosen[0], settings) if options.reference else None,
        questions.first_held_out(options.answers),
        options.seed,
    )
    results, num_threads = Results(options.out), WorkerSettings.read().num_threads
    require_disk(options.out, _MOST_BYTES)
    with bars(console, MofNCompleteColumn()) as on_step:
        rows = evaluate(subjects, exam, results, num_threads, on_step)
    about = {
        "cpu": cpu_name(),
        "threads": num_threads,
        "versions": artifact.versions(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": _command(options),
    }
    found = _written(rows, about, options.out)
    manifest_line.add_line(
        options.out, command=_command(options), inputs=_inputs(options, exam, subjects), seed=options.seed,
        seconds=time.monotonic() - began,
    )  # fmt: skip
    return found


def _written(rows: list[dict[str, Any]], about: dict[str, Any], out: Path) -> dict[str, Any]:
    said = [
        {"model": row["model"], "engine": row["engine"], **answer} for row in rows for answer in row.pop("said", ())
    ]
    found = {**about, "rows": rows, "table": str(out / TABLE)}
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"{about['cpu']}, {about['threads']} threads. {versions}. {about['date']}.",
        "",
        f"`{about['command']}`",
    ]
    (out / TABLE).write_text(report.markdown(rows, lines), "utf-8")
    (out / FIGURES).write_text(json.dumps(found, ensure_ascii=False, indent=1), "utf-8")
    if said:
        (out / SAID).write_text("".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in said), "utf-8")
    report.plot(rows, out / PLOT)
    return found


def _inputs(options: argparse.Namespace, exam: Exam, subjects: list[Subject]) -> Iterable[Path]:
    weights = [subject.path for subject in (*subjects, *([exam.reference] if exam.reference else []))]
    tasks = sorted(options.questions.glob("*.tsv")) if options.questions else []
    return dict.fromkeys([*weights, *(options.text or ()), *tasks])


def _command(options: argparse.Namespace) -> str:
    given = [
        *(f"--engine {name}" for name in options.engine or ()),
        *(f"--text {path}" for path in options.text or ()),
        *([f"--questions {options.questions}"] if options.questions else []),
        *([f"--limit {options.limit}"] if options.limit else []),
        *([f"--reference {options.reference}"] if options.reference else []),
        *([f"--answers {options.answers} --seed {options.seed}"] if options.answers else []),
    ]
    return " ".join(["dure workshop evaluate", *options.models, *given])
