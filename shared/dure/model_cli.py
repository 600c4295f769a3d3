"""`dure model`: plan, recommend, list, fetch, trim, verify and remove models."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dure import catalog, gguf, known_models, machine_memory, memory_plan, run_file
from dure.catalog import CatalogModel
from dure.cli_shared import JsonOption, cell, checking, plain_table, print_json, require, say
from dure.errors import ModelCorrupt, ModelError, ModelMissing, ModelUnknown, SettingsError
from dure.known_models import KnownModel
from dure.memory_plan import MIB, Load, Plan, Shape
from dure.settings import Settings

app = typer.Typer(
    help="모델: 고르고, 받고, 줄이고, 확인하기. / Choose, fetch, trim and check models.", no_args_is_help=True
)

_PARTS = {
    "weights": ("가중치", "weights"),
    "kv_cache": ("KV 캐시", "KV cache"),
    "compute": ("계산 버퍼", "compute buffers"),
    "prompt_cache": ("프롬프트 캐시", "prompt cache"),
    "engine": ("엔진과 토크나이저", "engine, tokenizer"),
    "python": ("파이썬", "Python"),
    "korean_editor": ("한국어 편집기 (Kiwi)", "Korean editor (Kiwi)"),
    "reserve": ("시스템 몫", "reserve for the system"),
}
_LEAST_CONTEXT = 512  # below this hardly a question and its answer fit

RamOption = Annotated[
    str | None,
    typer.Option(help="Memory of the box: 3GB, 3GiB, 3072MiB, 2.5g. Default: what this process may use here."),
]
SlotsOption = Annotated[int, typer.Option(min=1, max=64, help="Answers at once.")]
ContextOption = Annotated[int, typer.Option(min=256, max=131072, help="Tokens a slot holds.")]
CacheOption = Annotated[int, typer.Option(min=0, max=65536, help="DURE_WORKER_PROMPT_CACHE_MIB of the worker.")]
EditorOption = Annotated[
    bool, typer.Option("--editor", help="Count the Korean editor's Kiwi (335 MiB), which the worker does not load yet.")
]


@dataclass(frozen=True)
class Subject:
    """A model that can be planned. source: where the shape and size come from."""

    name: str
    weights_bytes: int
    shape: Shape
    source: str
    licence: str = ""


@app.command("plan")
def model_plan(
    model: Annotated[str, typer.Argument(help="A name in the catalogue, a .gguf file, or a known model.")],
    ram: RamOption = None,
    slots: SlotsOption = 4,
    context: ContextOption = 2048,
    prompt_cache: CacheOption = 64,
    editor: EditorOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a worker with this model will hold in memory at its peak, whether it fits, and what to change if not."""
    subject = _subject(model, Settings.read().models_dir)
    total, source = _ram(ram)
    load = Load(slots, context, prompt_cache * MIB, editor)
    found = memory_plan.plan(subject.weights_bytes, subject.shape, load)
    advice = [] if found.fits(total) else _advice(subject, load, total)
    if as_json:
        print_json(_plan_json(subject, found, total) | {"slots": slots, "context": context, "advice": advice})
        return
    Console().print(_plan_table(found))
    say(f"\n{subject.name}, {slots} × {context}: {subject.source}")
    say(_verdict(found, total, source))
    for line in advice:
        say(f"→ {line}")
    if not editor:
        say("한국어 편집기는 아직 Kiwi를 쓰지 않습니다. / The Korean editor does not use Kiwi yet: 0 without --editor.")


@app.command("recommend")
def model_recommend(
    ram: RamOption = None,
    slots: SlotsOption = 4,
    context: ContextOption = 2048,
    every: Annotated[bool, typer.Option("--all", help="Also those that do not fit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Korean models that fit into this much memory, best first by a published Korean benchmark."""
    total, source = _ram(ram)
    models_dir = Settings.read().models_dir
    rows = [row for row in _candidates(models_dir, Load(slots, context), total) if row["fits"] or every]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say(f"{_mib(total)}에 들어가는 모델이 없습니다. --slots나 --context를 줄여 보세요.")
        say(f"No known model fits into {_mib(total)}: try fewer --slots or a shorter --context.")
        return
    Console().print(_recommend_table(rows))
    say(f"\n{_mib(total)} ({source}), {slots} × {context}.")
    for row in rows:
        say(f"{row['name']}: {row['command']}")
    say("점수는 만든 곳이 발표한 값이고, 다른 벤치마크끼리는 견줄 수 없습니다. 빈칸은 확인된 점수가 없다는 뜻입니다.")
    say("Scores are the makers' own; those of different benchmarks cannot be compared. Empty: none was found.")
    say(
        "hub: 모델 허브에서만 받을 수 있고, 아직 띄울 수 없습니다. / Only from a model hub, and not served by dure yet."
    )


@app.command("list")
def model_list(as_json: JsonOption = False) -> None:
    """The catalogue, and what of it lies on this machine."""
    models_dir = Settings.read().models_dir
    rows = [
        {
            "name": model.name,
            "title": model.title,
            "megabytes": model.num_bytes // 1_000_000,
            "bytes": model.num_bytes,
            "vocab": known_models.CATALOGUE_SHAPES[model.name].vocab
            if model.name in known_models.CATALOGUE_SHAPES
            else 0,
            "licence": model.licence,
            "made_from": model.made_by.base if model.made_by else None,
            "is_here": catalog.weights_path(models_dir, model).is_file(),
        }
        for model in catalog.CATALOG.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table("모델\nmodel", "크기\nMB", "어휘\ntokens", "여기\nhere", "라이선스\nlicence", "바탕\nmade from")
    table.columns[0].overflow = "fold"
    for number in (1, 2):
        table.columns[number].justify = "right"
    for row in rows:
        table.add_row(
            cell(row["name"]),
            str(row["megabytes"]),
            f"{row['vocab']:,}" if row["vocab"] else "",
            "✓" if row["is_here"] else "",
            cell(row["licence"]),
            cell(row["made_from"] or ""),
        )
    Console().print(table)


@app.command("fetch")
def model_fetch(
    name: Annotated[str | None, typer.Argument(help="Default: the served model.")] = None, as_json: JsonOption = False
) -> None:
    """Have a model on this machine: copied from DURE_MODEL_SOURCE, downloaded, or made from another; sha256 checked."""
    require("filelock", "worker")
    settings = Settings.read()
    model = _in_catalogue(name or settings.model)
    done = subprocess.run([sys.executable, "-m", "dure_workshop", "fetch", model.name], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    path = catalog.weights_path(settings.models_dir, model)
    if as_json:
        print_json({"name": model.name, "path": str(path), "bytes": path.stat().st_size})


@app.command("trim")
def model_trim(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A name in the catalogue, or a .gguf file.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    keep: Annotated[str, typer.Option(help="Languages to keep, with commas between.")] = "korean,english",
    size: Annotated[int, typer.Option(min=1, help="Tokens to keep.")] = 32_000,
    text: Annotated[
        list[Path] | None, typer.Option(help="Text of yours: what it uses most is kept first. May be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a model's vocabulary down to some languages: smaller and faster, and it cannot slip into the others."""
    require("regex", "worker")
    command = [sys.executable, "-m", "dure_workshop", "trim", str(_weights_of(source, Settings.read().models_dir))]
    command += [f"--keep={keep}", f"--size={size}", f"--out={out}", *(f"--text={path}" for path in text or ())]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    report = json.loads(done.stdout.splitlines()[-1])
    if as_json:
        print_json(report)
        return
    Console().print(_trim_table(report))
    say(f"\n{report['bytes_before'] / 1e6:,.0f} → {report['bytes_after'] / 1e6:,.0f} MB, {out}")
    for name, (before, after) in report["fertility"].items():
        say(f"한글 한 글자에 드는 토큰 / tokens per Korean character, {name}: {before:.3f} → {after:.3f}")
    say("잘린 글자도 바이트 토큰으로 읽고 쓸 수 있지만 느립니다. / Scripts that were cut cost byte tokens now.")


@app.command("verify")
def model_verify(
    model: Annotated[str, typer.Argument(help="A name in the catalogue, or a .gguf file.")], as_json: JsonOption = False
) -> None:
    """Read a model's file through: sha256 as in the catalogue, GGUF whole, as many embedding rows as tokens."""
    path = _weights_of(model, Settings.read().models_dir)
    listed = catalog.CATALOG.get(model)
    size = path.stat().st_size
    again = f"`rm '{path}' && dure model fetch {model}`" if listed else "take it from its source again"
    if listed and size != listed.num_bytes:
        raise ModelCorrupt(f"{path} has {size:,} bytes instead of {listed.num_bytes:,}: {again}")
    described = gguf.read(path)
    vocab = gguf.num_tokens(described)
    with checking(size) as advance:
        sha256 = catalog.sha256_of(path, advance)
    if listed and sha256 != listed.sha256:
        raise ModelCorrupt(f"{path} is damaged, its sha256 is not that of the catalogue: {again}")
    same = next((each.name for each in catalog.CATALOG.values() if each.sha256 == sha256), None)
    if as_json:
        print_json(
            {
                "name": same, "path": str(path), "bytes": size, "sha256": sha256, "is_in_catalogue": same is not None,
                "tensors": len(described.tensors), "vocab": vocab, "architecture": described.architecture,
            }
        )  # fmt: skip
        return
    say(f"{path}: 이상이 없습니다. / It is whole.")
    say(f"{described.architecture}, {len(described.tensors)} tensors, {vocab:,} tokens, sha256 {sha256}")
    say(
        f"= {same}"
        if same
        else "목록에 없는 파일이라 sha256은 견주지 못했습니다. / Not in the catalogue: nothing to compare."
    )


@app.command("rm")
def model_remove(
    name: Annotated[str, typer.Argument(help="A name in the catalogue.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a model from this machine. Refused for the one that a running `dure up` serves."""
    settings = Settings.read()
    model = _in_catalogue(name)
    folder = catalog.weights_path(settings.models_dir, model).parent
    if not folder.is_dir():
        raise ModelMissing(f"{model.name} is not on this machine: `dure model list` shows what is")
    running = run_file.read(settings.home)
    if running is not None and model.name == (_served(running.pid) or settings.model):
        raise ModelError(f"a running `dure up` (process {running.pid}) serves {model.name}: stop it first")
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not yes and not _is_sure(model, num_bytes):
        return
    with _alone(folder):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ModelError(f"{folder} cannot be deleted ({error.strerror}): correct its rights") from None
    if as_json:
        print_json({"name": model.name, "bytes": num_bytes})
    else:
        say(f"지웠습니다. / Deleted: {model.name}, {num_bytes / 1e6:,.0f} MB.")


# What somebody means.


def _subject(name: str, models_dir: Path) -> Subject:
    """Raises ModelUnknown with the nearest name, ModelMissing, ModelCorrupt."""
    listed = catalog.CATALOG.get(name)
    if listed is None and not _is_path(name):
        return _known_subject(name)
    path = catalog.weights_path(models_dir, listed) if listed else Path(name)
    licence = listed.licence if listed else ""
    if listed and not path.is_file():
        if name not in known_models.CATALOGUE_SHAPES:
            raise ModelMissing(f"{name} is not on this machine: run `dure model fetch {name}`, then plan it")
        return _subject_by_shape(listed, "known shape; the file is not here / 파일은 아직 없습니다")
    weights, shape = memory_plan.of_gguf(_described(path))
    return Subject(name, weights, shape, str(path), licence)


def _known_subject(name: str) -> Subject:
    model = known_models.find(name)
    if model is None:
        raise ModelUnknown(f"no model is called {name!r}{_hint(name)}")
    source = f"Q4_K_M, {model.hub}" + ("" if model.is_checked else f"; not confirmed: {model.note}")
    return Subject(model.name, memory_plan.q4_k_m_bytes(model.shape), model.shape, source, model.licence)


def _hint(name: str) -> str:
    near = known_models.nearest(name, list(catalog.CATALOG))
    known = ", ".join([*catalog.CATALOG, *known_models.KNOWN])
    return f": did you mean {near}?" if near else f": known are {known}; or name a .gguf file"


def _in_catalogue(name: str) -> CatalogModel:
    if name in catalog.CATALOG:
        return catalog.CATALOG[name]
    known = known_models.find(name)
    if known:
        raise ModelUnknown(
            f"{known.name} cannot be had here, only from the model hub ({known.hub}): "
            "`dure model recommend` shows what can be fetched"
        )
    near = known_models.nearest(name, list(catalog.CATALOG))
    hint = f"did you mean {near}?" if near in catalog.CATALOG else "`dure model list` shows the names"
    raise ModelUnknown(f"no model is called {name!r}: {hint}")


def _weights_of(name: str, models_dir: Path) -> Path:
    """The file of a catalogue's model, or the one named. Raises ModelUnknown, ModelMissing."""
    if _is_path(name) and name not in catalog.CATALOG:
        path = Path(name)
        if not path.is_file():
            raise ModelMissing(f"{path} is not there, or is no file: name a .gguf file")
        return path
    model = _in_catalogue(name)
    path = catalog.weights_path(models_dir, model)
    if not path.is_file():
        raise ModelMissing(f"{model.name} is not on this machine: run `dure model fetch {model.name}`")
    return path


def _is_path(name: str) -> bool:
    # A hub's repository, owner/name, is no path unless something lies there.
    return name.endswith(".gguf") or name.startswith((".", "/", "~")) or Path(name).exists()


def _described(path: Path) -> gguf.Gguf:
    try:
        return gguf.read(path)
    except OSError as error:
        raise ModelMissing(f"{path} cannot be read ({error.strerror}): name a .gguf file") from None


def _ram(text: str | None) -> tuple[int, str]:
    if text is not None:
        size = machine_memory.parse_bytes(text)
        if size is None:
            raise SettingsError(f"--ram {text!r} is no size: write it as 3GB, 3GiB, 3072MiB or 2.5g")
        return size, "--ram"
    memory = machine_memory.usable_memory()
    if memory is None:
        raise SettingsError("this machine does not say how much memory it has: add --ram, for example --ram 3GB")
    return memory.total, memory.source


# What is said about it.


def _plan_json(subject: Subject, found: Plan, ram: int) -> dict[str, Any]:
    parts = {f"{name}_bytes": size for name, size in asdict(found).items()}
    return {
        "model": subject.name,
        "plan_rss_bytes": found.rss,
        "needed_bytes": found.needed,
        "ram_bytes": ram,
        "fits": found.fits(ram),
        **parts,
        "source": subject.source,
    }


def _plan_table(found: Plan) -> Table:
    table = plain_table("부분\npart", "", "MiB")
    table.columns[2].justify = "right"
    for name, size in asdict(found).items():
        if name == "reserve":
            table.add_row("작업기", "worker at its peak", cell(f"{found.rss / MIB:,.0f}", "bold"))
        korean, english = _PARTS[name]
        table.add_row(korean, english, f"{size / MIB:,.0f}")
    table.add_row("모두", "total", cell(f"{found.needed / MIB:,.0f}", "bold"))
    return table


def _verdict(found: Plan, ram: int, source: str) -> str:
    if found.fits(ram):
        left = _mib(ram - found.needed)
        return f"{_mib(ram)}({source})에 들어갑니다. {left}가 남습니다. / It fits into {_mib(ram)}; {left} stay free."
    more = _mib(found.needed - ram)
    return f"{_mib(ram)}({source})에 들어가지 않습니다. {more}가 모자랍니다. / It does not fit: {more} are missing."


def _advice(subject: Subject, load: Load, ram: int) -> list[str]:
    """What would make it fit, each by itself, the least loss first."""
    found = []

    def fits(**changes: Any) -> bool:
        changed = Load(**(asdict(load) | changes))
        return memory_plan.plan(subject.weights_bytes, subject.shape, changed).fits(ram)

    slots = next((number for number in range(load.slots - 1, 0, -1) if fits(slots=number)), None)
    if slots:
        found.append(f"자리를 줄이세요 / fewer slots: --slots {slots}")
    contexts = (load.context * eighths // 8 // 256 * 256 for eighths in range(7, 0, -1))
    context = next((size for size in contexts if size >= _LEAST_CONTEXT and fits(context=size)), None)
    if context:
        found.append(f"문맥을 줄이세요 / a shorter context: --context {context}")
    if not found and fits(slots=1, context=_LEAST_CONTEXT, prompt_cache_bytes=0, has_editor=False):
        found.append(
            f"한꺼번에 줄이세요 / all at once: --slots 1 --context {_LEAST_CONTEXT} --prompt-cache 0, no --editor"
        )
    found.append("더 작은 모델을 고르세요 / a smaller model: `dure model recommend --ram …`")
    return found


def _candidates(models_dir: Path, load: Load, ram: int) -> list[dict[str, Any]]:
    rows = []
    for listed in catalog.CATALOG.values():
        path = catalog.weights_path(models_dir, listed)
        if listed.name not in known_models.CATALOGUE_SHAPES:
            continue
        subject = _subject_by_shape(listed)
        row = _candidate(subject, listed.title, memory_plan.plan(subject.weights_bytes, subject.shape, load), ram)
        command = f"dure up --model {listed.name}" if path.is_file() else f"dure model fetch {listed.name}"
        rows.append(row | {"is_here": path.is_file(), "origin": "catalogue", "command": command})
    for known in known_models.KNOWN.values():
        subject = _known_subject(known.name)
        row = _candidate(subject, known.title, memory_plan.plan(subject.weights_bytes, subject.shape, load), ram)
        row |= {"is_here": False, "origin": "hub", "command": f"hf download {known.hub}"}
        rows.append(row | _score_json(known) | {"is_checked": known.is_checked, "note": known.note})
    return sorted(rows, key=lambda row: (-(row["score"] or 0), -row["plan_rss_bytes"]))


def _subject_by_shape(listed: CatalogModel, source: str = "catalogue") -> Subject:
    shape = known_models.CATALOGUE_SHAPES[listed.name]
    weights = listed.num_bytes - known_models.HEADER_BYTES_PER_TOKEN * shape.vocab
    return Subject(listed.name, weights, shape, source, listed.licence)


def _candidate(subject: Subject, title: str, found: Plan, ram: int) -> dict[str, Any]:
    return {
        "name": subject.name,
        "title": title,
        "licence": subject.licence,
        "plan_rss_bytes": found.rss,
        "needed_bytes": found.needed,
        "fits": found.fits(ram),
        "benchmark": None,
        "score": None,
        "score_source": None,
        "is_checked": True,
        "note": "",
    }


def _score_json(known: KnownModel) -> dict[str, Any]:
    if known.score is None:
        return {}
    return {"benchmark": known.score.benchmark, "score": known.score.percent, "score_source": known.score.source}


def _recommend_table(rows: list[dict[str, Any]]) -> Table:
    table = plain_table(
        "모델\nmodel", "발표된 점수\npublished score", "작업기\nMiB", "라이선스\nlicence", "어디서\nfrom"
    )
    table.columns[0].no_wrap = True
    table.columns[2].justify = "right"
    for row in rows:
        score = f"{row['score']:.1f} {row['benchmark']}" if row["score"] else ""
        memory = f"{row['plan_rss_bytes'] / MIB:,.0f}" + ("" if row["fits"] else " ✗")
        origin = "✓ here" if row["is_here"] else row["origin"]
        table.add_row(*(cell(value) for value in (row["name"], score, memory, row["licence"], origin)))
    return table


def _trim_table(report: dict[str, Any]) -> Table:
    table = plain_table("문자\nscript", "토큰 전\nbefore", "후\nafter", "MB 전\nbefore", "후\nafter")
    for number in range(1, 5):
        table.columns[number].justify = "right"
    for row in [*report["scripts"], {"script": "모두 / all", **report["all"]}]:
        table.add_row(
            cell(row["script"]),
            f"{row['tokens_before']:,}",
            f"{row['tokens_after']:,}",
            f"{row['bytes_before'] / 1e6:,.1f}",
            f"{row['bytes_after'] / 1e6:,.1f}",
        )
    return table


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


# Files and processes.


def _served(pid: int) -> str | None:
    """The model that a `dure up` was started with, as far as this user may see it (Linux)."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word == "--model":
                return following
            if word.startswith("--model="):
                return word.removeprefix("--model=")
        for line in Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0"):
            if line.startswith("DURE_MODEL="):
                return line.removeprefix("DURE_MODEL=")
    return None


def _is_sure(model: CatalogModel, num_bytes: int) -> bool:
    say(f"{model.name}을(를) 지웁니다. / This deletes {model.name}, {num_bytes / 1e6:,.0f} MB.")
    if not sys.stdin.isatty():
        raise SettingsError("nobody is there to confirm it: add --yes to delete without a question")
    return typer.confirm("계속할까요? / Go on?")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Not while another process fetches it."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - the other commands need no lock

    if not os.access(folder, os.W_OK):
        raise ModelError(f"{folder} cannot be written: correct its rights")
    lock = FileLock(folder / "fetch.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ModelError(f"another process is fetching into {folder}: wait for it, then try again") from None
    try:
        yield
    finally:
        lock.release()
