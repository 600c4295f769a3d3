"""Makes a model of the user's own one that can be served, like one of the catalogue."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from dure import artifact, catalog, engines, gguf, memory_plan
from dure.catalog import CatalogModel
from dure.errors import ModelCorrupt, ModelError, ModelUnavailable
from dure.gguf import Gguf
from dure.memory_plan import Precision
from dure.settings import Settings
from dure_workshop.fetch import Fetcher
from dure_workshop.trim.checkpoint_files import Checkpoint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def add(
    settings: Settings, console: Console, source: str, name: str | None, file: str | None, precision: str
) -> dict[str, Any]:
    """Have it under models/{name}/ and say what it is. Raises DureError; then nothing of it is left there."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _add_checkpoint(settings, console, path, _checked(name or _plain(path.resolve().name)), precision)
    if path.is_file():
        model = _of_file(path, _checked(name or _plain(path.stem)), console)
        settings = settings.model_copy(update={"model_source": path.parent})
    elif _REPOSITORY.fullmatch(source) and not source.endswith(".gguf"):
        model = _of_hub(settings.hub_url, source, name, file)
    else:
        raise ModelError(f"{source} is not there: name a .gguf file, or OWNER/NAME of a model hub's repository")
    _require_free(model, settings)
    weights = Fetcher(settings, console).fetch(model)
    found = gguf.read(weights)
    return {
        "name": model.name,
        "path": str(weights),
        "bytes": model.num_bytes,
        "sha256": model.sha256,
        "architecture": found.architecture,
        "engines": engines.that_run(found.architecture),
        "has_chat_template": bool(found.get("tokenizer.chat_template")),
    }


def _add_checkpoint(settings: Settings, console: Console, folder: Path, name: str, precision: str) -> dict[str, Any]:
    """Converted beside the models, then added as any file. Peak memory: some MB of weights, vocabulary and JSON."""
    engines.that_run_checkpoint(_model_type(folder))
    from dure_workshop import convert  # noqa: PLC0415 - needs numpy and the runtime

    checkpoint = Checkpoint.read(folder)
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=settings.models_dir) as work:
        target = Path(work) / f"{name}.gguf"
        with _progress(console) as progress:
            task = progress.add_task("변환 / Converting", total=None)
            convert.convert(
                checkpoint,
                target,
                Precision(precision),
                lambda done, total: progress.update(task, completed=done, total=total),
            )
        return add(settings, console, str(target), name, None, precision)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def require_servable(source: Gguf) -> None:
    """Raises ModelUnsupported, or ModelCorrupt where shape or vocabulary are missing or contradict each other."""
    engines.that_run(source.architecture)
    memory_plan.of_gguf(source)


def _of_file(path: Path, name: str, console: Console) -> CatalogModel:
    source = gguf.read(path)
    require_servable(source)
    size = path.stat().st_size
    with _progress(console) as progress:
        task = progress.add_task("확인 / Checking", total=size)
        sha256 = catalog.sha256_of(path, lambda num_more: progress.advance(task, num_more))
    title = str(source.get("general.name") or path.stem)
    licence = str(source.get("general.license") or "unknown")
    return CatalogModel(name, title, path.name, size, sha256, licence)


def _of_hub(url: str, repository: str, name: str | None, file: str | None) -> CatalogModel:
    """Size and sha256 are the hub's own. Raises ModelUnavailable, ModelError."""
    if not url:
        raise ModelUnavailable(f"{repository} is no file here, and DURE_HUB_URL is empty: name a .gguf file")
    address = f"{url.rstrip('/')}/api/models/{repository}"
    try:
        answer = httpx.get(address, params={"blobs": "true"}, follow_redirects=True, timeout=30)
        answer.raise_for_status()
        told = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ModelUnavailable(
            f"{repository} cannot be had from {url} ({type(error).__name__}): name a .gguf file on this machine"
        ) from None
    blob = _chosen(repository, [each for each in told.get("siblings", ()) if each.get("lfs")], file)
    plain = _checked(name or _plain(Path(blob["rfilename"]).stem))
    licence = str((told.get("cardData") or {}).get("license") or "unknown")
    lfs = blob["lfs"]
    return CatalogModel(
        plain, repository, blob["rfilename"], lfs["size"], lfs["sha256"], licence, hub_repository=repository
    )


def _chosen(repository: str, blobs: list[dict[str, Any]], file: str | None) -> dict[str, Any]:
    names = [blob["rfilename"] for blob in blobs if blob["rfilename"].endswith(".gguf")]
    if not names:
        raise ModelError(f"{repository} holds no .gguf file: name a repository that does, often called …-GGUF")
    wanted = [each for each in names if each == file] if file else [each for each in names if "q4_k_m" in each.lower()]
    if len(wanted) != 1:
        raise ModelError(f"{repository} holds {', '.join(names)}: choose one with --file")
    return next(blob for blob in blobs if blob["rfilename"] == wanted[0])


def _require_free(model: CatalogModel, settings: Settings) -> None:
    """The name must be nobody else's."""
    listed = catalog.CATALOG.get(model.name)
    try:
        manifest = artifact.read(settings.models_dir / model.name)
    except ModelCorrupt:
        return  # it is written anew
    there = listed or (manifest.model if manifest else None)
    if there is not None and there.sha256 != model.sha256:
        raise ModelError(f"another model is called {model.name}: choose another with --name, or delete it first")


def _model_type(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text("utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{folder} is no checkpoint (no model_type in config.json): name a .gguf file") from None


def _plain(stem: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", stem.casefold()).strip("-.") or "model"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name == catalog.SCRIPTED:
        raise ModelError(f"--name {name!r} is no name for a model: 1 to 64 letters, digits, dots, dashes, underscores")
    return name
