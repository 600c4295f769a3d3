"""Watches one worker's process: that it beats, that its answers advance, that it stays within its memory."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from dure.children import Child
from dure.errors import StoreError
from dure.heartbeat import Beat
from dure.job import LossCause
from dure.job_store import JobStore, connect
from dure.settings import Settings
from dure.worker_registry import process_prefix

log = logging.getLogger(__name__)

# Reading 1.1 GB of weights from a slow disk of an old PC takes minutes, once.
_LOADED_WITHIN_S = 900.0
_STOP_S = 30.0  # above the worker's own grace
_PIPE_BYTES = 1 << 16


def worker_child(name: str, environ: dict[str, str], log_path: Path | None, title: str = "worker") -> "WorkerChild":
    """The worker `name` of this machine, to be started and watched; DURE_REDIS_URL stands in environ."""
    settings = Settings.read(environ)
    url = settings.require_redis_url()
    return WorkerChild(
        title,
        [sys.executable, "-P", "-m", "dure_worker"],
        environ | {"DURE_WORKER_NAME": name},
        log_path,
        _STOP_S,
        worker_name=name,
        open_store=lambda: JobStore(connect(url, Settings.redis_timeout_s)),
    )


@dataclass
class WorkerChild(Child):
    """A worker's process. When it dies its jobs are given to others at once, each with the cause and the memory."""

    worker_name: str = ""
    open_store: Callable[[], JobStore] | None = None

    def _launch(self, log_file: "IO[bytes] | None") -> "subprocess.Popen[bytes]":
        self._cause: LossCause | None = None
        self._beat = Beat(is_ready=False)
        self._beat_at = time.monotonic()
        self._rss_mib = 0
        self._num_oom_kills = _num_oom_kills()
        self._pipe, ours = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            return self._spawn(log_file, (ours,), DURE_WORKER_HEARTBEAT_FD=str(ours))
        finally:
            os.close(ours)  # only the child's copy keeps the pipe open

    def watch(self) -> None:
        """Kill it when it is too large or no longer advances: a hung process does not hear SIGTERM."""
        super().watch()
        self._listen()
        self._cause = self._cause or self._what_is_wrong()
        if self._cause is not None and self.process is not None:
            self.process.kill()
            self.process.wait()

    def on_death(self) -> str:
        """Give its jobs to others; say how it ended."""
        self._listen()
        os.close(self._pipe)
        cause = self._cause or self._why_it_died()
        if cause is None:
            return "stopped in order, its memory ran short" if self._is_short_of_memory else self.how_it_ended()
        self._give_up_jobs(cause)
        return {
            LossCause.MEMORY: self._too_large(),
            LossCause.HUNG: "killed because it no longer advanced",
        }.get(cause, self.how_it_ended())

    def _too_large(self) -> str:
        if self._cause is None:
            return "killed by the system, whose memory had run out"
        return f"killed for its memory ({self._rss_mib} MiB, allowed are {self._beat.memory_mib})"

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if beat := Beat.last_of(os.read(self._pipe, _PIPE_BYTES)):
                self._beat, self._beat_at = beat, time.monotonic()
        with contextlib.suppress(psutil.Error):
            if self.process is not None and self.is_alive:
                self._rss_mib = psutil.Process(self.process.pid).memory_info().rss >> 20

    def _what_is_wrong(self) -> LossCause | None:
        if 0 < self._beat.memory_mib < self._rss_mib:
            return LossCause.MEMORY
        silent_s = time.monotonic() - self._beat_at
        # While weights are loaded the interpreter may stand still, and nobody waits for an answer yet.
        allowed_s = self._beat.hung_after_s if self._beat.is_ready else _LOADED_WITHIN_S
        if silent_s > allowed_s or self._beat.stalled_s > self._beat.hung_after_s:
            return LossCause.HUNG
        return None

    def _why_it_died(self) -> LossCause | None:
        """None: it stopped in order."""
        code = self.process.returncode if self.process else 0
        if code == -signal.SIGKILL:
            return LossCause.MEMORY if _num_oom_kills() > self._num_oom_kills else LossCause.KILLED
        return LossCause.CRASHED if code and not self._is_short_of_memory else None

    @property
    def _is_short_of_memory(self) -> bool:
        """It ended its answers, or gave them back, to start anew."""
        return self.process is not None and self.process.returncode == os.EX_TEMPFAIL

    def _give_up_jobs(self, cause: LossCause) -> None:
        if self.open_store is None or self.process is None:
            return
        process = process_prefix(self.worker_name, self.process.pid)
        extra = {"worker": self.worker_name, "cause": cause.value, "rss_mib": self._rss_mib}
        try:
            store = self.open_store()
            with contextlib.closing(store.redis):
                for job_id in {*self._beat.job_ids, *store.running_ids()}:
                    fate = store.lose(job_id, process, cause, self._rss_mib)
                    log.warning("%s", fate, extra={"action": "job.lose", "job_id": job_id, **extra})
        except StoreError as error:
            # Their leases run out all the same.
            log.warning("its jobs wait for their leases: %s", error, extra={"action": "job.lose", **extra})


def _num_oom_kills() -> int:
    """Processes that the kernel killed for memory, on this machine, so far (Linux; 0 elsewhere)."""
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text("ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
