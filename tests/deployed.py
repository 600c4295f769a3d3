"""What deploy/ ships, as tests read and start it. Only addresses, ports, passwords, paths and the model are theirs."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import redis
import yaml

from dure import catalog, embedded_redis
from dure.job_store import connect
from support import DEADLINE_S, Valkey, free_port, wait_for

DEPLOY = Path(__file__).parents[1] / "deploy"
PLACEHOLDER = "replace-this-password"
PASSWORD = "secret-of-the-test"
_ADMIN = "admin-of-the-test"


class GuardedValkey(Valkey):
    """A server under deploy/redis: its configuration and its users, and one more who may look at both."""

    def __init__(self, folder: Path, binary: Path | None = None, tls: Path | None = None) -> None:
        """tls: a folder with redis.crt, redis.key and ca.pem; then what is commented out about TLS holds as well."""
        folder.mkdir(parents=True)
        self.process = None
        self._log = folder / "log"
        self._port = free_port()
        self._ca = tls / "ca.pem" if tls else None
        users = (DEPLOY / "redis" / "users.acl").read_text("utf-8").replace(PLACEHOLDER, PASSWORD)
        (folder / "users.acl").write_text(f"{users}user admin on >{_ADMIN} ~* &* +@all\n", "utf-8")
        (folder / "server.conf").write_text(self._configuration(folder, tls), "utf-8")
        self._server = embedded_redis.EmbeddedRedis(
            [str(binary or embedded_redis.find_server()), str(folder / "server.conf")],
            self._address("dure", PASSWORD) + (f"?ssl_ca_certs={self._ca}" if tls else ""),
        )

    def _configuration(self, folder: Path, tls: Path | None) -> str:
        text = (DEPLOY / "redis" / "dure.conf").read_text("utf-8")
        text = text.replace("/etc/dure/users.acl", str(folder / "users.acl"))
        port = f"port {self._port}\n"
        if tls:
            text = re.sub(r"^# (tls-|port 0)", r"\1", text, flags=re.MULTILINE)
            text = text.replace("/etc/dure/", f"{tls}/").replace("tls-port 6380", f"tls-port {self._port}")
            port = ""
        return f'{text}{port}dir "{folder}"\n'

    @property
    def plain_url(self) -> str:
        """As an operator writes it: where a CA is needed, DURE_REDIS_CA names it."""
        return self._address("dure", PASSWORD)

    def admin(self) -> redis.Redis:
        return connect(self._address("admin", _ADMIN), 5, **({"ssl_ca_certs": str(self._ca)} if self._ca else {}))

    def refusals(self) -> list[str]:
        """What the server refused to its users since the last call."""
        with self.admin() as admin:
            found = [f"{entry['context']} {entry['reason']} {entry['object']!r}" for entry in admin.acl_log()]
            admin.acl_log_reset()
        return found

    def _address(self, user: str, password: str) -> str:
        return f"{'rediss' if self._ca else 'redis'}://{user}:{password}@127.0.0.1:{self._port}/0"


def read_unit(path: Path) -> dict[str, list[str]]:
    """All values of each key, in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def read_env(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def commented_names(path: Path) -> set[str]:
    """Variables that an env example shows without setting them."""
    return set(re.findall(r"^#([A-Z_]+)=", path.read_text("utf-8"), re.MULTILINE))


@dataclass(frozen=True)
class Program:
    """A command of a unit or a compose service, with its environment."""

    name: str
    command: list[str]
    environ: dict[str, str]
    reload: list[str] = field(default_factory=list)


def unit_program(path: Path) -> Program:
    """A unit's program; of a template, its first instance."""
    unit = read_unit(path)
    environ = dict(line.split("=", 1) for line in unit.get("Environment", []))
    for file in unit.get("EnvironmentFile", []):
        environ |= read_env(path.with_name(f"{Path(file).name}.example"))
    specifiers = {"%H": socket.gethostname(), "%i": "1"}
    environ = {name: _replace(value, specifiers) for name, value in environ.items()}
    return Program(
        path.name.removesuffix(".service"),
        [
            _replace(word, {"/opt/dure/bin": str(Path(sys.executable).parent)})
            for word in shlex.split(unit["ExecStart"][0])
        ],
        environ,
        shlex.split(unit.get("ExecReload", [""])[0]),
    )


def compose_file(environ: Mapping[str, str]) -> dict[str, Any]:
    """The compose file as Compose sees it with this .env."""
    raw = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))
    found: dict[str, Any] = _interpolated(raw, environ)
    return found


def compose_program(name: str, environ: Mapping[str, str]) -> Program:
    service = compose_file(environ)["services"][name]
    return Program(name, service["command"], service["environment"])


def _interpolated(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, environ) for item in value]
    return _fill(value, environ) if isinstance(value, str) else value


def _fill(text: str, environ: Mapping[str, str]) -> str:
    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        value = environ.get(found[1], "")
        assert value or found[2] != "?", f"{found[1]}: {found[3]}"
        return value or found[3] or ""

    return re.sub(r"\$\$|\$\{(\w+)(?::([-?])([^}]*))?\}", one, text)


def _replace(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


class Cluster:
    """Programs of deploy/ as processes of this machine, over one Redis."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.ports = {name: free_port() for name in ("api", "web", "flower", "redis")}
        self._running: list[tuple[Program, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _program, process in self._running:
            process.kill()
            process.wait()

    def start(self, program: Program) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{program.name}.log").open("ab") as log:
            process = subprocess.Popen(
                program.command,
                env=self._environ(program),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._running.append((program, process))
        return process

    def _environ(self, program: Program) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), str(self.folder), os.environ["PATH"]])
        own = {
            "DURE_REDIS_URL": self.redis_url,
            "DURE_MODEL": catalog.SCRIPTED,
            "DURE_HOME": str(self.folder / "home"),
            "DURE_GATEWAY_HOST": "127.0.0.1",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": str(self.ports["flower"]),
        }
        assert "DURE_REDIS_URL" not in program.environ or _is_our_server(program.environ["DURE_REDIS_URL"])
        ports = {"DURE_GATEWAY_PORT": str(self.ports["api"]), "DURE_GATEWAY_WEB_PORT": str(self.ports["web"])}
        kept = {name: own.get(name, value) for name, value in program.environ.items()}
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8", **kept, **ports}

    def get(self, port: str, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=DEADLINE_S, **options)

    def wait_until(self, port: str, path: str) -> None:
        def is_there() -> bool:
            self.require_alive()
            try:
                return self.get(port, path).is_success
            except httpx.TransportError:
                return False

        wait_for(is_there, f"{port} {path}")

    def require_alive(self) -> None:
        for program, process in self._running:
            said = (self.folder / f"{program.name}.log").read_text("utf-8", errors="replace")
            assert process.poll() is None, f"{program.name} ended with {process.returncode}: {said}"

    def ask(self, message: str) -> str:
        url = f"http://127.0.0.1:{self.ports['api']}/api/chat"
        answer = httpx.post(url, json={"message": message, "max_tokens": 30}, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["reply"])

    def stop(self) -> dict[str, int]:
        """SIGTERM to each, the last started first. Returns how they ended."""
        ended = {}
        for program, process in reversed(self._running):
            process.terminate()
            ended[program.name] = process.wait(DEADLINE_S)
        self._running.clear()
        return ended


def _is_our_server(url: str) -> bool:
    """Whether a shipped address names the user of users.acl and the database of its channels."""
    parts = urlsplit(url)
    return (parts.scheme, parts.username, parts.path) == ("redis", "dure", "/0")
