"""What a model does on this machine: speed, memory, time to its first token. The manifest of the model keeps it.

Each round of speed and the filling of memory run in one child process (`python -m dure_workshop.measure`), whose start
is the cold start: the file lies in the page cache, nothing else of the model does.
"""

import datetime as dt
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dure import artifact, gguf, memory_plan
from dure.cpu import Cpu
from dure.errors import EngineError, ModelMissing
from dure.memory_plan import Load
from dure.settings import Settings
from dure_worker.settings import WorkerSettings


def bench(settings: Settings, worker: WorkerSettings, name: str, repeats: int, console: Console) -> dict[str, Any]:
    """Measure and remember. Raises ModelMissing, ModelCorrupt, EngineError."""
    path = artifact.require(name, settings.models_dir)
    manifest = artifact.read(path.parent)
    if manifest is None:
        raise ModelMissing(f"{path.parent} has no manifest: run `dure model fetch {name}`")
    with console.status("재는 중입니다… 몇 분 걸립니다. / Measuring… this takes minutes."):
        found = _measured(path, worker, repeats)
    load = Load(worker.slots, worker.context, has_editor=False)  # the engine alone is measured
    found = {
        "cpu": cpu_name(),
        "threads": worker.num_threads,
        "engine": "llama",
        "slots": worker.slots,
        "context": worker.context,
        **found,
        "plan_rss_bytes": memory_plan.plan(*memory_plan.of_gguf(gguf.read(path)), load).rss,
        "versions": artifact.versions(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    others = [each for each in manifest.measured if each.get("cpu") != found["cpu"]]
    artifact.write(path.parent, replace(manifest, measured=[*others, found]))
    return {"name": name, **found}


def _measured(path: Path, worker: WorkerSettings, repeats: int) -> dict[str, Any]:
    began = time.perf_counter()
    shape = [f"--slots={worker.slots}", f"--context={worker.context}", f"--threads={worker.num_threads}"]
    command = [sys.executable, "-m", "dure_workshop.measure", str(path), *shape, f"--repeats={repeats}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        if process.stdout is None:
            raise EngineError("the measuring process has no output")
        first = process.stdout.readline()
        cold_start_s = time.perf_counter() - began
        rest = process.stdout.read()
    if process.returncode or not first:
        raise EngineError(f"measuring ended with status {process.returncode}: `dure model verify {path}` may say why")
    found: dict[str, Any] = json.loads(rest.splitlines()[-1])
    return {"cold_start_s": cold_start_s, **found}


def cpu_name() -> str:
    """The processor's own name, else the kind of machine."""
    cpu = Cpu.here()
    return cpu.name or f"{cpu.machine} ({os.cpu_count()} cores)"
