"""The cluster's Redis as operators' commands reach it, and its refusals in words that say what to do."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import redis

from dure import run_file
from dure.errors import DureError, SettingsError, StoreError, StoreUnavailable
from dure.job_store import JobStore, connect
from dure.redis_policy import certificate_refusal
from dure.settings import Settings


@dataclass(frozen=True)
class Address:
    """is_from_up: nobody named it; this machine's `dure up` uses it. The url holds a password."""

    url: str
    is_from_up: bool


@dataclass(frozen=True)
class Cluster:
    url: str
    store: JobStore


def find_redis(named: str | None) -> Address | None:
    """What was named by option or DURE_REDIS_URL, else what `dure up` wrote down. Raises SettingsError."""
    environ = dict(os.environ) | ({"DURE_REDIS_URL": named} if named else {})
    settings = Settings.read(environ)
    if settings.redis_url is not None:
        return Address(settings.require_redis_url(), is_from_up=False)
    running = run_file.read(settings.home)
    return Address(running.redis_url, is_from_up=True) if running else None


@contextlib.contextmanager
def open_cluster(named: str | None) -> Iterator[Cluster]:
    """Raises DureError with a remedy, also for what Redis refuses inside the block."""
    address = find_redis(named)
    if address is None:
        raise SettingsError(
            "no Redis is known here: start everything with `dure up`, or name the cluster's with "
            "--redis redis://:password@host:6379/0 (or DURE_REDIS_URL)"
        )
    with contextlib.closing(dial(address.url)) as client:
        try:
            yield Cluster(address.url, JobStore(client))
        except (redis.RedisError, StoreError) as error:
            raise explained(error, client) from error


def dial(url: str) -> "redis.Redis":
    """A client that has not connected yet. Raises SettingsError for an address that cannot be read."""
    try:
        url.encode()
        client = connect(url, Settings.redis_timeout_s)
        client.connection_pool.make_connection()
    except (ValueError, TypeError):
        # Not the error's own text: it may quote a part of the password.
        raise SettingsError(
            "DURE_REDIS_URL cannot be read: wanted redis://user:password@host:6379/0, with any of / ? # @ : % in "
            "the password written as %2F %3F %23 %40 %3A %25"
        ) from None
    return client


def place(client: "redis.Redis") -> str:
    """Where the server is, without the login."""
    kwargs = client.connection_pool.connection_kwargs
    return str(kwargs.get("path") or f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}")


def explained(error: Exception, client: "redis.Redis") -> DureError:
    """The same error with a remedy."""
    cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
    if isinstance(cause, redis.AuthenticationError):
        return SettingsError(
            f"Redis at {place(client)} refuses this login ({cause}): correct user and password in DURE_REDIS_URL"
        )
    if isinstance(cause, redis.exceptions.NoPermissionError):
        return SettingsError(f"this Redis user lacks a right ({cause}): {_grant(str(cause), client)}")
    if isinstance(cause, redis.ConnectionError | redis.TimeoutError):
        if refusal := certificate_refusal(cause):
            return refusal
        return StoreUnavailable(
            f"Redis at {place(client)} does not answer ({str(cause).rstrip('.')}): start it, or name another with "
            "--redis or DURE_REDIS_URL"
        )
    if isinstance(error, StoreError):
        return error
    return StoreError(f"what listens at {place(client)} does not answer like Redis ({error}): correct DURE_REDIS_URL")


def _grant(message: str, client: "redis.Redis") -> str:
    user = cast("str | None", client.connection_pool.connection_kwargs.get("username")) or "default"
    command = re.search(r"'([\w|]+)' command", message)
    if command is None:
        return "give it the rights of deploy/redis/users.acl"
    # Listing keys is no right that serving needs, so the shipped user has it not.
    return f"run `redis-cli ACL SETUSER {user} +{command[1].lower()}` as an administrator, or use a login that has it"
