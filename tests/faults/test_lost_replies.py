"""The server does what it was asked, and its reply never arrives. Each script must bear the repetition."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from dure import keys
from dure.events import Draft, EventType
from dure.job import JobState, LossCause
from dure.job_store import _SCRIPTS, CancelReply, Claim, EmitReply, JobStore, Lost, Outcome, connect
from support import Valkey, assert_ended_once, events, new_job

DONE = Outcome(JobState.DONE, reply="네.", finish_reason="stop")


class Proxy:
    """Between a client and the server. The next reply after `lose` is dropped with its connection, once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{parts.port}/", f":{self._listener.getsockname()[1]}/")
        self._must_lose = threading.Event()
        self.num_lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self) -> None:
        self._must_lose.set()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._reply, args=(client, server), daemon=True).start()

    @staticmethod
    def _forward(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), server:
            while data := client.recv(1 << 16):
                server.sendall(data)

    def _reply(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while data := server.recv(1 << 16):
                if self._must_lose.is_set():
                    self._must_lose.clear()
                    self.num_lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    made = Proxy(valkey.url)
    yield made
    made.close()


@pytest.fixture
def behind(proxy: Proxy) -> Iterator[JobStore]:
    """A store whose replies can be lost; its connection is open and its scripts are known to the server."""
    client = connect(proxy.url, 5)
    made = JobStore(client)
    for script in made._scripts.values():
        client.script_load(script.script)
    yield made
    client.close()


def claimed(store: JobStore) -> Claim:
    found = store.claim("a", "box:1:x", "box")
    assert isinstance(found, Claim)
    return found


def end_all_leases(store: JobStore) -> None:
    store.redis.hset("job:a", "lease_until", 1)
    store.redis.zadd(keys.JOBS_RUNNING, {"a": 1})


def lost_submit(store: JobStore, lose: Callable[[], None]) -> str:
    lose()
    assert store.submit(new_job("a"), max_queued=10)[0] == "a"
    store.finish(claimed(store), DONE, 1, [])
    return "done"


def lost_claim(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    lose()
    claim = claimed(store)
    assert claim.attempt == 1
    assert [event.type for event in events(store, "a")] == ["start"]
    store.finish(claim, DONE, 1, [])
    return "done"


def lost_emit(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    claim = claimed(store)
    lose()
    assert store.emit("a", 1, 1, [Draft(EventType.TOKEN, "하나"), Draft(EventType.TOKEN, "둘")]) is EmitReply.OK
    store.finish(claim, DONE, 3, [Draft(EventType.TOKEN, "셋")])
    assert [event.text for event in events(store, "a") if event.text] == ["하나", "둘", "셋"]
    return "done"


def lost_finish(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a", conversation_id="c"), max_queued=10)
    claim = claimed(store)
    lose()
    assert store.finish(claim, DONE, 1, [Draft(EventType.TOKEN, "네.")])
    assert len(store.conversation(claim.conversation_key)) == 2
    return "done"


def lost_cancel(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    lose()
    assert store.cancel("a") is CancelReply.FINAL
    return "cancelled"


def lost_expire(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    claimed(store)
    end_all_leases(store)
    lose()
    assert store.expire("a") is Lost.KEPT
    again = claimed(store)
    assert again.attempt == 2
    store.finish(again, DONE, 1, [])
    return "done"


def lost_lose(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    claimed(store)
    lose()
    assert store.lose("a", "box:1:", LossCause.CRASHED, 10) is Lost.KEPT
    assert store.redis.hget("job:a", "charged") == "1"
    store.finish(claimed(store), DONE, 1, [])
    return "done"


def lost_release(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    claim = claimed(store)
    lose()
    store.release(claim)
    assert store.redis.hget("job:a", "charged") == "0"
    store.finish(claimed(store), DONE, 1, [])
    return "done"


def lost_retry(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    for _ in range(3):
        store.claim("a", "box:1:x", "box", is_alone=True)
        store.lose("a", "box:1:", LossCause.CRASHED, 10)
    lose()
    assert store.retry("a", "b", 60)
    assert store.queue_position("b") == 0
    return "failed"


def lost_purge(store: JobStore, lose: Callable[[], None]) -> str:
    store.submit(new_job("a"), max_queued=10)
    lose()
    store.purge("a", "queued", 0)
    return "cancelled"


CASES = [
    lost_submit, lost_claim, lost_emit, lost_finish, lost_cancel, lost_expire, lost_lose, lost_release, lost_retry,
    lost_purge,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_lost_reply_changes_nothing(
    behind: JobStore, proxy: Proxy, case: Callable[[JobStore, Callable[[], None]], str]
) -> None:
    """Proved: without the rule for the same id, owner, seq, attempt or state in its script each case fails."""
    state = case(behind, proxy.lose)
    assert proxy.num_lost == 1
    assert_ended_once(behind, "a", state)


def test_every_script_has_its_case() -> None:
    assert {case.__name__.removeprefix("lost_") for case in CASES} == set(_SCRIPTS)
