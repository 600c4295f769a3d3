"""What a figure was measured on."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("dure", "xllamacpp", "celery", "kombu", "redis", "fastapi", "uvicorn", "flower")


def describe() -> dict[str, str]:
    return {
        "processor": _processor(),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def peak_mib(pid: int | str) -> float:
    """Peak resident memory of a process so far, MiB (VmHWM: the kernel's own high-water mark; Linux)."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    peak = next(row for row in status.splitlines() if row.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def age_s(pid: int) -> float:
    """Seconds since a process began, to a hundredth (proc(5): starttime counts from boot in clock ticks; Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    began = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text("utf-8").split()[0]) - began


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
