"""Cancelling at bad moments. Racing FINISH a thousand times: tests/integration/test_job_store.py."""

import threading

import httpx

from support import Stack, assert_ended_once, events, wait_for

SLOW = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.05"}


def test_a_job_cancelled_while_no_worker_lives_is_never_run(own_stack: Stack) -> None:
    job_id = own_stack.submit()
    assert own_stack.http.delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"
    own_stack.start_worker()
    other = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(other, "done")
    assert_ended_once(own_stack.store, job_id, "cancelled")
    assert [event.type for event in events(own_stack.store, job_id)] == ["final"]


def test_a_cancelled_running_job_stops_generating(own_stack: Stack) -> None:
    own_stack.start_worker(**SLOW)
    job_id = own_stack.submit(max_tokens=1000)
    own_stack.wait_for_text(job_id)
    assert own_stack.http.delete(f"/v1/jobs/{job_id}").status_code == 202
    job = own_stack.wait_for_state(job_id, "cancelled")
    assert_ended_once(own_stack.store, job_id, "cancelled")
    assert job["usage"]["completion_tokens"] < 1000


def test_a_job_cancelled_after_its_worker_died_is_not_run_again(own_stack: Stack) -> None:
    """Proved: without the cancel branch of `lose` in _prelude.lua a second attempt answers it."""
    worker = own_stack.start_worker("first", **SLOW)
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    worker.kill()
    own_stack.http.delete(f"/v1/jobs/{job_id}")
    own_stack.start_worker("second")
    own_stack.wait_for_state(job_id, "cancelled")
    assert_ended_once(own_stack.store, job_id, "cancelled")
    assert {event.attempt for event in events(own_stack.store, job_id)} == {1}


def test_a_cancel_told_while_redis_restarts_is_kept(own_stack: Stack) -> None:
    own_stack.start_worker(**SLOW, DURE_WORKER_LEASE_S="30")
    job_id = own_stack.submit(max_tokens=1000)
    own_stack.wait_for_text(job_id)
    own_stack.http.delete(f"/v1/jobs/{job_id}")
    own_stack.valkey.stop()
    own_stack.valkey.start()
    own_stack.wait_for_state(job_id, "cancelled")
    assert_ended_once(own_stack.store, job_id, "cancelled")


def leave_early(stack: Stack, **fields: object) -> str:
    """Ask by /api/chat, as a stream, and hang up after the first text. Returns the job's id."""
    body = {"message": "두레가 뭐예요?", "max_tokens": 60, "stream": True, **fields}
    with stack.http.stream("POST", "/api/chat", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data:") and '"text"' in line:
                break
    (job_id,) = wait_for(lambda: [key[4:] for key in stack.store.redis.keys("job:*") if key.count(":") == 1], "the job")
    return str(job_id)


def test_a_client_that_leaves_its_stream_cancels_the_job(own_stack: Stack) -> None:
    own_stack.start_worker(**SLOW)
    job_id = leave_early(own_stack)
    own_stack.wait_for_state(job_id, "cancelled")
    assert_ended_once(own_stack.store, job_id, "cancelled")


def test_a_client_that_leaves_its_stream_may_keep_the_job(own_stack: Stack) -> None:
    """Proved: without `body.keep` in `_stream` the job is cancelled."""
    own_stack.start_worker(**SLOW)
    job_id = leave_early(own_stack, keep=True)
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


def test_a_client_that_leaves_without_streaming_cancels_unless_it_keeps(own_stack: Stack) -> None:
    own_stack.start_worker(**SLOW)
    ended = {}
    for keep in (False, True):
        known = set(own_stack.store.redis.keys("job:*"))

        def ask(keep: bool = keep) -> None:
            with httpx.Client(base_url=own_stack.url, timeout=1.0) as client:
                try:
                    client.post("/api/chat", json={"message": "두레?", "max_tokens": 60, "keep": keep})
                except httpx.ReadTimeout:
                    return

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        job_id = next(
            key[4:] for key in own_stack.store.redis.keys("job:*") if key not in known and key.count(":") == 1
        )
        ended[keep] = own_stack.wait_for_state(job_id, "done", "cancelled")["status"]
        assert_ended_once(own_stack.store, job_id, ended[keep])
    assert ended == {False: "cancelled", True: "done"}


def test_one_idempotency_key_sent_twenty_times_at_once_is_one_job(own_stack: Stack) -> None:
    """Proved: with an idempotency slot per job there are twenty."""
    own_stack.start_worker()
    found: list[str] = []

    def ask() -> None:
        with httpx.Client(base_url=own_stack.url, timeout=60) as client:
            body = {"message": "두레가 뭐예요?", "max_tokens": 5}
            answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "same"})
            found.append(answer.json()["job_id"])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(set(found)) == 1
    own_stack.wait_for_state(found[0], "done")
    assert_ended_once(own_stack.store, found[0], "done")
    assert len([key for key in own_stack.store.redis.keys("job:*") if key.count(":") == 1]) == 1
