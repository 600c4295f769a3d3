"""`dure model`: the models of this machine; planning and making have files of their own."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dure import artifact, catalog, gguf, model_making, model_names, model_planning, run_file
from dure.artifact import Manifest
from dure.catalog import CatalogModel
from dure.cli_shared import JsonOption, cell, checking, plain_table, print_json, say
from dure.errors import ModelCorrupt, ModelError, ModelMissing, SettingsError
from dure.settings import Settings

app = typer.Typer(
    help="모델: 고르고, 받고, 줄이고, 확인하기. / Choose, fetch, trim and check models.", no_args_is_help=True
)

app.command("plan")(model_planning.model_plan)
app.command("recommend")(model_planning.model_recommend)
app.command("fetch")(model_making.model_fetch)
app.command("add")(model_making.model_add)
app.command("trim")(model_making.model_trim)
app.command("bench")(model_making.model_bench)


@app.command("list")
def model_list(as_json: JsonOption = False) -> None:
    """The catalogue and your own models, and what of it lies on this machine."""
    models_dir = Settings.read().models_dir
    rows = [_row(model, models_dir) for model in model_names.listed(models_dir).values()]
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
            cell(row["made_from"] or ("" if row["is_in_catalogue"] else "dure model add")),
        )
    Console().print(table)


def _row(model: CatalogModel, models_dir: Path) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "megabytes": model.num_bytes // 1_000_000,
        "bytes": model.num_bytes,
        "vocab": model_names.num_tokens(model, models_dir),
        "licence": model.licence,
        "made_from": model.made_by.base if model.made_by else None,
        "is_here": catalog.weights_path(models_dir, model).is_file(),
        "is_in_catalogue": model.name in catalog.CATALOG,
    }


@app.command("verify")
def model_verify(
    model: Annotated[str, typer.Argument(help="A name that is listed, a model's folder, or a .gguf file.")],
    as_json: JsonOption = False,
) -> None:
    """Read a model through: its folder as the manifest says, sha256 as in the catalogue, GGUF whole."""
    path = model_names.weights_of(model, Settings.read().models_dir)
    if path.is_dir():
        path = path / artifact.WEIGHTS
    source = model_names.described(path)
    vocab = gguf.num_tokens(source)
    listed = catalog.CATALOG.get(model)
    manifest = artifact.read(path.parent)
    _check_folder(path, listed, manifest)
    with checking(path.stat().st_size) as advance:
        sha256 = catalog.sha256_of(path, advance)
    if listed and sha256 != listed.sha256:
        raise ModelCorrupt(f"{path} is damaged, its sha256 is not that of the catalogue: {_again(path, listed)}")
    if manifest and (faults := artifact.faults(path.parent, manifest, {path.name: sha256})):
        raise ModelCorrupt(f"{path.parent} is not as its manifest says, {'; '.join(faults)}: {_again(path, listed)}")
    same = next((each.name for each in catalog.CATALOG.values() if each.sha256 == sha256), None)
    if as_json:
        print_json(
            {
                "name": same or (manifest.name if manifest else None), "path": str(path), "bytes": path.stat().st_size,
                "sha256": sha256, "is_in_catalogue": same is not None, "has_manifest": manifest is not None,
                "tensors": len(source.tensors), "vocab": vocab, "architecture": source.architecture,
            }
        )  # fmt: skip
        return
    say(f"{path}: 이상이 없습니다. / It is whole.")
    say(f"{source.architecture}, {len(source.tensors)} tensors, {vocab:,} tokens, sha256 {sha256}")
    say(_compared_with(same, manifest))


def _check_folder(path: Path, listed: CatalogModel | None, manifest: Manifest | None) -> None:
    """What can be said before reading a gigabyte."""
    size = path.stat().st_size
    wanted = listed.num_bytes if listed else manifest.files[path.name]["bytes"] if manifest else size
    if size != wanted:
        raise ModelCorrupt(f"{path} has {size:,} bytes instead of {wanted:,}: {_again(path, listed)}")


def _again(path: Path, listed: CatalogModel | None) -> str:
    if listed:
        return f"`rm '{path}' && dure model fetch {listed.name}`"
    return "take it from its source again, with `dure model add`"


def _compared_with(same: str | None, manifest: Manifest | None) -> str:
    if same:
        return f"= {same}" + (", manifest.json" if manifest else "")
    if manifest:
        return "목록에 없는 모델이라 자체 manifest.json과 견주었습니다. / Compared with its own manifest.json."
    return "목록에 없는 파일이라 sha256은 견주지 못했습니다. / Not in the catalogue: nothing to compare."


@app.command("rm")
def model_remove(
    name: Annotated[str, typer.Argument(help="A name that is listed.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a model from this machine. Refused for the one that a running `dure up` serves."""
    settings = Settings.read()
    model = model_names.on_list(name, settings.models_dir)
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
