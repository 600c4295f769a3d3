"""A whole `dure up` as child process, on free ports, for benchmarks and screenshots."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from benchmarks import machine

_READY_WITHIN_S = 600


class Village:
    """environ adds DURE_* settings. Models are shared with the user's own state folder; everything else is new.

    inside(command) is the command that runs it, for example within a control group.
    """

    def __init__(
        self,
        model: str,
        models_dir: Path,
        inside: Callable[[list[str]], list[str]] = lambda command: command,
        **environ: str,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dure-bench-")
        self.home = Path(self._folder.name)
        models_dir.mkdir(parents=True, exist_ok=True)
        (self.home / "models").symlink_to(models_dir)
        self.port, self.web_port, self.flower_port = free_ports(3)
        self.output = self.home / "output"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
        command = [str(Path(sys.executable).with_name("dure")), "up", "--model", model]
        command += [f"--port={self.port}", f"--web-port={self.web_port}", f"--flower-port={self.flower_port}"]
        with self.output.open("wb") as output:
            environ = clean | {"DURE_HOME": str(self.home), "COLUMNS": "200"} | environ
            self._process = subprocess.Popen(inside(command), env=environ, stdout=output, stderr=output)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        give_up = time.monotonic() + _READY_WITHIN_S
        while "is ready" not in self.output.read_text("utf-8", errors="replace"):
            if self._process.poll() is not None or time.monotonic() > give_up:
                said = self.output.read_text("utf-8")
                self.__exit__()
                raise SystemExit(f"dure up did not start:\n{said}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()

    def flower_password(self) -> str:
        return self.output.read_text("utf-8").split("(dure / ")[1].split(")")[0]

    def peak_mib(self) -> dict[str, float]:
        """Peak resident memory of each part so far, MiB."""
        parts = {}
        for child in psutil.Process(self._process.pid).children():
            line = child.cmdline()
            name = next((word.removeprefix("dure_") for word in line if word in _MODULES), "valkey")
            parts[name.replace("dure.", "")] = machine.peak_mib(child.pid)
        return parts


_MODULES = {"dure_gateway", "dure_worker", "dure.flower"}


def free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
