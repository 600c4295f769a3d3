"""The folder beside a result in which its parts are until it is there; a run that was stopped goes on from them."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dure.errors import ModelError, SettingsError
from dure.one_step import one_step
from dure_workshop.results_folder import prepared

_FILE = "steps.json"


class Workplace:
    """Made by `workplace`. folder: where files may lie. Steps that were done are known by name."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self._about = about
        self._steps: dict[str, Any] = {}
        try:
            found = json.loads((folder / _FILE).read_text("utf-8"))
            is_same = found["about"] == about
        except (OSError, ValueError, KeyError, TypeError):
            is_same = False
        if is_same:
            self._steps = found["steps"]
        else:
            # Of another source or text.
            for path in folder.iterdir():
                if path.name != _LOCK:
                    path.unlink()

    def get(self, name: str) -> Any:
        """None: not done yet."""
        return self._steps.get(name)

    def add(self, name: str, entry: Any) -> None:
        self._steps[name] = entry
        with one_step(self.folder / _FILE) as unfinished:
            unfinished.write_text(json.dumps({"about": self._about, "steps": self._steps}), "utf-8")


_LOCK = ".lock"


@contextmanager
def workplace(out: Path, about: dict[str, Any]) -> Iterator[Workplace]:
    """about: what the steps are of; of something else none counts. Gone when all is done, there after an error.

    Raises SettingsError, and ModelError while another process works there.
    """
    if not out.parent.is_dir():
        raise SettingsError(f"{out} cannot be written (no such folder): make it, or choose another --out")
    folder = prepared(out.with_name(f".{out.name}.prune"))
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ModelError(f"another process is making {out}: wait for it, or choose another --out") from None
    try:
        yield Workplace(folder, about)
        shutil.rmtree(folder)
    finally:
        lock.release()
