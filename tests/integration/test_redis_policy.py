"""What is found out about a server at start, on real ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from conftest import SERVERS
from dure.errors import StoreError, StoreUnavailable
from dure.job_store import JobStore, connect
from dure.redis_policy import Durability, inspect_server
from support import Valkey, free_port, new_job


@pytest.fixture(params=SERVERS)
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A server of this test's own, since it turns its screws."""
    valkey = Valkey(tmp_path, request.param)
    valkey.start()
    client = valkey.client()
    yield client
    client.close()
    valkey.stop()


def knows_waitaof(client: redis.Redis) -> bool:
    return "waitaof" in client.execute_command("COMMAND LIST")


def test_the_embedded_configuration_has_every_job_on_disk(server: redis.Redis) -> None:
    assert inspect_server(server) is Durability.ALWAYS


@pytest.mark.parametrize("screws", [{"appendfsync": "no"}, {"appendonly": "no"}, {"appendfsync": "everysec"}])
def test_a_weaker_configuration_is_recognised_and_said_with_its_remedy(
    server: redis.Redis, caplog: pytest.LogCaptureFixture, screws: dict[str, str]
) -> None:
    for name, value in screws.items():
        server.config_set(name, value)
    found = inspect_server(server)
    if screws == {"appendfsync": "everysec"}:
        assert found is (Durability.WAITED if knows_waitaof(server) else Durability.SECOND)
    else:
        assert found is (Durability.NONE if "appendonly" in screws else Durability.SYSTEM)
    assert ("config set" in caplog.text) == (found is not Durability.WAITED)


def test_a_job_is_confirmed_when_the_disk_has_it(server: redis.Redis) -> None:
    if not knows_waitaof(server):
        pytest.skip("this server is older than WAITAOF (Redis 7.2)")
    server.config_set("appendfsync", "everysec")
    store = JobStore(server, waits_for_disk=True)
    assert store.submit(new_job("a", idempotency_key="k"), max_queued=10) == ("a", True)
    assert store.submit(new_job("b", idempotency_key="k"), max_queued=10) == ("a", False)


def test_a_disk_that_does_not_follow_is_not_taken_for_a_confirmation(server: redis.Redis) -> None:
    """With appendfsync no nobody waits for the disk, as when it hangs. Proved: without the check it is confirmed."""
    if not knows_waitaof(server):
        pytest.skip("this server is older than WAITAOF (Redis 7.2)")
    server.config_set("appendfsync", "no")
    store = JobStore(server, waits_for_disk=True)
    with pytest.raises(StoreUnavailable, match="disk"):
        store.submit(new_job("a"), max_queued=10)
    server.config_set("appendfsync", "everysec")
    assert store.submit(new_job("a"), max_queued=10) == ("a", False)


def test_a_server_that_stopped_keeping_its_file_does_not_confirm(server: redis.Redis) -> None:
    store = JobStore(server, waits_for_disk=True)
    server.config_set("appendonly", "no")
    with pytest.raises(StoreError):
        store.submit(new_job("a"), max_queued=10)


def test_a_server_that_is_away_or_hides_its_configuration_is_let_pass(server: redis.Redis) -> None:
    assert inspect_server(connect(f"redis://127.0.0.1:{free_port()}/0", 0.2)) is Durability.UNKNOWN
    server.execute_command("ACL", "SETUSER", "modest", "on", ">pw", "~*", "&*", "+@all", "-config")
    kwargs = server.connection_pool.connection_kwargs
    modest = redis.Redis(host=kwargs["host"], port=kwargs["port"], username="modest", password="pw")
    assert inspect_server(modest) is Durability.UNKNOWN
    modest.close()
