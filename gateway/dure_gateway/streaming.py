"""Follows a job's events in Redis. A lost connection is taken up again where it broke."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import redis
from anyio import to_thread
from redis.asyncio import Redis

from dure import keys
from dure.errors import StoreUnavailable
from dure.events import Event, EventType
from dure.job import JobRecord
from dure.job_store import JobStore
from dure_gateway.problems import Problem
from dure_gateway.texts import Text

_BLOCK_MS = 1000
# Above BLOCK, or the client would break off a read that is merely waiting.
_READ_TIMEOUT_S = 10
# How long a follower outlives an absent Redis before it is told so.
_PATIENCE_S = 60.0
_PAUSE_S = 0.5


class EventReader:
    def __init__(self, redis_url: str, store: JobStore, max_streams: int) -> None:
        self._store = store
        self._redis = Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=_READ_TIMEOUT_S,
            socket_connect_timeout=3,
            max_connections=max_streams + 8,
        )
        self._max_streams = max_streams
        self._num_streams = 0

    async def follow(self, job_id: str, after: str = "0") -> AsyncGenerator[Event | JobRecord]:
        """Yield the job's events behind entry `after`, up to and including the final one.

        In each second without one, yield the job's record instead. Raises Problem when too many streams are open,
        StoreUnavailable when Redis stays away for a minute.
        """
        if self._num_streams >= self._max_streams:
            raise Problem(503, Text.TOO_MANY_STREAMS, retry_after_s=5)
        self._num_streams += 1
        try:
            while True:
                events = await self._read(job_id, after)
                for event in events:
                    after = event.id
                    if event.type is EventType.OTHER:
                        continue
                    yield event
                    if event.type is EventType.FINAL:
                        return
                if not events:
                    job = await to_thread.run_sync(self._store.get, job_id)
                    if job is None:
                        return
                    yield job
                    if job.state.is_final and not await self._read(job_id, after, block_ms=None):
                        # The stream is gone by age; the hash still knows how it ended.
                        yield Event(after, EventType.FINAL, job.attempt, state=job.state.value)
                        return
        finally:
            self._num_streams -= 1

    async def final(self, job_id: str) -> JobRecord | None:
        """Wait for the end. None: the job is gone."""
        async for _ in self.follow(job_id):
            pass
        return await to_thread.run_sync(self._store.get, job_id)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _read(self, job_id: str, after: str, block_ms: int | None = _BLOCK_MS) -> list[Event]:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                reply: Any = await self._redis.xread({keys.events(job_id): after}, count=200, block=block_ms)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if time.monotonic() > give_up:
                    raise StoreUnavailable(f"Redis does not answer: {error}") from error
                await asyncio.sleep(_PAUSE_S)
                continue
            entries = _entries(reply)
            return [Event.from_entry(entry_id, fields) for entry_id, fields in entries]


def _entries(reply: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries of the one stream asked for; redis-py gives a list (RESP2) or a dict (RESP3)."""
    if not reply:
        return []
    if isinstance(reply, dict):
        return [entry for batches in reply.values() for batch in batches for entry in batch]
    return list(reply[0][1])
