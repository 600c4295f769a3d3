"""The model's file: that it is here, and that it is the one that the catalogue names."""

import os
from collections.abc import Callable
from pathlib import Path

from dure import catalog
from dure.catalog import CatalogModel
from dure.doctor.check import Check, Remedy, bad, gb, ok, warn

Advance = Callable[[int], None]


def check_model(models_dir: Path, model: CatalogModel | None, advance: Advance | None) -> Check:
    """No model: the scripted one. advance(n) hears of n more bytes read; without it the file is not read through."""
    if model is None:
        return ok("model", "scripted, which needs no weights")
    path = catalog.weights_path(models_dir, model)
    fetch = f"`dure model fetch {model.name}`"
    try:
        fault = _fault(path, model, advance)
    except FileNotFoundError:
        return warn(
            "model",
            f"{model.name} is not here yet ({gb(model.num_bytes)})",
            Remedy(f"`dure up` and `dure worker` fetch it; beforehand: {fetch}",
                   f"`dure up`과 `dure worker`가 받아 옵니다. 미리 받으려면: {fetch}"),
        )  # fmt: skip
    except OSError as error:
        fault = f"it cannot be read ({error.strerror})"
    if fault:
        # Deleted first: a file whose size and time are unchanged counts as checked already.
        command = f"`rm '{path}' && dure model fetch {model.name}`"
        remedy = Remedy(f"fetch it again: {command}", f"다시 받으세요: {command}")
        return bad("model", f"{model.name} is damaged: {fault}", remedy)
    how = "sha256 right" if advance else "size right; its sha256 was not checked (--quick)"
    return ok("model", f"{model.name}, {how}")


def fetch_bytes(models_dir: Path, model: CatalogModel | None) -> int:
    """Disk needed to have the model, at most: parts and whole lie there at once, and so does what it is made of."""
    if model is None or os.access(catalog.weights_path(models_dir, model), os.F_OK):
        return 0
    if model.made_by is None:
        return 2 * model.num_bytes
    base = catalog.find(model.made_by.base)
    base_bytes = fetch_bytes(models_dir, base)
    return max(base_bytes, 2 * model.num_bytes + (base.num_bytes if base_bytes else 0))


def _fault(path: Path, model: CatalogModel, advance: Advance | None) -> str:
    """What is wrong with the file, '' if nothing is. Raises OSError."""
    size = path.stat().st_size
    if size != model.num_bytes:
        return f"it has {size:,} bytes instead of {model.num_bytes:,}"
    if advance and catalog.sha256_of(path, advance) != model.sha256:
        return "its sha256 is not that of the catalogue"
    return ""
