"""A Redis that goes away or freezes: clear answers meanwhile, nothing lost afterwards."""

import signal
import threading

import httpx
import pytest

from support import DEADLINE_S, Stack, assert_ended_once, events, free_port, wait_for

SLOW = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.05"}
LONG_LEASE = {"DURE_WORKER_LEASE_S": "30"}


def test_without_redis_the_gateway_answers_503_and_says_when_to_come_back(own_stack: Stack) -> None:
    own_stack.valkey.stop()
    answer = own_stack.http.post("/api/chat", json={"message": "계세요?"}, headers={"Accept-Language": "ko"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["code"] == "redis_unavailable"
    assert own_stack.http.get("/healthz").status_code == 200
    ready = own_stack.http.get("/readyz")
    assert ready.status_code == 503
    assert [part["what"] for part in ready.json()["missing"]] == ["redis"]


def test_readiness_names_the_missing_worker(own_stack: Stack) -> None:
    ready = own_stack.http.get("/readyz")
    assert ready.status_code == 503
    assert [part["what"] for part in ready.json()["missing"]] == ["worker"]
    assert "dure worker" in ready.json()["missing"][0]["remedy"]


def test_a_frozen_redis_blocks_neither_the_gateways_loop_nor_its_page(own_stack: Stack) -> None:
    """Requests hang in threads until their time-out; the event loop must go on serving what needs no Redis."""
    server = own_stack.valkey.process
    assert server is not None
    server.send_signal(signal.SIGSTOP)
    codes: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=own_stack.url, timeout=60) as client:
            codes.append(client.post("/v1/jobs", json={"message": "계세요?"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert own_stack.http.get("/healthz", timeout=2.5).status_code == 200
            assert own_stack.http.get("/", timeout=2.5).status_code == 200
        assert not codes  # or the loop was never put to the test
    finally:
        server.send_signal(signal.SIGCONT)
        for thread in threads:
            thread.join()
    assert set(codes) <= {202, 503}


def test_an_answer_survives_a_restart_of_redis_in_its_middle(own_stack: Stack) -> None:
    own_stack.start_worker(DURE_WORKER_SCRIPTED_TOKEN_S="0.03", DURE_WORKER_LEASE_S="15")
    job_id = own_stack.submit(max_tokens=100)
    own_stack.wait_for_text(job_id)
    found: list[str] = []

    def follow() -> None:
        with own_stack.http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            found.extend(line for line in response.iter_lines() if line.startswith(("id:", "event: final")))

    follower = threading.Thread(target=follow)
    follower.start()
    wait_for(lambda: found, "the follower's first event")
    own_stack.valkey.stop()
    own_stack.valkey.start()
    own_stack.wait_for_state(job_id, "done")
    follower.join()
    assert_ended_once(own_stack.store, job_id, "done")
    ids = [line for line in found if line.startswith("id:")]
    assert len(ids) == len(set(ids))
    assert "event: final" in found


@pytest.mark.parametrize("module", ["dure_gateway", "dure_worker"])
def test_a_redis_that_evicts_keys_is_refused_at_start_with_the_remedy(own_stack: Stack, module: str) -> None:
    own_stack.store.redis.config_set("maxmemory-policy", "allkeys-lru")
    port = str(free_port())
    process = own_stack.start(module, "refused", DURE_GATEWAY_PORT=port, DURE_GATEWAY_WEB_PORT=port)
    assert process.wait(DEADLINE_S) == 1
    assert "config set maxmemory-policy noeviction" in own_stack.log("refused").read_text("utf-8")


@pytest.mark.parametrize("module", ["dure_gateway", "dure_worker"])
def test_a_wrong_redis_password_is_said_at_start_and_not_shown(own_stack: Stack, module: str) -> None:
    port = str(free_port())
    address = own_stack.valkey.url.split("@")[1]
    own = {"DURE_REDIS_URL": f"redis://:not-the-password@{address}", "DURE_GATEWAY_PORT": port}
    process = own_stack.start(module, "refused", **own, DURE_GATEWAY_WEB_PORT=port)
    assert process.wait(DEADLINE_S) == 1
    said = own_stack.log("refused").read_text("utf-8")
    assert "correct the password in DURE_REDIS_URL" in said
    assert "not-the-password" not in said


def test_a_worker_that_starts_before_redis_waits_for_it(own_stack: Stack) -> None:
    own_stack.valkey.stop()
    worker = own_stack.start("dure_worker", "early", DURE_WORKER_NAME="early")
    wait_for(lambda: "cannot announce" in own_stack.log("early").read_text("utf-8"), "the worker's first try")
    own_stack.valkey.start()
    job_id = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(job_id, "done")
    assert worker.poll() is None


def test_an_idle_worker_outlives_two_restarts_of_redis_in_a_row(own_stack: Stack) -> None:
    """Proved: with broker_connection_max_retries = 0 the worker ends at the first."""
    worker = own_stack.start_worker()
    for _ in range(2):
        own_stack.valkey.stop()
        own_stack.valkey.start()
    job_id = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    assert worker.poll() is None


def test_an_answer_survives_two_restarts_in_a_row(own_stack: Stack) -> None:
    own_stack.start_worker(**SLOW, **LONG_LEASE)
    job_id = own_stack.submit(max_tokens=100)
    own_stack.wait_for_text(job_id)
    for _ in range(2):
        own_stack.valkey.stop()
        own_stack.valkey.start()
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    assert [event.attempt for event in events(own_stack.store, job_id) if event.type == "start"] == [1]


def test_an_answer_that_ends_while_redis_is_away_is_written_when_it_is_back(own_stack: Stack) -> None:
    """Proved: without `_insist` around FINISH the job is answered by a second attempt, after its lease."""
    own_stack.start_worker(**SLOW, **LONG_LEASE)
    job_id = own_stack.submit(max_tokens=20)
    own_stack.wait_for_text(job_id)
    own_stack.valkey.stop()
    log = own_stack.log("box")
    wait_for(lambda: "finish waits for Redis" in log.read_text("utf-8"), "an answer without a place")
    own_stack.valkey.start()
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    assert [event.attempt for event in events(own_stack.store, job_id) if event.type == "start"] == [1]


def test_a_redis_killed_with_sigkill_has_every_accepted_job(own_stack: Stack) -> None:
    """Proved: with appendonly no the jobs are gone (404)."""
    job_ids = [own_stack.submit(f"{number}번째 질문", max_tokens=5) for number in range(20)]
    server = own_stack.valkey.process
    assert server is not None
    server.kill()
    server.wait()
    own_stack.valkey.start()
    own_stack.start_worker()
    for job_id in job_ids:
        own_stack.wait_for_state(job_id, "done")
        assert_ended_once(own_stack.store, job_id, "done")


def test_cut_connections_start_no_second_copy_beside_an_idle_worker(own_stack: Stack) -> None:
    """Plain Celery runs the task again on the idle worker. Proved: without BUSY in claim.lua so does this."""
    own_stack.start_worker("one", **SLOW)
    own_stack.start_worker("two", **SLOW)
    job_id = own_stack.submit(max_tokens=80)
    own_stack.wait_for_text(job_id)
    for _ in range(3):
        own_stack.store.redis.client_kill_filter(_type="normal", skipme=True)
        seen = len(events(own_stack.store, job_id))
        wait_for(lambda seen=seen: len(events(own_stack.store, job_id)) > seen, "the answer to go on")
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    starts = [event.attempt for event in events(own_stack.store, job_id) if event.type in {"start", "restarted"}]
    assert starts == [1]
