"""Fixtures over real servers and real processes. Everything listens on free ports and is joined at the end."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from playwright.sync_api import Browser, Page, sync_playwright

from dure import catalog
from dure.job_store import JobStore, connect
from dure.settings import Settings
from support import FAST_LEASE_S, Stack, Valkey

SMALL_MODEL = catalog.CATALOG["qwen2.5-coder-0.5b-instruct-q4_k_m"]


@pytest.fixture(scope="session", autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """A developer's DURE_* variables must not change what is tested; only the place of the weights is kept."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("DURE_") and name != "DURE_HOME"}
    yield
    os.environ.update(kept)


# Users bring their own servers: what touches one runs on the embedded Valkey and on the distribution's Redis.
REDIS_SERVER = shutil.which("redis-server")
SERVERS = [
    pytest.param(None, id="valkey"),
    pytest.param(
        Path(REDIS_SERVER or "redis-server"),
        id="redis",
        marks=pytest.mark.skipif(REDIS_SERVER is None, reason="no redis-server on the PATH: apt install redis-server"),
    ),
]


@pytest.fixture(scope="session", params=SERVERS)
def _valkey(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"), request.param)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(_valkey: Valkey) -> Valkey:
    """A real server, empty."""
    _valkey.client().flushall()
    return _valkey


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    client = connect(valkey.url, 5)
    yield client
    client.close()


@pytest.fixture
def store(client: redis.Redis) -> JobStore:
    return JobStore(client)


@pytest.fixture(scope="session")
def scripted_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Valkey, gateway and one worker that recites a token every 20 ms; shared by tests that leave it whole."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start_worker(DURE_WORKER_SCRIPTED_TOKEN_S="0.02")
        stack.wait_until_ready()
        yield stack


@pytest.fixture(params=SERVERS)
def own_stack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Valkey and gateway for a test that breaks things; it starts its own workers, which die fast (short lease)."""
    with Stack(tmp_path, request.param, DURE_WORKER_LEASE_S=str(FAST_LEASE_S)) as stack:
        yield stack


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount the small file system that this needs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def fetched() -> Callable[[str], Path]:
    """Real weights by their name in the catalogue, fetched once per machine."""
    from rich.console import Console

    from dure_workshop.fetch import Fetcher

    return lambda name: Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(name))


@pytest.fixture(scope="session")
def small_model(fetched: Callable[[str], Path]) -> Path:
    """The 0.5B with its whole vocabulary."""
    return fetched(SMALL_MODEL.name)


@pytest.fixture(scope="session")
def default_model(fetched: Callable[[str], Path]) -> str:
    """The name of the model that is served where nobody chooses."""
    name = Settings.read().model
    fetched(name)
    return name


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The last four keep the browser from calling home.
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


# Per module: while it lives, playwright's event loop occupies the thread, and nothing else there may use asyncio.
@pytest.fixture(scope="module")
def _browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt install chromium` lets these tests run")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def browser_page(_browser: Browser) -> Iterator[Page]:
    """A page of a Korean browser. Errors in its console fail the test."""
    context = _browser.new_context(locale="ko-KR")
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []
