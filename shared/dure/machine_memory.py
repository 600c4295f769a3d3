"""What this process may use of its machine: the smallest of all limits above it, and never more than the host has.

A container sees the host's /proc/meminfo and the host's processors; its own limits stand in its control group (cgroup
v2, or v1 on older systems, or both at once) and in the groups around that. Every function reads below `root`, so that
tests can show it any machine. Source: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; proc(5).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# v1 writes "no limit" as the largest multiple of a page (9223372036854771712); no machine comes near this.
_ABSURD = 1 << 60
_V1, _V2 = 1, 2  # of cgroups
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNITS |= {f"{unit}ib": size for unit, size in _UNITS.items() if unit}
_UNITS |= {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_MEMINFO = re.compile(r"^(\w+): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """Bytes. source: whose limit it is, as people would look for it."""

    total: int
    available: int
    source: str = "host"


@dataclass(frozen=True)
class Cores:
    """affinity: processors that this process may run on; quota: of how many it gets the time, None without a limit."""

    affinity: int
    quota: float | None = None

    @property
    def num_threads(self) -> int:
        """Compute threads that find a processor. More would wait for each other: a quota of 1.5 is one thread."""
        if self.quota is None:
            return max(1, self.affinity)
        return max(1, min(self.affinity, int(self.quota)))


def usable_memory(root: Path = Path("/")) -> Memory | None:
    """None where there is neither /proc/meminfo nor a control group, as on macOS."""
    host = dict(_MEMINFO.findall(_text(root / "proc/meminfo")))
    limits = list(_memory_limits(root))
    if "MemTotal" in host:
        total = int(host["MemTotal"]) << 10
        limits.append(Memory(total, int(host.get("MemAvailable") or host.get("MemFree") or 0) << 10))
    if not limits:
        return None
    smallest = min(limits, key=lambda limit: limit.total)
    return Memory(smallest.total, max(0, min(limit.available for limit in limits)), smallest.source)


def usable_cores(root: Path = Path("/"), affinity: int | None = None) -> Cores:
    """Without an affinity, that of this process."""
    quotas = [quota for folder, version in _folders(root, "cpu") if (quota := _quota(folder, version)) is not None]
    return Cores(_affinity() if affinity is None else affinity, min(quotas, default=None))


def parse_bytes(text: str) -> int | None:
    """A size as people write it: 3GB is 3×10⁹, 3GiB and 3g are 3×2³⁰, 3072MiB; None where it is none."""
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]*)\s*", text.casefold())
    if not found or found[2] not in _UNITS:
        return None
    return int(float(found[1]) * _UNITS[found[2]]) or None


def _memory_limits(root: Path) -> Iterator[Memory]:
    for folder, version in _folders(root, "memory"):
        names = ("memory.max", "memory.high") if version == _V2 else ("memory.limit_in_bytes",)
        limit = min((size for name in names if (size := _number(folder / name)) is not None), default=None)
        if limit is not None and limit < _ABSURD:
            yield Memory(limit, limit - _used(folder, version), f"cgroup v{version} {folder}")


def _used(folder: Path, version: int) -> int:
    """Without the page cache that the kernel would give back first."""
    used = _number(folder / ("memory.current" if version == _V2 else "memory.usage_in_bytes")) or 0
    name = "inactive_file" if version == _V2 else "total_inactive_file"
    cache = re.search(rf"^{name} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return max(0, used - (int(cache[1]) if cache else 0))


def _quota(folder: Path, version: int) -> float | None:
    if version == _V2:
        quota, period = [*_text(folder / "cpu.max").split(), "", ""][:2]
    else:
        quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    # "max" (v2) and "-1" (v1) are no digits: no limit.
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _folders(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The process's own group, then those around it, with the version of each."""
    own = list(_own_groups(root, controller))
    for version, path in own:
        for mount_root, mount in _mounts(root, controller, version):
            # Within a container without its own namespace, paths are the host's, and the mount shows a part of them.
            inside = PurePosixPath(path)
            relative = inside.relative_to(mount_root) if inside.is_relative_to(mount_root) else PurePosixPath()
            for level in (relative, *relative.parents):
                yield mount / level, version


def _own_groups(root: Path, controller: str) -> Iterator[tuple[int, str]]:
    lines = _text(root / "proc/self/cgroup").splitlines()
    for line in lines or ["0::/", f"1:{controller}:/"]:
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if not names:
            yield _V2, path or "/"
        elif controller in names.split(","):
            yield _V1, path or "/"


def _mounts(root: Path, controller: str, version: int) -> Iterator[tuple[str, Path]]:
    """(what of the hierarchy is mounted, where), below `root`."""
    num_found = 0
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = [*left.split(), *["/"] * 5], [*right.split(), "", "", ""]
        wanted = kind[0] == "cgroup2" if version == _V2 else kind[0] == "cgroup" and controller in kind[2].split(",")
        if wanted:
            num_found += 1
            yield fields[3], root / fields[4].lstrip("/")
    if not num_found:  # /proc is hidden or mounted elsewhere: the usual places
        yield "/", root / "sys/fs/cgroup" if version == _V2 else root / "sys/fs/cgroup" / controller


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # knows taskset and cpusets; macOS has it not
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
