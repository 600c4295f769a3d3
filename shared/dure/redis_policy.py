"""What a Redis must be like to be trusted with jobs, checked at start: it lets us in, and it never drops keys."""

import logging

import redis

from dure.errors import SettingsError

log = logging.getLogger(__name__)


def require_trustworthy(client: "redis.Redis") -> None:
    """Raises SettingsError with the remedy. A Redis that is away, or that hides its configuration, is let pass."""
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    except redis.AuthenticationError as error:
        raise SettingsError(f"Redis refuses this login ({error}): correct the password in DURE_REDIS_URL") from None
    except (redis.ConnectionError, redis.TimeoutError):
        return  # it is waited for; its next start may be with another configuration anyway
    except redis.ResponseError as error:
        log.warning("cannot read maxmemory-policy (%s): make sure that it is noeviction", error)
        return
    if policy != "noeviction":
        raise SettingsError(
            f"this Redis has maxmemory-policy {policy} and would drop accepted jobs when it is full: run "
            "`redis-cli config set maxmemory-policy noeviction` and set the same in its configuration file"
        )
