"""Who serves what: the hash that each live worker keeps in Redis, and the list of all of them."""

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Self, cast

import redis

from dure import keys


@dataclass(frozen=True)
class WorkerInfo:
    """A live worker as it describes itself.

    rss_mib           resident memory of its process
    edits             corrections of answers since its start, by pass of the Korean editor
    failed_edits      how often each pass failed; the sentence went out as it was
    """

    name: str
    model: str
    engine: str
    num_slots: int
    context: int  # tokens a slot can hold, prompt and answer together
    pid: int
    num_running: int = 0
    tokens_per_s: float = 0.0  # recent decode speed over all slots
    rss_mib: int = 0
    edits: dict[str, int] = field(default_factory=dict)
    failed_edits: dict[str, int] = field(default_factory=dict)

    def to_hash(self) -> dict[str, str]:
        return {
            name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in asdict(self).items()
        }

    @classmethod
    def from_hash(cls, raw: dict[str, str]) -> Self:
        return cls(
            name=raw["name"],
            model=raw["model"],
            engine=raw["engine"],
            num_slots=int(raw["num_slots"]),
            context=int(raw["context"]),
            pid=int(raw["pid"]),
            num_running=int(raw["num_running"]),
            tokens_per_s=float(raw["tokens_per_s"]),
            rss_mib=int(raw["rss_mib"]),
            # Workers of earlier releases do not count them.
            edits=json.loads(raw.get("edits", "{}")),
            failed_edits=json.loads(raw.get("failed_edits", "{}")),
        )


log = logging.getLogger(__name__)

_FORGET_AFTER_S = 300


def process_prefix(name: str, pid: int) -> str:
    """One process of a worker, as the owners of its claims begin: a worker that starts again keeps its name."""
    return f"{name}:{pid}:"


# KEYS: worker, workers. ARGV: name, seconds to live, 1 where all fields follow, then field, value, …
# Returns 1, or 0 where the server knows nothing of this worker and needs all fields.
_ANNOUNCE = """
if ARGV[3] == '0' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if #ARGV > 3 then redis.call('HSET', KEYS[1], unpack(ARGV, 4)) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], redis.call('TIME')[1] * 1000, ARGV[1])
return 1
"""


class WorkerRegistry:
    def __init__(self, client: "redis.Redis") -> None:
        self._redis = client
        self._announce = client.register_script(_ANNOUNCE)
        self._told: dict[str, str] = {}

    def announce(self, info: WorkerInfo) -> None:
        """Say that this worker lives; forgotten after WORKER_TTL_S without the next call.

        Only what has changed is sent: an idle worker should cost a cheap network nearly nothing.
        """
        fields = info.to_hash()
        changed = {key: value for key, value in fields.items() if self._told.get(key) != value}
        if not self._tell(info.name, changed, is_all=False):
            self._tell(info.name, fields, is_all=True)
        self._told = fields

    def _tell(self, name: str, fields: dict[str, str], *, is_all: bool) -> bool:
        flat = [part for pair in fields.items() for part in pair]
        arguments: list[str | int] = [name, keys.WORKER_TTL_S, int(is_all), *flat]
        return bool(self._announce(keys=[keys.worker(name), keys.WORKERS], args=arguments))

    def withdraw(self, name: str) -> None:
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.worker(name))
            pipe.zrem(keys.WORKERS, name)
            pipe.execute()

    def forget_dead(self) -> None:
        """Drop names that were silent for long; `live` has passed over them since their hash expired."""
        seconds, _ = self._redis.time()
        self._redis.zremrangebyscore(keys.WORKERS, "-inf", (int(seconds) - _FORGET_AFTER_S) * 1000)

    def live(self) -> list[WorkerInfo]:
        names = cast("list[str]", self._redis.zrange(keys.WORKERS, 0, -1))
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keys.worker(name))
            found = pipe.execute()
        return [info for raw in found if raw and (info := _read(raw))]

    def last_seen_s(self) -> dict[str, float]:
        """When each announced itself last, by the server's clock; also who has fallen silent since, for a while."""
        scores = cast("list[tuple[str, float]]", self._redis.zrange(keys.WORKERS, 0, -1, withscores=True))
        return {name: score / 1000 for name, score in scores}


def _read(raw: dict[str, str]) -> WorkerInfo | None:
    try:
        return WorkerInfo.from_hash(raw)
    except (KeyError, ValueError) as error:
        log.warning("a worker's entry cannot be read: %r", error, extra={"action": "worker.unreadable"})
        return None
