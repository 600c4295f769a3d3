"""A teacher's distributions over the tokens that are learnt: computed once, kept on disk, read while a student learns.

Of each distribution the likeliest tokens are kept, and the rest as one bucket, so that a student is not rewarded for
what it puts there. A folder:

teacher.json          whose distributions over what these are
00000.safetensors     of the first samples: ids (tokens, kept), logs (tokens, kept), tail (tokens); natural logarithms
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from dure.errors import SettingsError
from dure.one_step import one_step
from dure_workshop.dequantize import Floats
from dure_workshop.evaluate.logits import Logits
from dure_workshop.results_folder import prepared
from dure_workshop.training.dataset import Dataset, Sample

FILE = "teacher.json"
_SCHEMA = 1
SAMPLES = 64  # of a shard
# Of a probability of nothing: what float16 still tells from others.
_LEAST_LOG = -30.0


@dataclass(frozen=True)
class Targets:
    """For each learnt token of a sample: ids (n, kept) int64, logs (n, kept) float32, tail (n) float32."""

    ids: NDArray[np.int64]
    logs: Floats
    tail: Floats


class Teacher:
    """What a folder holds of a dataset. Open it with `teach`."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._counts = [sum(sample.is_learnt) for sample in dataset.samples]
        self._shard = lru_cache(maxsize=4)(lambda number: load_file(_path(folder, number)))

    def of(self, number: int) -> Targets:
        """Of that sample of the dataset."""
        shard, place = divmod(number, SAMPLES)
        start = sum(self._counts[shard * SAMPLES : shard * SAMPLES + place])
        part = slice(start, start + self._counts[number])
        found = self._shard(shard)
        return Targets(
            found["ids"][part].astype(np.int64),
            found["logs"][part].astype(np.float32),
            found["tail"][part].astype(np.float32),
        )


def teach(
    logits: Logits,
    dataset: Dataset,
    folder: Path,
    num_kept: int = 64,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Teacher:
    """Compute what the folder lacks. on_progress(samples done, of all).

    Raises SettingsError for a folder of another teacher or dataset, EngineError.
    """
    _begin(folder, {**_identity(logits, dataset), "num_kept": num_kept})
    total = len(dataset.samples)
    for number, first in enumerate(range(0, total, SAMPLES)):
        samples = dataset.samples[first : first + SAMPLES]
        if not _path(folder, number).exists():
            found = [_kept(logits, sample, num_kept) for sample in samples]
            named = {
                name: np.concatenate([each[at] for each in found]) for at, name in enumerate(("ids", "logs", "tail"))
            }
            with one_step(_path(folder, number)) as unfinished:
                unfinished.write_bytes(save(named))
        on_progress(first + len(samples), total)
    return Teacher(folder, dataset)


def _kept(logits: Logits, sample: Sample, num_kept: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """ids, logs and tail of a sample's learnt tokens."""
    first = sample.is_learnt.index(True)
    wanted = np.array(sample.is_learnt[first:])
    parts, at = [], 0
    for block in logits.blocks(sample.ids[:-1], len(wanted)):
        parts.append(_likeliest(block[wanted[at : at + len(block)]], num_kept))
        at += len(block)
    ids, logs, tail = (np.concatenate(each) for each in zip(*parts, strict=True))
    return ids, logs, tail


def _likeliest(block: Floats, num_kept: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    logs = block.astype(np.float64) - block.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    num_kept = min(num_kept, block.shape[1] - 1)
    ids = np.argpartition(-logs, num_kept - 1, axis=1)[:, :num_kept]
    kept = np.take_along_axis(logs, ids, 1)
    rest = 1 - np.exp(kept).sum(axis=1)
    tail = np.log(np.maximum(rest, np.exp(_LEAST_LOG)))
    kind = np.uint16 if block.shape[1] <= np.iinfo(np.uint16).max else np.int32
    return ids.astype(kind), np.maximum(kept, _LEAST_LOG).astype(np.float16), tail.astype(np.float16)


def _begin(folder: Path, told: dict[str, Any]) -> None:
    """Note whose folder it is, or see that it is this one's."""
    path = prepared(folder) / FILE
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        with one_step(path) as unfinished:
            unfinished.write_text(json.dumps(told, indent=1), "utf-8")
        return
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): choose another folder") from None
    except ValueError:
        raise SettingsError(f"{path} is damaged: delete its folder, or choose another") from None
    if found != told:
        others = ", ".join(sorted(name for name in told if found.get(name) != told[name]))
        raise SettingsError(f"{folder} holds what a teacher said of something else ({others}): choose another folder")


def _identity(logits: Logits, dataset: Dataset) -> dict[str, Any]:
    weights = logits.model.path.stat()
    return {
        "schema": _SCHEMA,
        "teacher": logits.model.path.name,
        "teacher_bytes": weights.st_size,
        "teacher_changed": weights.st_mtime_ns,
        "engine": type(logits).__name__,
        "vocabulary": _digest([logits.model.vocabulary.tokens]),
        "samples": _digest((sample.ids, sample.is_learnt) for sample in dataset.samples),
    }


def _digest(parts: Iterator[Any] | list[Any]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(repr(part).encode())
    return found.hexdigest()[:16]


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.safetensors"
