"""What a Redis must be like to be trusted with jobs, checked at start."""

import logging
import re
from enum import StrEnum
from typing import cast

import redis

from dure import keys
from dure.errors import SettingsError
from dure.job import SCHEMA

log = logging.getLogger(__name__)


class Durability(StrEnum):
    """When an accepted job is on the server's disk."""

    ALWAYS = "always"  # appendfsync always: before each answer of the server
    WAITED = "waited"  # appendfsync everysec, and SUBMIT waits for the disk (WAITAOF, Redis 7.2 and Valkey)
    SECOND = "second"  # appendfsync everysec on an older server: the last second is lost in a power cut
    SYSTEM = "system"  # appendfsync no: when the operating system likes, up to half a minute later
    NONE = "none"  # no append-only file: a restart of the server loses jobs
    UNKNOWN = "unknown"  # the server is away, or hides its configuration


_WORRIES = {
    Durability.SECOND: "a power cut can lose jobs of the last second: run `redis-cli config set appendfsync always`",
    Durability.SYSTEM: "a power cut can lose jobs of half a minute: run `redis-cli config set appendfsync always`",
    Durability.NONE: "a restart of this Redis loses jobs: run `redis-cli config set appendonly yes`",
}


def inspect_server(client: "redis.Redis") -> Durability:
    """Refuse a server that would lose or misread jobs; say how far its disk can be trusted.

    Raises SettingsError with the remedy. A Redis that is away, or that hides its configuration, is let pass.
    """
    try:
        _require_rights(client)
        _require_known_schema(client)
        config = cast("dict[str, str]", client.config_get("maxmemory-policy", "appendonly", "appendfsync"))
        _require_no_eviction(config)
        durability = _durability(client, config)
    except redis.AuthenticationError as error:
        raise SettingsError(f"Redis refuses this login ({error}): correct the password in DURE_REDIS_URL") from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        if refusal := certificate_refusal(error):
            raise refusal from None
        return Durability.UNKNOWN  # it is waited for; its next start may be with another configuration anyway
    except redis.ResponseError as error:
        log.warning("cannot read Redis' configuration (%s): make sure of noeviction and appendonly", error)
        return Durability.UNKNOWN
    if worry := _WORRIES.get(durability):
        log.warning("%s", worry, extra={"action": "redis.durability"})
    return durability


def certificate_refusal(error: Exception) -> SettingsError | None:
    """What to do when a server's certificate was not accepted; None for any other error."""
    found = re.search(r"CERTIFICATE_VERIFY_FAILED\] (.+?)( \(_ssl|$)", str(error))
    if found is None:
        return None
    return SettingsError(
        f"Redis' certificate is not accepted ({found[1]}): set DURE_REDIS_CA to the file of the CA that signed it, and "
        "use the host name that it was made for"
    )


def _require_rights(client: "redis.Redis") -> None:
    try:
        probe = client.script_load("return redis.call('EXISTS', KEYS[1])")
        client.evalsha(probe, 1, keys.JOBS_QUEUED)
    except redis.exceptions.NoPermissionError as error:
        raise SettingsError(
            f"this Redis user may not run the scripts that keep jobs safe ({error}): "
            "give it the rights of deploy/redis/users.acl"
        ) from None


def _require_known_schema(client: "redis.Redis") -> None:
    """Older releases may share a server with this one until a newer one forbids it here."""
    oldest = client.get(keys.SCHEMA_OLDEST)
    if oldest is not None and int(oldest) > SCHEMA:
        raise SettingsError(
            f"this Redis is used by a newer dure (jobs of schema {int(oldest)}, here {SCHEMA}): "
            "update dure on this machine"
        )


def _require_no_eviction(config: dict[str, str]) -> None:
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        raise SettingsError(
            f"this Redis has maxmemory-policy {policy} and would drop accepted jobs when it is full: run "
            "`redis-cli config set maxmemory-policy noeviction` and set the same in its configuration file"
        )


def _durability(client: "redis.Redis", config: dict[str, str]) -> Durability:
    if config.get("appendonly") != "yes":
        return Durability.NONE
    if config.get("appendfsync") in {"always", "no"}:
        return Durability.ALWAYS if config["appendfsync"] == "always" else Durability.SYSTEM
    try:
        client.execute_command("WAITAOF", 0, 0, 1)  # type: ignore[no-untyped-call]
    except redis.ResponseError:
        return Durability.SECOND
    return Durability.WAITED
