"""All that the routes share, built once per process."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import redis
from anyio import to_thread
from fastapi import Request, Response

from dure import broker, persona
from dure.errors import StoreError
from dure.job import JobRecord
from dure.job_store import JobStore, NewJob, connect
from dure.reconciler import Reconciler
from dure.redis_policy import Durability, inspect_server
from dure.settings import Settings
from dure.worker_registry import WorkerRegistry
from dure_gateway.admission import Admission, Ticket
from dure_gateway.problems import Problem
from dure_gateway.routing import Router
from dure_gateway.settings import GatewaySettings
from dure_gateway.streaming import EventReader
from dure_gateway.texts import Text

log = logging.getLogger(__name__)
T = TypeVar("T")

_RECONCILE_EVERY_S = 1.0
_CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left; nobody reads it


class Services:
    def __init__(self, settings: Settings, gateway: GatewaySettings) -> None:
        url = settings.require_redis_url()
        self.settings = gateway
        self.personas = persona.load(persona.own_folder(gateway.personas, settings.home))
        client = connect(url, Settings.redis_timeout_s)
        durability = inspect_server(client)
        self.store = JobStore(client, waits_for_disk=durability is Durability.WAITED)
        self.router = Router(WorkerRegistry(self.store.redis), settings.model)
        self.admission = Admission(self.store, broker.make_celery(url), self.router, gateway.max_queued)
        self.events = EventReader(url, self.store, gateway.max_streams)
        self._reconciler = Reconciler(self.store, self.admission.publish)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        reconciler = asyncio.create_task(self._reconcile(), name="reconciler")
        reconciler.add_done_callback(_end_process)
        try:
            yield
        finally:
            reconciler.cancel()
            await asyncio.gather(reconciler, *self._tasks, return_exceptions=True)
            await self.events.close()
            self.store.redis.close()

    async def admit(self, job: NewJob) -> Ticket:
        return await to_thread.run_sync(self.admission.admit, job)

    async def job(self, job_id: str) -> JobRecord:
        """Raises Problem (404)."""
        job = await to_thread.run_sync(self.store.get, job_id)
        if job is None:
            raise Problem(404, Text.NO_SUCH_JOB, "job_id")
        return job

    async def position(self, job: JobRecord) -> int | None:
        return await to_thread.run_sync(self.store.queue_position, job.id)

    async def answer(
        self, request: Request, job_id: str, keep: bool, render: Callable[[JobRecord | None], dict[str, Any]]
    ) -> Any:
        """Wait for the job's end and render it. A client that leaves first cancels the job, unless it is to be kept."""
        ended = await unless_gone(
            request, self.events.final(job_id), lambda: None if keep else self.cancel_soon(job_id)
        )
        if ended is None and await request.is_disconnected():
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        return render(ended)

    def cancel_soon(self, job_id: str) -> None:
        """Cancel without waiting: the caller's own task is being cancelled, because its client has left."""
        self._spawn(to_thread.run_sync(self.admission.cancel, job_id), f"cancel {job_id}")

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconcile(self) -> None:
        while True:
            try:
                await to_thread.run_sync(self._reconciler.run_once)
            except (StoreError, redis.RedisError) as error:
                log.warning("Redis is away: %s", error, extra={"action": "reconcile.wait"})
            await asyncio.sleep(_RECONCILE_EVERY_S)


def _end_process(helper: "asyncio.Task[None]") -> None:
    """A gateway without its reconciler must not live on as if it kept its promise; it is started again."""
    if not helper.cancelled() and (error := helper.exception()):
        log.critical("%s died", helper.get_name(), exc_info=error, extra={"action": "gateway.broken"})
        signal.raise_signal(signal.SIGTERM)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T], on_gone: Callable[[], None]) -> T | None:
    """Await `work`; when the client leaves first, call on_gone and return None."""
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            on_gone()
            return None
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found
