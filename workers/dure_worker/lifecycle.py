"""The worker's life: what it is doing, that it lives, and how it stops."""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import redis

from dure.worker_registry import WorkerInfo, WorkerRegistry, process_prefix
from dure_worker.engines import EngineInfo

log = logging.getLogger(__name__)

_ANNOUNCE_EVERY_S = 5.0
_SPEED_WINDOW_S = 60.0


class Lifecycle:
    """Announces the worker until `close`. After `begin_stop` no job is taken, and running ones have grace_s seconds."""

    def __init__(self, name: str, engine: EngineInfo, registry: WorkerRegistry, grace_s: float) -> None:
        self.name = name
        self._engine = engine
        self._registry = registry
        self._grace_s = grace_s
        self._running: set[str] = set()
        self._counted: deque[tuple[float, int]] = deque()
        self._edits: Counter[str] = Counter()
        self._failed_edits: Counter[str] = Counter()
        self._editing = threading.Lock()  # over these two
        self._stop_at: float | None = None
        self._closed = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._announce, name="announcer", daemon=True)
        self._thread.start()

    @property
    def process(self) -> str:
        """How the owner of each claim of this process begins; its supervisor knows it too."""
        return process_prefix(self.name, os.getpid())

    @property
    def is_stopping(self) -> bool:
        return self._stop_at is not None

    @property
    def is_grace_over(self) -> bool:
        return self._stop_at is not None and time.monotonic() > self._stop_at

    @contextmanager
    def running(self, job_id: str) -> Iterator[None]:
        self._running.add(job_id)
        try:
            yield
        finally:
            self._running.discard(job_id)

    @property
    def running_ids(self) -> list[str]:
        return list(self._running)

    def count(self, num_tokens: int) -> None:
        self._counted.append((time.monotonic(), num_tokens))

    def count_edits(self, edits: Counter[str], failed: Counter[str]) -> None:
        with self._editing:
            self._edits.update(edits)
            self._failed_edits.update(failed)

    def begin_stop(self) -> None:
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self._grace_s
            log.info("stopping: running answers may finish", extra={"action": "worker.stop", "seconds": self._grace_s})

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        try:
            self._registry.withdraw(self.name)
        except redis.RedisError:
            log.info("Redis is away; the entry expires by itself", extra={"action": "worker.withdraw"})

    def info(self) -> WorkerInfo:
        with self._editing:
            edits, failed = dict(self._edits), dict(self._failed_edits)
        return WorkerInfo(
            name=self.name,
            model=self._engine.model,
            engine=self._engine.name,
            num_slots=self._engine.num_slots,
            context=self._engine.context,
            pid=os.getpid(),
            num_running=len(self._running),
            tokens_per_s=self._speed(),
            rss_mib=self.rss_mib(),
            edits=edits,
            failed_edits=failed,
        )

    def rss_mib(self) -> int:
        """Resident memory of this process."""
        return int(self._process.memory_info().rss) >> 20

    def _speed(self) -> float:
        since = time.monotonic() - _SPEED_WINDOW_S
        while self._counted and self._counted[0][0] < since:
            self._counted.popleft()
        return round(sum(num for _, num in list(self._counted)) / _SPEED_WINDOW_S, 2)

    def _announce(self) -> None:
        while True:
            try:
                self._registry.announce(self.info())
            except redis.RedisError as error:
                log.warning("cannot announce: %s", error, extra={"action": "worker.announce"})
            if self._closed.wait(_ANNOUNCE_EVERY_S):
                return
