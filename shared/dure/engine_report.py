"""Which engine a worker would take on this machine, as the worker's own program says it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from dure.errors import SettingsError
from dure.memory_plan import MIB, Load


@dataclass(frozen=True)
class EngineReport:
    """engine: `auto` where only a worker's first start can tell. measured: by engine, with `failure` where it failed.

    load: what the worker's settings ask of it.
    """

    engine: str
    reason: str
    measured: dict[str, dict[str, Any]]
    load: Load

    @property
    def failures(self) -> list[str]:
        return [name for name, found in self.measured.items() if found["failure"]]

    @property
    def possible(self) -> list[str]:
        return ["llama", "ark"] if self.engine == "auto" else [self.engine]

    @classmethod
    def of_worker(cls, model: str) -> "EngineReport":
        """Nothing is measured for it. Raises SettingsError: a worker with these settings would not start."""
        environ = os.environ | {"DURE_MODEL": model}
        command = [sys.executable, "-P", "-m", "dure_worker.choice"]
        done = subprocess.run(command, env=environ, capture_output=True, encoding="utf-8", check=False)
        said = done.stderr.strip().splitlines()
        if done.returncode:
            raise SettingsError(said[-1] if said else f"the worker's program ended with status {done.returncode}")
        found = json.loads(done.stdout.splitlines()[-1])
        load = Load(
            found["slots"],
            found["context"],
            found["prompt_cache_mib"] * MIB,
            has_editor=found["has_editor"],
            engine=found["engine"],
        )
        return cls(found["engine"], found["reason"], found["measured"], load)
