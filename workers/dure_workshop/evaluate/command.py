"""`python -m dure_workshop evaluate`: the steps of an evaluation with a progress bar, and its table."""

import argparse
import datetime as dt
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dure import artifact, engines, model_names
from dure.errors import SettingsError
from dure.settings import Settings
from dure_worker.settings import WorkerSettings
from dure_workshop import texts
from dure_workshop.bench import cpu_name
from dure_workshop.evaluate import choices, report
from dure_workshop.evaluate.evaluation import ENGINES, Exam, Results, Subject, evaluate
from dure_workshop.texts import read_text

TABLE, FIGURES, PLOT = "evaluation.md", "figures.json", "evaluation.png"


def run(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    """Returns the rows, and where the table lies. Raises SettingsError, ModelError, EngineError."""
    chosen = options.engine or ENGINES[:1]
    subjects = [_subject(name, engine, settings) for name in options.models for engine in chosen]
    exam = Exam(
        {path.stem: read_text(path) for path in options.text or ()} or {name: texts.own(name) for name in texts.NAMES},
        choices.read(options.questions, options.limit) if options.questions else {},
        _subject(options.reference, chosen[0], settings) if options.reference else None,
    )
    results, num_threads = Results(options.out), WorkerSettings.read().num_threads
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bars: dict[str, Any] = {}

        def on_step(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        rows = evaluate(subjects, exam, results, num_threads, on_step)
    about = {
        "cpu": cpu_name(),
        "threads": num_threads,
        "versions": artifact.versions(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": _command(options),
    }
    found = {**about, "rows": rows, "table": str(options.out / TABLE)}
    lines = [
        f"{about['cpu']}, {num_threads} threads. {about['versions']}. {about['date']}.",
        "",
        f"`{about['command']}`",
    ]
    (options.out / TABLE).write_text(report.markdown(rows, lines), "utf-8")
    (options.out / FIGURES).write_text(json.dumps(found, ensure_ascii=False, indent=1), "utf-8")
    report.plot(rows, options.out / PLOT)
    return found


def _subject(name: str, engine: str, settings: Settings) -> Subject:
    path = model_names.weights_of(name, settings.models_dir)
    if path.is_dir():
        path = path / artifact.WEIGHTS
    if not path.is_file():
        raise SettingsError(f"{name} holds no {artifact.WEIGHTS}: `dure model add` makes one of a checkpoint")
    title = Path(name).stem if model_names.is_path(name) else name
    weights = engines.weights_of("ark", WorkerSettings.read().weights) if engine == "ark" else ""
    return Subject(title, path, engine, weights)


def _command(options: argparse.Namespace) -> str:
    given = [
        *(f"--engine {name}" for name in options.engine or ()),
        *(f"--text {path}" for path in options.text or ()),
        *([f"--questions {options.questions}"] if options.questions else []),
        *([f"--limit {options.limit}"] if options.limit else []),
        *([f"--reference {options.reference}"] if options.reference else []),
    ]
    return " ".join(["dure workshop evaluate", *options.models, *given])
