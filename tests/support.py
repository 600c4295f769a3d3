"""What the tests start and how they wait: real servers as child processes, polling with a deadline."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import redis

from dure import catalog, embedded_redis, keys
from dure.events import Event
from dure.job import JobPayload, Message
from dure.job_store import JobStore, NewJob, connect
from dure.worker_registry import WorkerRegistry

T = TypeVar("T")

DURE = str(Path(sys.executable).with_name("dure"))
# A machine can be ten times slower than usual for a minute.
DEADLINE_S = 120.0
FAST_LEASE_S = 2.0
_POLL_S = 0.02


def wait_for(question: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Ask until the answer is true, and return it."""
    give_up = time.monotonic() + deadline_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < give_up, f"waited {deadline_s:g} s in vain for: {what}"
        time.sleep(_POLL_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def payload(question: str = "두레가 뭐예요?", **changes: Any) -> JobPayload:
    return JobPayload([Message("user", question)], style="polite", personality="helpful", **changes)


def new_job(job_id: str, **changes: Any) -> NewJob:
    return NewJob(**{"id": job_id, "payload": payload(), "model": catalog.SCRIPTED, **changes})


def events(store: JobStore, job_id: str) -> list[Event]:
    return store.events(job_id)


def assert_ended_once(store: JobStore, job_id: str, state: str) -> None:
    """What must hold for every job whatever happened: one final event, no gap, no trace in the two sets."""
    job = store.get(job_id)
    assert job is not None
    assert job.state == state
    found = events(store, job_id)
    assert [event.state for event in found if event.type == "final"] == [state]
    assert found[-1].type == "final"
    last = [event.seq for event in found if event.seq and event.attempt == job.attempt]
    assert last == list(range(1, len(last) + 1))
    assert store.redis.zscore(keys.JOBS_QUEUED, job_id) is None
    assert store.redis.zscore(keys.JOBS_RUNNING, job_id) is None


class Valkey:
    """The embedded server, as `dure up` configures it, or another binary with the same configuration.

    Stopped and started again it keeps port and data.
    """

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self._server = embedded_redis.prepare(folder, binary)
        self._log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._server.url

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._server.command, stdout=log, stderr=log)
        self._server.wait_until_ready(DEADLINE_S)

    def client(self) -> redis.Redis:
        return connect(self.url, 5)

    def stop(self) -> None:
        stop(self.process)


class Stack:
    """Valkey, a gateway and workers as processes, each with its own log in the test's folder."""

    def __init__(
        self, folder: Path, server: Path | None = None, redis_folder: Path | None = None, **environ: str
    ) -> None:
        self.folder = folder
        self.valkey = Valkey(redis_folder or folder / "redis", server)
        self.port, self.web_port = free_port(), free_port()
        self.model = catalog.SCRIPTED
        self._processes: list[subprocess.Popen[bytes]] = []
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
        self.environ = clean | {
            "DURE_HOME": str(folder),
            "DURE_REDIS_URL": self.valkey.url,
            "DURE_MODEL": catalog.SCRIPTED,
            "DURE_WORKER_ENGINE": "scripted",
            "DURE_GATEWAY_PORT": str(self.port),
            "DURE_GATEWAY_WEB_PORT": str(self.web_port),
            **{name: value for name, value in environ.items() if name.startswith("DURE_WORKER")},
        }
        self._gateway_environ = {name: value for name, value in environ.items() if not name.startswith("DURE_WORKER")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def web_url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    def __enter__(self) -> Self:
        self.valkey.start()
        self.store = JobStore(self.valkey.client())
        self.gateway = self.start("dure_gateway", "gateway", **self._gateway_environ)
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE_S)
        wait_for(self.is_up, "the gateway")
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.store.redis.close()
        for process in self._processes:
            if process is not self.gateway and process.poll() is None:
                process.terminate()  # all at once; each is waited for below
        for process in reversed(self._processes):
            stop(process)
        self.valkey.stop()

    def start(self, module: str, name: str, **environ: str) -> "subprocess.Popen[bytes]":
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module], env=self.environ | environ, stdout=log, stderr=log, cwd=self.folder
            )
        self._processes.append(process)
        return process

    def start_worker(self, name: str = "box", **environ: str) -> "subprocess.Popen[bytes]":
        process = self.start("dure_worker", name, DURE_WORKER_NAME=name, **environ)
        wait_for(lambda: process.poll() is not None or name in self._worker_names(), f"worker {name}")
        assert process.poll() is None, self.log(name).read_text("utf-8")
        return process

    def start_supervised(self, name: str = "box", **environ: str) -> "subprocess.Popen[bytes]":
        """`dure worker`: supervisor and worker. The worker's own log is in the same file."""
        own = {"DURE_WORKER_NAME": name, "DURE_WORKER_HUNG_AFTER_S": "5", **environ}
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [DURE, "worker", "--log", "-"], env=self.environ | own, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        self._processes.append(process)
        self.wait_for_worker(name)
        return process

    def wait_for_worker(self, name: str, not_pid: int = 0) -> int:
        """The pid of the live worker `name`, another than not_pid."""

        def pid() -> int:
            found = [worker.pid for worker in WorkerRegistry(self.store.redis).live() if worker.name == name]
            return found[0] if found and found[0] != not_pid else 0

        return wait_for(pid, f"worker {name}")

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.http.get("/readyz").status_code == 200, "readiness")

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def submit(self, message: str = "두레가 뭐예요?", **fields: Any) -> str:
        answer = self.http.post("/v1/jobs", json={"message": message, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def wait_for_state(self, job_id: str, *states: str) -> dict[str, Any]:
        return wait_for(lambda: self._in_state(job_id, states), f"job {job_id} in {states}")

    def wait_for_text(self, job_id: str) -> None:
        wait_for(lambda: any(event.text for event in events(self.store, job_id)), f"text of job {job_id}")

    def _in_state(self, job_id: str, states: tuple[str, ...]) -> dict[str, Any] | None:
        job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").json()
        return job if job["status"] in states else None

    def _worker_names(self) -> list[str]:
        return [worker["name"] for worker in self.http.get("/readyz").json()["workers"]]

    def is_up(self) -> bool:
        assert self.gateway.poll() is None, self.log("gateway").read_text("utf-8")
        try:
            return self.http.get("/healthz").is_success
        except httpx.TransportError:
            return False


def stop(process: "subprocess.Popen[bytes] | None") -> None:
    """SIGTERM, and SIGKILL when that does not help. A stopped (SIGSTOP) process is let go on first."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sse(lines: Any) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) pairs of a text/event-stream."""
    found, name = [], ""
    for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            found.append((name, json.loads(line.removeprefix("data:"))))
    return found
