"""`dure up`: everything on one machine, as children of one process."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from dure import embedded_redis, persona, run_file, supervisor
from dure.catalog import SCRIPTED
from dure.children import Child, Children
from dure.errors import DureError, ModelUnavailable, SettingsError
from dure.ports import bind_error
from dure.settings import Settings

# Loading 1.1 GB of weights from a slow disk of an old PC takes minutes, once; so does measuring its engines, where
# there is a choice.
_READY_WITHIN_S = 900.0
_WATCH_EVERY_S = 0.5
_PROBE_BYTES = 1 << 16


@dataclass(frozen=True)
class UpOptions:
    """Ports on this machine; each must be free."""

    port: int
    web_port: int
    flower_port: int
    num_workers: int
    host: str = "127.0.0.1"
    fit: bool = False  # see DURE_WORKER_FIT
    personas: Path | None = None  # see DURE_GATEWAY_PERSONAS


class Stopper:
    """Turns the first SIGINT or SIGTERM into a flag; the work then ends in order.

    SIGHUP asks for a reload, as of any daemon; from a terminal it means that the terminal was closed, and stops.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._reload_asked = threading.Event()
        is_daemon = not sys.stdin.isatty()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._asked.set())
        signal.signal(signal.SIGHUP, lambda *_: (self._reload_asked if is_daemon else self._asked).set())

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call."""
        is_asked = self._reload_asked.is_set()
        self._reload_asked.clear()
        return is_asked

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        return self._asked.wait(seconds)


def run(settings: Settings, options: UpOptions, console: Console) -> None:
    """Serve until SIGINT or SIGTERM. SIGHUP loads the model anew. Raises DureError with a remedy."""
    require_writable(settings.home)
    with _only_one(settings.home):
        _check_ports(options)
        persona.load(persona.own_folder(options.personas, settings.home))  # said now, not by a dying gateway
        fetch_model(settings.model)
        stopper = Stopper()
        children = Children(lambda text: console.print(f"[yellow]{text}[/]", highlight=False))
        try:
            _start(settings, options, children, stopper, console)
            watch(children, stopper)
        finally:
            console.print("멈추는 중입니다… / Stopping…")
            children.stop()
            run_file.remove(settings.home)
            console.print("모두 멈췄습니다. / All stopped.")


def run_worker(settings: Settings, environ: dict[str, str], console: Console, log_path: Path | None) -> None:
    """Serve the model from this machine until SIGINT or SIGTERM. SIGHUP loads it anew. Raises DureError."""
    stopper = Stopper()
    children = Children(lambda text: console.print(text, highlight=False))
    name = environ.get("DURE_WORKER_NAME") or f"{_short_hostname()}-{os.getpid()}"
    environ |= {"DURE_MODEL": settings.model}
    try:
        children.start(supervisor.worker_child(name, environ, log_path))
        where = f"; its log: {log_path}" if log_path else ""
        console.print(f"worker {name} for {settings.model} runs{where}", highlight=False)
        watch(children, stopper)
    finally:
        children.stop()


def watch(children: Children, stopper: Stopper) -> None:
    while not stopper.wait(_WATCH_EVERY_S):
        if stopper.take_reload():
            children.reload(supervisor.WorkerChild)
        children.watch_once()


def require_writable(home: Path) -> None:
    """Raises SettingsError when the state folder cannot be written."""
    probe = home / f".writable-{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * _PROBE_BYTES)  # a full disk takes an empty file, but not this
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise SettingsError(
            f"the state folder {home} cannot be written ({error.strerror}): free some space, correct its rights, or "
            "choose another with DURE_HOME"
        ) from None


def fetch_model(name: str) -> None:
    """Have the model on this machine. Its progress bar draws on this terminal. Raises ModelUnavailable."""
    if name == SCRIPTED:
        return
    # The workshop is a program of its own: serving code never imports it.
    done = subprocess.run([sys.executable, "-m", "dure_workshop", "fetch", name], check=False)
    if done.returncode:
        raise ModelUnavailable(f"the model {name} could not be fetched (see above)")


def _start(settings: Settings, options: UpOptions, children: Children, stopper: Stopper, console: Console) -> None:
    logs = settings.home / "logs"
    environ = dict(os.environ)
    if settings.redis_url is None:
        server = embedded_redis.prepare(settings.home / "redis")
        children.start(Child("redis", server.command, environ, logs / "redis.log"))
        server.wait_until_ready(60)
        environ["DURE_REDIS_URL"] = server.url
    environ |= {
        "DURE_MODEL": settings.model,
        "DURE_GATEWAY_HOST": options.host,
        "DURE_GATEWAY_PORT": str(options.port),
        "DURE_GATEWAY_WEB_PORT": str(options.web_port),
        **({"DURE_GATEWAY_PERSONAS": str(options.personas)} if options.personas else {}),
    }
    password = secrets.token_urlsafe(12)
    for child in _programs(options, environ, password, logs):
        children.start(child)
    run_file.write(settings.home, run_file.Running(os.getpid(), options.port, environ["DURE_REDIS_URL"]))
    with console.status("모델을 올리는 중입니다… / Loading the model…"):
        _wait_until_ready(options.port, children, stopper)
    if not stopper.is_asked:
        console.print(_where_to_click(options, password, settings))


def _programs(options: UpOptions, environ: dict[str, str], password: str, logs: Path) -> list[Child]:
    """In order of start; they stop in reverse: first the gateway lets nobody in, then workers end their answers."""
    programs: list[Child] = []
    flower = {
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": str(options.flower_port),
        "FLOWER_BASIC_AUTH": f"dure:{password}",
    }
    programs.append(_python("flower", "dure.flower", environ | flower, logs))
    sharing = {"DURE_WORKER_NUM_SHARING": str(max(1, options.num_workers))}
    sharing |= {"DURE_WORKER_FIT": "1"} if options.fit else {}
    for number in range(1, options.num_workers + 1):
        title = f"worker-{number}"
        name = f"{_short_hostname()}-{number}"
        programs.append(supervisor.worker_child(name, environ | sharing, logs / f"{title}.log", title))
    programs.append(_python("gateway", "dure_gateway", environ, logs))
    return programs


def _python(name: str, module: str, environ: dict[str, str], logs: Path, stop_s: float = 10.0) -> Child:
    return Child(name, [sys.executable, "-P", "-m", module], environ, logs / f"{name}.log", stop_s)


def _wait_until_ready(port: int, children: Children, stopper: Stopper) -> None:
    give_up = time.monotonic() + _READY_WITHIN_S
    missing = "gateway"
    while time.monotonic() < give_up and not stopper.is_asked:
        children.watch_once()
        with contextlib.suppress(httpx.TransportError, ValueError):
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).json()
            if answer["ready"]:
                return
            missing = ", ".join(part["what"] for part in answer["missing"])
        stopper.wait(0.2)
    if not stopper.is_asked:
        raise DureError(f"not ready after {_READY_WITHIN_S:g} s, still missing: {missing}. See the logs folder")


def _where_to_click(options: UpOptions, password: str, settings: Settings) -> Table:
    table = Table(title="두레가 준비되었습니다 / dure is ready", show_header=False, title_style="bold green")
    table.add_row("대화 / Chat page", f"http://localhost:{options.web_port}")
    table.add_row("API", f"http://localhost:{options.port}/docs")
    table.add_row("상태 / Flower", f"http://localhost:{options.flower_port}  (dure / {password})")
    table.add_row("터미널 / Terminal", f"{_as_typed()} chat")
    table.add_row("모델 / Model", settings.model)
    table.add_row("상태 폴더 / State", str(settings.home))
    table.caption = "Ctrl-C로 멈춥니다. / Ctrl-C stops everything."
    return table


def _as_typed() -> str:
    """How the user calls this program: `scripts/run` puts no `dure` on the PATH."""
    typed = Path(sys.argv[0])
    return str(typed) if shutil.which("dure") is None else "dure"


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    lock = FileLock(home / "up.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise SettingsError(
            f"dure already runs from {home}: stop it first, or choose another state folder with DURE_HOME"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check_ports(options: UpOptions) -> None:
    """Raises SettingsError that names every taken port and what changes it."""
    wanted = {
        "--port (DURE_GATEWAY_PORT)": (options.host, options.port),
        "--web-port (DURE_GATEWAY_WEB_PORT)": (options.host, options.web_port),
        "--flower-port": ("127.0.0.1", options.flower_port),
    }
    numbers = [port for _, port in wanted.values()]
    if len(set(numbers)) < len(numbers):
        raise SettingsError(f"ports must differ, these do not: {', '.join(map(str, numbers))}")
    taken = [
        f"{port} is in use: choose another with {option}"
        for option, (host, port) in wanted.items()
        if bind_error(host, port) is not None
    ]
    if taken:
        raise SettingsError("port " + "; port ".join(taken))


def _short_hostname() -> str:
    name = socket.gethostname().split(".")[0]
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40] or "box"
