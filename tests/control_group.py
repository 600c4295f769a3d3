"""A real control group with a memory limit, where this machine lets us make one."""

import os
import re
import time
from pathlib import Path

import pytest

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_EMPTY_WITHIN_S = 30


class ControlGroup:
    """Bytes. `path` is where a process puts itself in: by writing its pid into cgroup.procs there."""

    def __init__(self, limit: int) -> None:
        self.is_v2 = (_V2 / "cgroup.controllers").exists()
        self.path = (_V2 if self.is_v2 else _V1) / f"dure-test-{os.getpid()}"
        try:
            if self.is_v2:
                (_V2 / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir()
            (self.path / ("memory.max" if self.is_v2 else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        self._forbid_swap(limit)

    def inside(self, command: list[str]) -> list[str]:
        """The command, run inside."""
        return ["/bin/sh", "-c", f"echo $$ > '{self.path}/cgroup.procs' && exec \"$@\"", "sh", *command]

    @property
    def num_oom_kills(self) -> int:
        text = (self.path / ("memory.events" if self.is_v2 else "memory.oom_control")).read_text("ascii")
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    @property
    def peak(self) -> int:
        name = "memory.peak" if self.is_v2 else "memory.max_usage_in_bytes"
        return int((self.path / name).read_text("ascii"))

    def remove(self) -> None:
        """Its processes have ended; the kernel may need a moment to notice."""
        give_up = time.monotonic() + _EMPTY_WITHIN_S
        while True:
            try:
                self.path.rmdir()
                return
            except OSError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    def _forbid_swap(self, limit: int) -> None:
        name, value = ("memory.swap.max", 0) if self.is_v2 else ("memory.memsw.limit_in_bytes", limit)
        if (self.path / name).exists():
            (self.path / name).write_text(str(value))
