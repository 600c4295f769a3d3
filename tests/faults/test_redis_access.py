"""A Redis that lets dure do what it needs and nothing more, and one that is reached by TLS: see deploy/redis."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
import trustme

from conftest import REDIS_SERVER, SERVERS
from deployed import GuardedValkey
from dure import keys
from support import DEADLINE_S, DURE, FAST_LEASE_S, Stack, assert_ended_once, free_port, sse, stop, wait_for

SLOW = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.05"}
FLOWER_USER = ("dure", "flower-of-the-test")


class GuardedStack(Stack):
    """Gateway and workers over a server with the shipped users."""

    valkey: GuardedValkey

    def __init__(self, folder: Path, binary: Path | None = None, tls: Path | None = None) -> None:
        super().__init__(folder, DURE_WORKER_LEASE_S=str(FAST_LEASE_S))
        self.valkey = GuardedValkey(folder / "guarded", binary, tls)
        self.environ["DURE_REDIS_URL"] = self.valkey.plain_url
        if tls:
            self.environ["DURE_REDIS_CA"] = str(tls / "ca.pem")

    def start_flower(self) -> httpx.Client:
        port = str(free_port())
        environ = {"FLOWER_ADDRESS": "127.0.0.1", "FLOWER_PORT": port, "FLOWER_BASIC_AUTH": ":".join(FLOWER_USER)}
        self.start("dure.flower", "flower", **environ)
        url = f"http://127.0.0.1:{port}"

        def is_healthy() -> bool:
            try:
                return httpx.get(f"{url}/healthcheck", timeout=DEADLINE_S).text == "OK"
            except httpx.TransportError:
                return False

        wait_for(is_healthy, "Flower")
        return httpx.Client(base_url=url, auth=FLOWER_USER, timeout=DEADLINE_S)


def is_job_seen(flower: httpx.Client, stack: Stack) -> bool:
    """Events are not kept: Flower never sees what ended before it listened. So each try asks a new question."""
    job_id = stack.submit(max_tokens=5)
    stack.wait_for_state(job_id, "done")
    assert_ended_once(stack.store, job_id, "done")
    return flower.get(f"/api/task/info/{job_id}").is_success


@pytest.fixture(params=SERVERS)
def guarded(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[GuardedStack]:
    """Whatever a test does there with dure's own login, the server must refuse none of it."""
    with GuardedStack(tmp_path, request.param) as stack:
        yield stack
        assert stack.valkey.refusals() == []


def test_the_shipped_rights_are_enough_to_answer_stream_and_cancel(guarded: GuardedStack) -> None:
    guarded.start_supervised(**SLOW)
    first = guarded.http.post("/api/chat", json={"message": "두레가 뭐예요?", "max_tokens": 20}).json()
    again = {"message": "더요.", "stream": True, "max_tokens": 20, "conversation_id": first["conversation_id"]}
    with guarded.http.stream("POST", "/api/chat", json=again, headers={"Idempotency-Key": "once"}) as answer:
        assert sse(answer.iter_lines())[-1][0] == "final"
    job_id = guarded.submit(max_tokens=200)
    guarded.wait_for_text(job_id)
    guarded.http.delete(f"/v1/jobs/{job_id}")
    guarded.wait_for_state(job_id, "cancelled")
    assert_ended_once(guarded.store, job_id, "cancelled")


def test_the_shipped_rights_are_enough_to_take_over_from_dead_and_stopping_workers(guarded: GuardedStack) -> None:
    alone = guarded.start_worker("alone", **SLOW)
    job_id = guarded.submit(max_tokens=200)
    guarded.wait_for_text(job_id)
    alone.kill()  # nobody tells of it: its lease runs out
    hurried = guarded.start_worker("hurried", DURE_WORKER_GRACE_S="0", **SLOW)
    wait_for(lambda: attempt(guarded, job_id) == 2, "the second attempt")
    stop(hurried)  # gives the job back
    guarded.start_supervised("watched", **SLOW)
    wait_for(lambda: attempt(guarded, job_id) == 3, "the third attempt")
    os.kill(guarded.wait_for_worker("watched"), signal.SIGKILL)  # its supervisor tells of it
    guarded.wait_for_state(job_id, "done")
    assert_ended_once(guarded.store, job_id, "done")


def attempt(stack: Stack, job_id: str) -> int:
    job = stack.store.get(job_id)
    assert job is not None
    return job.attempt


def test_the_shipped_rights_are_enough_for_the_quarantine_and_the_operators_commands(guarded: GuardedStack) -> None:
    supervisor = guarded.start_supervised(DURE_WORKER_SCRIPTED_FAULTS="true")
    poison = guarded.submit("<die>")
    guarded.wait_for_state(poison, "failed")
    stop(supervisor)
    assert guarded.store.quarantined() == [poison]
    for command in (
        ["jobs", "list", "--state", "all"],
        ["jobs", "list", "--state", "quarantined"],
        ["jobs", "show", poison],
        ["jobs", "retry", poison],
        ["workers"],
        ["doctor"],
    ):
        said = run_dure(guarded, *command)
        assert "NOPERM" not in said
        assert "permission" not in said
    assert len(guarded.store.queued_longer_than(0)) == 1


def run_dure(stack: Stack, *arguments: str) -> str:
    done = subprocess.run(
        [DURE, *arguments], env=stack.environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    # doctor ends with 1 where something is bad, and here no worker lives any more.
    assert done.returncode == 0 or arguments == ("doctor",), done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_shipped_rights_are_enough_for_flower(guarded: GuardedStack) -> None:
    guarded.start_supervised()
    with guarded.start_flower() as flower:
        wait_for(lambda: is_job_seen(flower, guarded), "a job in Flower")
        seen = wait_for(lambda: flower.get("/api/workers?refresh=1").json(), "the worker in Flower")
        assert list(seen) == ["box@dure"]


def test_the_shipped_rights_are_enough_to_wait_for_the_disk(guarded: GuardedStack) -> None:
    with guarded.valkey.admin() as admin:
        try:
            admin.execute_command("WAITAOF", 0, 0, 0)
        except redis.ResponseError:
            pytest.skip("this server has no WAITAOF (Redis before 7.2)")
        admin.config_set("appendfsync", "everysec")
        num_before = _num_calls(admin, "waitaof")
        port = str(free_port())
        guarded.start("dure_gateway", "careful", DURE_GATEWAY_PORT=port, DURE_GATEWAY_WEB_PORT=port)
        guarded.start_supervised()
        url = f"http://127.0.0.1:{port}/v1/jobs"

        def status() -> int:
            try:
                return httpx.post(url, json={"message": "적혔나요?", "max_tokens": 5}, timeout=DEADLINE_S).status_code
            except httpx.TransportError:
                return 0

        wait_for(lambda: status() == 202, "a job that is on the disk")
        assert _num_calls(admin, "waitaof") > num_before + 1  # the first only asks whether the server has it


def _num_calls(admin: redis.Redis, command: str) -> int:
    return int(admin.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_the_shipped_rights_reach_every_key_of_the_protocol(guarded: GuardedStack) -> None:
    """A key that is new in keys.py and missing in users.acl fails here before it fails at a user's."""
    table = [line.split("|")[1] for line in (keys.__doc__ or "").splitlines() if re.match(r"\| [a-z]", line)]
    patterns = [name.strip() for cell in table[1:] for name in cell.split(",")]
    assert {"job:{id}", "jobs:queued", "unacked_index"} <= set(patterns)
    with guarded.valkey.admin() as admin:
        for pattern in patterns:
            key = re.sub(r"\{\w+\}", "x", pattern)
            for name in keys.queue_keys(key) if key in {"celery.x", "w.x"} else [key]:
                assert admin.acl_dryrun("dure", "EXISTS", name) == "OK", f"users.acl does not reach {pattern}"


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG SET appendonly no", "CONFIG REWRITE", "SCRIPT FLUSH",
        "FUNCTION LIST", "ACL LIST", "CLIENT LIST", "CLIENT KILL 127.0.0.1:1", "MONITOR", "SHUTDOWN",
        "SAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "GET somebody-elses", "PUBLISH somebody-elses x",
    ],
)  # fmt: skip
def test_what_dure_does_not_need_is_refused_to_it(guarded_client: redis.Redis, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        guarded_client.execute_command(*command.split(" "))


@pytest.fixture(scope="module")
def guarded_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    server = GuardedValkey(tmp_path_factory.mktemp("guarded") / "redis")
    server.start()
    with server.client() as client:
        yield client
    server.stop()


def test_who_has_no_login_gets_nothing(guarded_client: redis.Redis) -> None:
    port = guarded_client.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, retry=None) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.ping()


def certificates(folder: Path) -> Path:
    """What an operator makes once: a CA, and a certificate of the server signed by it."""
    folder.mkdir()
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server.private_key_pem.write_to_path(folder / "redis.key")
    server.cert_chain_pems[0].write_to_path(folder / "redis.crt")
    return folder


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[GuardedStack]:
    """Over the distribution's Redis: the embedded server is built without TLS."""
    if REDIS_SERVER is None:
        pytest.skip("no redis-server on the PATH: apt install redis-server")
    with GuardedStack(tmp_path, Path(REDIS_SERVER), certificates(tmp_path / "tls")) as stack:
        yield stack


def test_over_tls_a_question_is_answered_and_flower_sees_it(encrypted: GuardedStack) -> None:
    """Proved below that the certificate is looked at."""
    assert encrypted.environ["DURE_REDIS_URL"].startswith("rediss://")
    encrypted.start_supervised()
    with encrypted.start_flower() as flower:
        wait_for(lambda: is_job_seen(flower, encrypted), "a job in Flower")
    assert encrypted.valkey.refusals() == []


@pytest.mark.parametrize("module", ["dure_gateway", "dure_worker"])
@pytest.mark.parametrize("ca", ["another", "none"])
def test_a_server_of_an_unknown_ca_is_refused_at_start_with_the_remedy(
    encrypted: GuardedStack, module: str, ca: str
) -> None:
    if ca == "another":
        encrypted.environ["DURE_REDIS_CA"] = str(certificates(encrypted.folder / "another") / "ca.pem")
    else:
        del encrypted.environ["DURE_REDIS_CA"]
    port = str(free_port())
    process = encrypted.start(module, "refused", DURE_GATEWAY_PORT=port, DURE_GATEWAY_WEB_PORT=port)
    assert process.wait(DEADLINE_S) == 1
    assert "DURE_REDIS_CA" in encrypted.log("refused").read_text("utf-8")
