"""The cluster's Redis: that it can be trusted with jobs, answers fast, agrees on the time, and has workers."""

import contextlib
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from dure import cluster, keys
from dure.cluster import Address
from dure.doctor.check import Check, Remedy, bad, of_error, ok, warn
from dure.errors import DureError, SettingsError
from dure.redis_policy import Durability, inspect_server
from dure.worker_registry import WorkerInfo, WorkerRegistry

_OLDEST = (6, 2)
_NUM_PINGS = 21
_SLOW_S = 0.02  # a running answer is written every 0.1 s, and each write waits for one such round
_SKEW_S = 5.0
_FULL = 0.8


@dataclass(frozen=True)
class ServerVersion:
    """shown: with the server's own name. number: of the Redis that it is compatible with."""

    shown: str
    number: tuple[int, ...]

    @classmethod
    def read(cls, raw: dict[str, Any]) -> "ServerVersion":
        """From INFO, or from HELLO where INFO is refused."""
        redis_version = str(raw.get("redis_version") or raw.get("version") or "0")
        name = str(raw.get("server_name") or raw.get("server") or "redis").capitalize()
        own = str(raw.get(f"{name.lower()}_version") or redis_version)
        return cls(f"{name} {own}", tuple(map(int, re.findall(r"\d+", redis_version)[:3])))


def check_redis(address: Address, model: str) -> list[Check]:
    """All checks of one server, up to the one at which it fails altogether. model: what is to be served."""
    found: list[Check] = []
    try:
        client = cluster.dial(address.url)
    except SettingsError as error:
        return [of_error("redis", error)]
    with contextlib.closing(client):
        try:
            client.ping()
            for check in _checks(client, address, model):
                found.append(check)  # noqa: PERF402 - what was found before a failure is kept
        except (redis.RedisError, DureError) as error:
            found.append(of_error("redis", cluster.explained(error, client)))
    return found


def _checks(client: "redis.Redis", address: Address, model: str) -> Iterator[Check]:
    yield judge_version(_version(client), cluster.place(client), is_from_up=address.is_from_up)
    yield from _check_policy(client)
    yield _check_memory(client)
    yield judge_latency(_ping_s(client))
    yield judge_clock(_skew_s(client))
    yield judge_workers(WorkerRegistry(client).live(), model)
    with client.pipeline(transaction=False) as pipe:
        for name in (keys.JOBS_QUEUED, keys.JOBS_RUNNING, keys.JOBS_QUARANTINED):
            pipe.zcard(name)
        yield judge_jobs(*pipe.execute())


def judge_version(version: ServerVersion, where: str, *, is_from_up: bool) -> Check:
    found = f"{version.shown} at {where}{', started by `dure up`' if is_from_up else ''}"
    if version.number < _OLDEST:
        return bad(
            "redis",
            found,
            Remedy("needs Redis 6.2 or newer, or any Valkey: update it", "Redis 6.2 이상이나 Valkey로 바꾸세요."),
        )
    return ok("redis", found)


def judge_durability(durability: Durability) -> Check:
    name = "redis disk"
    match durability:
        case Durability.ALWAYS:
            return ok(name, "each write is on the disk before it is answered (appendfsync always)")
        case Durability.WAITED:
            return ok(name, "written every second, and dure waits for it (appendfsync everysec, WAITAOF)")
        case Durability.SECOND:
            return warn(
                name,
                "appendfsync everysec without WAITAOF: a power cut can lose jobs of the last second",
                Remedy("run `redis-cli config set appendfsync always`, and set it in the configuration file",
                       "`redis-cli config set appendfsync always`를 실행하고 설정 파일에도 적으세요."),
            )  # fmt: skip
        case Durability.NONE:
            return bad(
                name,
                "no append-only file: a restart of this Redis loses jobs",
                Remedy("run `redis-cli config set appendonly yes`, and set it in the configuration file",
                       "`redis-cli config set appendonly yes`를 실행하고 설정 파일에도 적으세요."),
            )  # fmt: skip
    return warn(
        name,
        "this Redis hides its configuration, so nobody knows whether it keeps jobs",
        Remedy("make sure of appendonly yes and maxmemory-policy noeviction, or allow +config|get to this login",
               "appendonly yes와 maxmemory-policy noeviction인지 확인하거나 이 계정에 +config|get을 허용하세요."),
    )  # fmt: skip


def judge_memory(used: int, limit: int) -> Check:
    """Bytes; limit 0: none."""
    found = f"{used >> 20} MiB used, " + (f"{limit >> 20} MiB allowed (maxmemory)" if limit else "no limit set")
    if limit and used > _FULL * limit:
        return warn(
            "redis memory",
            found,
            Remedy("raise maxmemory, or clear ended jobs away: `dure jobs purge --state ended`",
                   "maxmemory를 늘리거나 `dure jobs purge --state ended`로 끝난 작업을 치우세요."),
        )  # fmt: skip
    return ok("redis memory", found)


def judge_latency(median_s: float) -> Check:
    found = f"PING takes {median_s * 1000:.1f} ms (median of {_NUM_PINGS})"
    if median_s > _SLOW_S:
        return warn(
            "latency",
            found,
            Remedy("use a cable instead of Wi-Fi, or a Redis that is nearer or less busy",
                   "무선 대신 유선을 쓰거나, 더 가깝고 한가한 Redis를 쓰세요."),
        )  # fmt: skip
    return ok("latency", found)


def judge_clock(skew_s: float) -> Check:
    """skew_s: how far Redis' clock is ahead of this machine's."""
    if abs(skew_s) <= _SKEW_S:
        return ok("clock", f"differs from Redis' by {abs(skew_s):.1f} s")
    return warn(
        "clock",
        f"this machine is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} Redis. Jobs are safe, since "
        "only the server's clock counts, but times in logs differ",
        Remedy("switch NTP on, on both: `timedatectl set-ntp true`",
               "두 컴퓨터 모두 NTP를 켜세요. `timedatectl set-ntp true`"),
    )  # fmt: skip


def judge_workers(live: list[WorkerInfo], model: str) -> Check:
    if not live:
        return warn("workers", "none is alive, so questions wait",
                    Remedy("start one: `dure worker`", "`dure worker`로 하나 켜세요."))  # fmt: skip
    models = {worker.model for worker in live}
    found = f"{len(live)} alive, {sum(worker.num_slots for worker in live)} slots"
    if model not in models:
        return warn(
            "workers",
            f"{found}, but none serves {model}; there: {', '.join(sorted(models))}",
            Remedy(f"start one: `dure worker --model {model}`, or set DURE_MODEL to one of those",
                   f"`dure worker --model {model}`로 켜거나 DURE_MODEL을 저 가운데 하나로 바꾸세요."),
        )  # fmt: skip
    return ok("workers", found)


def judge_jobs(num_queued: int, num_running: int, num_quarantined: int) -> Check:
    found = f"{num_queued} queued, {num_running} running, {num_quarantined} quarantined"
    if num_quarantined:
        return warn(
            "jobs",
            found,
            Remedy("these ended their workers several times: `dure jobs list --state quarantined`",
                   "작업기를 여러 번 멈추게 한 작업입니다. `dure jobs list --state quarantined`로 보세요."),
        )  # fmt: skip
    return ok("jobs", found)


def _check_policy(client: "redis.Redis") -> Iterator[Check]:
    try:
        durability = inspect_server(client)
    except SettingsError as error:
        yield of_error("redis rules", error)
        return
    if durability is not Durability.UNKNOWN:
        yield ok("redis rules", "login, scripts and noeviction as they should be")
    yield judge_durability(durability)


def _check_memory(client: "redis.Redis") -> Check:
    try:
        info = client.info("memory")
    except redis.exceptions.NoPermissionError:
        return ok("redis memory", "not told to this login, which needs it not (INFO)")
    return judge_memory(int(info["used_memory"]), int(info.get("maxmemory", 0)))


def _version(client: "redis.Redis") -> ServerVersion:
    try:
        return ServerVersion.read(client.info("server"))
    except redis.exceptions.NoPermissionError:
        hello = client.execute_command("HELLO")  # type: ignore[no-untyped-call]
        pairs = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
        return ServerVersion.read(pairs)


def _ping_s(client: "redis.Redis") -> float:
    seconds = []
    for _ in range(_NUM_PINGS):
        start = time.perf_counter()
        client.ping()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _skew_s(client: "redis.Redis") -> float:
    before_s = time.time()
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6 - (before_s + time.time()) / 2
