"""Hints that come twice, too late, to nobody, or are none: a Celery message is never the truth about a job."""

import json

import pytest

from dure import broker, keys
from dure.job import SCHEMA
from support import Stack, assert_ended_once, events, new_job, payload, wait_for

SLOW = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.05"}
QUEUE = "celery.scripted"


def starts(stack: Stack, job_id: str) -> list[int]:
    return [event.attempt for event in events(stack.store, job_id) if event.type in {"start", "restarted"}]


def hinted(stack: Stack) -> list[str]:
    return [raw for name in keys.queue_keys(QUEUE) for raw in stack.store.redis.lrange(name, 0, -1)]


def envelope(body: str, content_type: str) -> bytes:
    delivery = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_tag": "t1", "body_encoding": "base64", "delivery_info": delivery}
    headers = {"task": "dure.chat", "id": "x"}
    found = {"body": body, "content-type": content_type, "content-encoding": "utf-8", "headers": headers}
    return json.dumps(found | {"properties": properties}).encode()


def leave_unacknowledged(stack: Stack, raw: str) -> None:
    """As kombu keeps a message that a worker took and never acknowledged, taken so long ago that it is due again."""
    message = json.loads(raw)
    tag = message["properties"]["delivery_tag"]
    stack.store.redis.hset("unacked", tag, json.dumps([message, QUEUE, QUEUE]))
    stack.store.redis.zadd("unacked_index", {tag: 1})


def test_fifty_duplicates_of_a_hint_run_its_job_once(own_stack: Stack) -> None:
    """Proved: without BUSY in claim.lua a second attempt starts at once."""
    own_stack.start_worker("one", **SLOW)
    own_stack.start_worker("two", **SLOW)
    job_id = own_stack.submit(max_tokens=40)
    own_stack.wait_for_text(job_id)
    with broker.make_celery(own_stack.valkey.url) as app:
        for _ in range(50):
            broker.publish(app, job_id, QUEUE)
    own_stack.wait_for_state(job_id, "done")
    wait_for(lambda: not hinted(own_stack), "all hints taken")
    assert_ended_once(own_stack.store, job_id, "done")
    assert starts(own_stack, job_id) == [1]


def test_fifty_hints_for_a_finished_job_change_nothing(own_stack: Stack) -> None:
    """Proved: without FINAL in claim.lua the job is answered again."""
    own_stack.start_worker("one")
    job_id = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(job_id, "done")
    before = own_stack.store.redis.hgetall(keys.job(job_id))
    with broker.make_celery(own_stack.valkey.url) as app:
        for _ in range(50):
            broker.publish(app, job_id, QUEUE)
    wait_for(lambda: not hinted(own_stack), "all hints taken")
    later = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(later, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    assert own_stack.store.redis.hgetall(keys.job(job_id)) == before


def test_a_worker_killed_between_finish_and_acknowledgement_does_not_answer_twice(own_stack: Stack) -> None:
    """kombu delivers the hint again. Proved: without FINAL in claim.lua the job is answered again."""
    job_id = own_stack.submit(max_tokens=5)
    raw = wait_for(lambda: hinted(own_stack), "the hint")[0]
    worker = own_stack.start_worker("first")
    own_stack.wait_for_state(job_id, "done")
    worker.kill()
    worker.wait()
    leave_unacknowledged(own_stack, raw)
    own_stack.start_worker("second")
    wait_for(lambda: "not claimed: FINAL" in own_stack.log("second").read_text("utf-8"), "the hint's second coming")
    assert_ended_once(own_stack.store, job_id, "done")
    assert starts(own_stack, job_id) == [1]


def test_a_visibility_timeout_shorter_than_the_job_starts_no_second_copy(own_stack: Stack) -> None:
    """kombu thinks that the message was lost, while its job runs. Proved: without BUSY in claim.lua it starts again."""
    own_stack.start_worker("one", **SLOW)
    job_id = own_stack.submit(max_tokens=400)
    own_stack.wait_for_text(job_id)
    for tag in own_stack.store.redis.zrange("unacked_index", 0, -1):
        own_stack.store.redis.zadd("unacked_index", {tag: 1})
    own_stack.start_worker("two", **SLOW)
    logs = [own_stack.log("one"), own_stack.log("two")]
    wait_for(lambda: any("not claimed: BUSY" in log.read_text("utf-8") for log in logs), "the hint's second coming")
    own_stack.http.delete(f"/v1/jobs/{job_id}")
    own_stack.wait_for_state(job_id, "cancelled", "done")
    assert starts(own_stack, job_id) == [1]


def test_a_message_for_an_unknown_task_does_not_stop_a_worker(own_stack: Stack) -> None:
    own_stack.start_worker()
    with broker.make_celery(own_stack.valkey.url) as app:
        app.send_task("no.such.task", ("x",), queue=QUEUE)
    job_id = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(job_id, "done")


@pytest.mark.parametrize(
    "junk",
    [
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"5",
        b"{}",
        b'{"properties": {}}',
        envelope("%%%", "application/json"),
        envelope("e30=", "application/x-python-serialize"),
    ],
    ids=["half", "no-text", "list", "number", "empty", "no-tag", "no-base64", "pickle"],
)
def test_an_undecodable_message_does_not_stop_a_worker(own_stack: Stack, junk: bytes) -> None:
    """Proved: with kombu's own Channel the consumer ends at the first six ("Unrecoverable error")."""
    worker = own_stack.start_worker()
    own_stack.store.redis.lpush(QUEUE, junk)
    wait_for(lambda: not own_stack.store.redis.exists(QUEUE), "the junk taken")
    job_id = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    assert worker.poll() is None
    said = own_stack.log("box").read_text("utf-8")
    assert "Unrecoverable error" not in said


def test_hints_in_the_own_queue_of_a_dead_worker_do_not_hold_their_jobs(own_stack: Stack) -> None:
    """Proved: while the reconciler counts hints in every queue ever seen, these jobs wait for the dead worker."""
    dead = own_stack.start_worker("dead", **SLOW)
    dead.kill()
    dead.wait()
    own_stack.gateway.kill()  # between SUBMIT and publish, so that only the planted hints exist
    own_stack.gateway.wait()
    for number in range(3):
        own_stack.store.submit(new_job(f"backlog{number}"), max_queued=10)
        with broker.make_celery(own_stack.valkey.url) as app:
            broker.publish(app, f"backlog{number}", keys.worker_queue("dead"))
    own_stack.gateway = own_stack.start("dure_gateway", "gateway-2")
    wait_for(own_stack.is_up, "the gateway")
    own_stack.start_worker("alive")
    for number in range(3):
        own_stack.wait_for_state(f"backlog{number}", "done")
        assert_ended_once(own_stack.store, f"backlog{number}", "done")


def test_a_hint_that_cannot_be_published_is_not_the_clients_trouble(own_stack: Stack) -> None:
    """The job is recorded, then LPUSH is refused. Proved: with `raise` in `publish` this is a 500."""
    own_stack.start_worker()
    own_stack.store.redis.execute_command("ACL", "SETUSER", "default", "-lpush")
    job_id = own_stack.submit(max_tokens=5)
    wait_for(lambda: "hint not sent" in own_stack.log("gateway").read_text("utf-8"), "the failed publish")
    own_stack.store.redis.execute_command("ACL", "SETUSER", "default", "+lpush")
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


def test_a_job_of_a_newer_release_waits_for_a_newer_worker_while_the_rest_goes_on(own_stack: Stack) -> None:
    """Proved: without NEWER in claim.lua the worker fails the job as unreadable."""
    own_stack.start_worker()
    own_stack.store.submit(new_job("future", payload=payload(schema=SCHEMA + 1)), max_queued=10)
    wait_for(lambda: "not claimed: NEWER" in own_stack.log("box").read_text("utf-8"), "the refusal")
    now = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(now, "done")
    assert own_stack.http.get("/v1/jobs/future").json()["status"] == "queued"
