"""What made the files of a folder: a line of JSON for each command that ended there."""

import datetime as dt
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from dure.catalog import sha256_of
from dure.errors import SettingsError
from dure_workshop.results_folder import prepared

FILE = "manifest.jsonl"
_PACKAGES = ("dure", "xllamacpp", "numpy", "torch", "transformers", "bitsandbytes", "auto-round-lib", "peft")
# Reading through weights of a GB takes as long as some of the commands.
_MOST_READ = 64 << 20


def add_line(
    folder: Path, *, command: str, seconds: float, inputs: Iterable[Path] = (), seed: int | None = None, **more: Any
) -> None:
    """inputs: files that the command read. more: what else is worth telling, of JSON's types. Raises SettingsError."""
    told = {
        "command": command,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "inputs": [described(path) for path in inputs],
        "seed": seed,
        "seconds": round(seconds, 1),
        **more,
    }
    path = prepared(folder) / FILE
    try:
        with path.open("a+b") as file:
            # Behind a line that was torn off.
            if file.tell() and not _ends_whole(path):
                file.write(b"\n")
            file.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written ({error.strerror}): free some space, or correct its rights"
        ) from None


def described(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file; of one of more than 64 MiB the time of its last change instead."""
    status = path.stat()
    if status.st_size <= _MOST_READ:
        return {"path": str(path), "bytes": status.st_size, "sha256": sha256_of(path)}
    changed = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
    return {"path": str(path), "bytes": status.st_size, "changed": changed.isoformat()}


def versions() -> dict[str, str]:
    """Of the packages that may take part, where they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
