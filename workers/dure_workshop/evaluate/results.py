"""What an evaluation has found so far, a step at a time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dure.errors import SettingsError
from dure.one_step import one_step
from dure_workshop.results_folder import prepared

FILE = "evaluation.json"
# Raised when a step's figures change their meaning.
_SCHEMA = 1


class Results:
    """The folder's entries, written after each step. Raises SettingsError for a file that is of another release."""

    def __init__(self, folder: Path) -> None:
        self._path = prepared(folder) / FILE
        self._entries: dict[str, dict[str, Any]] = {}
        try:
            found = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be read ({error.strerror}): choose another --out") from None
        except ValueError:
            raise SettingsError(f"{self._path} is damaged: delete it, or choose another --out") from None
        if found.get("schema") != _SCHEMA:
            raise SettingsError(f"{self._path} is of another release of dure: delete it, or choose another --out")
        self._entries = found["entries"]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._entries.get(key)

    def add(self, key: str, entry: dict[str, Any]) -> None:
        self._entries[key] = entry
        told = json.dumps({"schema": _SCHEMA, "entries": self._entries}, ensure_ascii=False, indent=1)
        try:
            with one_step(self._path) as unfinished:
                unfinished.write_text(told, "utf-8")
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be written ({error.strerror}): free some space") from None

    def kept(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry, made where there is none."""
        entry = self.get(key)
        if entry is None:
            entry = make()
            self.add(key, entry)
        return entry
