"""What was measured on this machine for a model, kept in its folder: engine.json.

It is only believed for the same processor, weights, versions and settings; a damaged one is as none.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dure.cpu import Cpu
from dure.one_step import one_step
from dure_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

NAME = "engine.json"
_PACKAGES = ("dure", "xllamacpp", "auto-round-lib", "torch")
_MOST = 16  # of one model: some kinds of hosts, each with some settings


@dataclass(frozen=True)
class Measured:
    """Of one engine, in tokens a second: a prompt read, one answer written, answers in all slots together.

    load_s     seconds until it could answer; at its first start with the packing of its weights
    failure    why there are no figures
    """

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    decode_all_tokens_per_s: float = 0.0
    load_s: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Choice:
    """engine: `auto` where only a measurement could tell. measured: by engine, empty where rules decided."""

    engine: str
    reason: str
    measured: dict[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    key: dict[str, Any]
    choice: Choice


_ENTRIES = TypeAdapter(list[_Entry])


def key_of(weights: Path, cpu: Cpu, candidates: Mapping[str, WorkerSettings]) -> dict[str, Any]:
    """What the figures depend on. candidates: each engine's own settings, as `fit` may have made them."""
    status = weights.stat()
    return {
        "cpu": cpu.name or cpu.machine,
        "flags": hashlib.sha256(" ".join(sorted(cpu.flags)).encode()).hexdigest()[:12],
        "weights": {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns},
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "settings": {
            name: {
                "slots": each.slots,
                "context": each.context,
                "threads": each.num_threads,
                "load": each.load,
                "kv_bits": each.kv_bits,
                "draft_model": each.draft_model,
                "weights": each.weights,
            }
            for name, each in candidates.items()
        },
    }


def find(folder: Path, key: dict[str, Any]) -> Choice | None:
    return next((entry.choice for entry in _read(folder) if entry.key == key), None)


def remember(folder: Path, key: dict[str, Any], choice: Choice) -> None:
    """In one step. A folder that cannot be written costs the next start the same time."""
    others = [entry for entry in _read(folder) if entry.key != key and entry.key.get("weights") == key["weights"]]
    entries = [*others, _Entry(key, choice)][-_MOST:]
    try:
        with one_step(folder / NAME) as unfinished:
            unfinished.write_bytes(_ENTRIES.dump_json(entries, indent=1))
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): the next start measures again",
            folder / NAME,
            error.strerror,
            extra={"action": "engine.unremembered"},
        )


def _read(folder: Path) -> list[_Entry]:
    try:
        return _ENTRIES.validate_json((folder / NAME).read_bytes())
    except (OSError, ValidationError):
        return []


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
