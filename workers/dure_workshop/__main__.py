"""`python -m dure_workshop COMMAND …`: the workshop's commands as a program of their own.

Progress and errors go to standard error. All but `fetch` end with one JSON object on standard output: what is there
now, what was cut, what was measured.
"""

import argparse
import contextlib
import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dure import artifact, model_names
from dure.errors import DureError, ModelError, SettingsError
from dure.settings import Settings
from dure_worker.settings import WorkerSettings
from dure_workshop.add import add
from dure_workshop.fetch import Fetcher
from dure_workshop.parser import OF_THE_WORKSHOP, parser
from dure_workshop.texts import read_text
from dure_workshop.trim import checkpoint, gguf_file
from dure_workshop.trim.checkpoint_files import Checkpoint
from dure_workshop.trim.choice import Choice
from dure_workshop.trim.gguf_file import GgufModel
from dure_workshop.trim.text import Encoder, count

LANGUAGES = ("english", "korean")

# Everyday, formal and technical Korean, to count tokens a character on.
SAMPLE = """\
안녕하세요. 오늘은 비가 조금 내리지만 오후에는 갤 것 같아요.
두레는 바쁜 농사철에 이웃끼리 품을 나누던 마을의 모임이다. 모내기와 김매기를 함께하고, 일이 끝나면 음식을 나누어 먹었다.
회의는 다음 주 수요일 오전 열 시에 시작하니, 늦지 않게 참석해 주시기 바랍니다.
할머니께서 끓여 주신 된장찌개 냄새가 골목까지 퍼졌다.
프로그램이 갑자기 멈추면 기록을 먼저 살펴보고, 설정을 바꾼 뒤 다시 실행해 보세요.
그 책 좀 빌려줄래? 괜찮으면 내일까지 돌려줄게.
"""


def main(arguments: list[str]) -> None:
    # Libraries' own bars and remarks would stand between ours.
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    program = "dure workshop" if arguments[:1] and arguments[0] in OF_THE_WORKSHOP else "dure model"
    try:
        options = parser().parse_args(arguments)
        found = _COMMANDS[options.command](options, Settings.read(), Console(stderr=True))
        if found:
            sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    except DureError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: stopped; the same command goes on from here")


def _run_fetch(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    Fetcher(settings, console).fetch(artifact.find(options.name, settings.models_dir))
    return {}


def _run_add(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    return add(settings, console, options.source, options.name, options.file, options.precision)


def _run_trim(options: argparse.Namespace, settings: Settings, _: Console) -> dict[str, Any]:
    if options.add_words and (not options.text or options.source.is_dir()):
        raise SettingsError("--add-words takes the words from --text, and puts them into a .gguf file: name both")
    named = str(options.source)
    source = options.source if model_names.is_path(named) else model_names.weights_of(named, settings.models_dir)
    report = trimmed(source, options.out, _languages(options.keep), options.size, options.text)
    if options.add_words:
        report["added"] = added_words(options.out, "\n".join(map(read_text, options.text)), options.add_words)
        report["bytes_after"] = options.out.stat().st_size
    return report


def added_words(out: Path, text: str, number: int) -> dict[str, Any]:
    """Put words into the finished file, unless they cost too much; the last fifth of the text is what judges it."""
    from dure_workshop.trim.added import TooCostly, add_words  # noqa: PLC0415 - needs numpy and the runtime

    lines = text.splitlines()
    num_learnt = len(lines) * 4 // 5
    wider = out.with_name(f".{out.name}.words")
    try:
        found = add_words(
            GgufModel.read(out), wider, "\n".join(lines[:num_learnt]), "\n".join(lines[num_learnt:]), number
        )
    except TooCostly as error:
        return {"words": 0, "why": str(error)}
    wider.replace(out)
    return {
        "words": number,
        "tokens_saved": round(found.tokens_saved, 4),
        "bits_per_byte": [round(found.before.bits_per_byte, 4), round(found.after.bits_per_byte, 4)],
    }


def _run_bench(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.bench import bench  # noqa: PLC0415 - the other commands load no worker

    return bench(settings, WorkerSettings.read(), options.name, options.repeats, console)


def _run_evaluate(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.evaluate import command  # noqa: PLC0415 - needs numpy and matplotlib

    return command.run(options, settings, console)


def _run_calibrate(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop import commands  # noqa: PLC0415 - needs torch

    return commands.run_calibrate(options, settings, console)


def _run_quantize(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop import commands  # noqa: PLC0415 - needs torch

    return commands.run_quantize(options, settings, console)


def _run_prune(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.prune import command  # noqa: PLC0415 - needs torch

    return command.run(options, settings, console)


def _run_distil(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.commands import opened  # noqa: PLC0415 - needs torch
    from dure_workshop.training import command  # noqa: PLC0415

    return command.run_distil(options, opened(options.model, settings), settings, console)


def _run_adapt(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.commands import opened  # noqa: PLC0415 - needs torch
    from dure_workshop.training import command  # noqa: PLC0415

    return command.run_adapt(options, opened(options.model, settings), settings, console)


def _run_answer(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.training import answers_command  # noqa: PLC0415 - needs the engines

    return answers_command.run(options, settings, console)


def _run_build(options: argparse.Namespace, settings: Settings, console: Console) -> dict[str, Any]:
    from dure_workshop.building import command  # noqa: PLC0415 - needs PyYAML

    return command.run(options, settings, console, parser().parse_args)


_COMMANDS: dict[str, Callable[[argparse.Namespace, Settings, Console], dict[str, Any]]] = {
    "fetch": _run_fetch,
    "add": _run_add,
    "trim": _run_trim,
    "bench": _run_bench,
    "evaluate": _run_evaluate,
    "calibrate": _run_calibrate,
    "quantize": _run_quantize,
    "prune": _run_prune,
    "answer": _run_answer,
    "distil": _run_distil,
    "adapt": _run_adapt,
    "build": _run_build,
}


def trimmed(source_path: Path, out: Path, languages: set[str], size: int, text_paths: list[Path]) -> dict[str, Any]:
    """Trim one model into another and report what was cut. Raises DureError; then `out` is not there."""
    texts = {str(path): read_text(path) for path in text_paths}
    with _alone(out):
        if out.exists():
            raise ModelError(f"{out} is there already: choose another --out, or delete it first")
        source = _read_model(source_path)
        if texts and source.segmenter is None:
            raise SettingsError(f"texts of a {source.pre} vocabulary cannot be counted here: leave --text out")
        counts = count(source.segmenter, texts.values()) if texts and source.segmenter else None
        with _progress() as on_progress:
            choice = _trim(source, out, languages, size, counts, on_progress)
    result = _read_model(out)
    fertility = _fertility(source.segmenter, result.segmenter, {"sample": SAMPLE, **texts})
    return _report(source, result, choice) | {"fertility": fertility}


def _read_model(path: Path) -> GgufModel | Checkpoint:
    return Checkpoint.read(path) if path.is_dir() else GgufModel.read(path)


def _trim(source: GgufModel | Checkpoint, *arguments: Any) -> Choice:
    return (
        checkpoint.trim(source, *arguments)
        if isinstance(source, Checkpoint)
        else gguf_file.trim(source.source, *arguments)
    )


def _report(source: GgufModel | Checkpoint, result: GgufModel | Checkpoint, choice: Choice) -> dict[str, Any]:
    return {
        "source": str(source.path),
        "out": str(result.path),
        "bytes_before": source.num_bytes,
        "bytes_after": result.num_bytes,
        "vocab_before": choice.before.total(),
        "vocab_after": len(choice.kept),
        "scripts": [
            {"script": str(script), **_row(choice.before[script], choice.after[script], source.row_bytes)}
            for script, _ in choice.before.most_common()
        ],
        "all": _row(choice.before.total(), choice.after.total(), source.row_bytes),
    }


def _row(before: int, after: int, row_bytes: int) -> dict[str, int]:
    return {
        "tokens_before": before,
        "tokens_after": after,
        "bytes_before": before * row_bytes,
        "bytes_after": after * row_bytes,
    }


def _fertility(before: Encoder | None, after: Encoder | None, texts: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Tokens per Korean character by text, before and after; without texts that hold no Korean."""
    if before is None or after is None:
        return {}
    found = {}
    for name, text in texts.items():
        num_korean = sum("가" <= letter <= "힣" for letter in text)
        if num_korean:
            found[name] = (
                round(len(before.encode(text)) / num_korean, 4),
                round(len(after.encode(text)) / num_korean, 4),
            )
    return found


def _languages(text: str) -> set[str]:
    names = [name.strip().casefold() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in LANGUAGES:
            near = difflib.get_close_matches(name, LANGUAGES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(LANGUAGES)}"
            raise SettingsError(f"--keep: {name!r} is no language that can be kept: {hint}")
    if not names:
        raise SettingsError(f"--keep names no language: known are {', '.join(LANGUAGES)}")
    return set(names)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process makes a file. Its lock lies beside it while it does."""
    if not out.parent.is_dir():
        raise ModelError(f"{out} cannot be written (no such folder): make it, or choose another --out")
    lock_path = out.with_name(f".{out.name}.lock")
    lock = FileLock(lock_path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ModelError(f"another process is making {out}: wait for it, or choose another --out") from None
    except OSError as error:
        raise ModelError(f"{out} cannot be written ({error.strerror}): choose another --out") from None
    try:
        yield
    finally:
        lock_path.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("줄이는 중 / Trimming", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


if __name__ == "__main__":
    main(sys.argv[1:])
