"""Whether there is room for a step, in memory and on disk, before it begins: what stops midway has cost its time."""

import shutil
from pathlib import Path

import psutil

from dure.errors import PlanTooLarge, SettingsError
from dure.machine_memory import usable_memory


def require_memory(num_bytes: int, what: str, remedy: str = "end other programs, or choose a smaller model") -> None:
    """what: that needs them, as a subject. Raises PlanTooLarge."""
    here = usable_memory()
    # Where there is neither /proc nor a control group.
    available = psutil.virtual_memory().available if here is None else here.available
    if num_bytes > available:
        raise PlanTooLarge(
            f"{what} needs about {num_bytes / 1e6:,.0f} MB of memory, and {available / 1e6:,.0f} MB are free: {remedy}"
        )


def require_disk(path: Path, num_bytes: int) -> None:
    """path: a file or folder, which need not be there yet. Raises SettingsError."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise SettingsError(f"{there} cannot be used ({error.strerror}): choose another folder") from None
    if num_bytes > free:
        raise SettingsError(
            f"{path} needs about {num_bytes / 1e6:,.0f} MB of disk, and {free / 1e6:,.0f} MB are free in {there}: "
            "free some space, or choose another folder"
        )
