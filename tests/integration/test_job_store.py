import threading

import pytest
import redis

from dure import keys
from dure.errors import IdempotencyConflict, QueueFull, StoreError, StoreUnavailable
from dure.events import Draft, EventType
from dure.job import SCHEMA, JobState, LossCause, Usage
from dure.job_store import CancelReply, Claim, EmitReply, JobStore, Lost, NoClaim, Outcome, connect
from support import assert_ended_once, events, new_job, payload

TOKEN = EventType.TOKEN
DONE = Outcome(JobState.DONE, reply="네.", finish_reason="stop", usage=Usage(5, 2), question="두레가 뭐예요?")


def claim(store: JobStore, job_id: str = "a", owner: str = "w1", lease_s: float = 15) -> Claim:
    claimed = store.claim(job_id, owner, "box", lease_s)
    assert isinstance(claimed, Claim)
    return claimed


def expired_claim(store: JobStore, job_id: str = "a", owner: str = "w1") -> Claim:
    """A claim whose worker died: its lease is moved into the past instead of waiting for it."""
    claimed = claim(store, job_id, owner)
    store.redis.hset(keys.job(job_id), "lease_until", 1)
    store.redis.zadd(keys.JOBS_RUNNING, {job_id: 1})
    return claimed


@pytest.fixture
def queued(store: JobStore) -> JobStore:
    store.submit(new_job("a"), max_queued=10)
    return store


def test_a_job_goes_from_submit_to_done(queued: JobStore) -> None:
    assert queued.queue_position("a") == 0
    claimed = claim(queued)
    assert claimed.attempt == 1
    assert claimed.payload_json == payload().to_json()
    assert queued.emit("a", 1, 1, [Draft(TOKEN, "네")]) is EmitReply.OK
    assert queued.finish(claimed, DONE, 2, [Draft(EventType.SENTENCE, "네.")])
    assert_ended_once(queued, "a", "done")
    job = queued.get("a")
    assert job is not None
    assert (job.reply, job.finish_reason, job.usage) == ("네.", "stop", Usage(5, 2))
    assert [(event.type, event.text) for event in events(queued, "a")[1:3]] == [("token", "네"), ("sentence", "네.")]


def test_ended_jobs_expire_and_open_ones_do_not(queued: JobStore) -> None:
    assert queued.redis.ttl("job:a") == -1
    queued.finish(claim(queued), DONE, 1, [])
    assert 0 < queued.redis.ttl("job:a") <= keys.KEEP_JOB_S
    assert 0 < queued.redis.ttl("job:a:ev") <= keys.KEEP_EVENTS_S


def test_submitting_the_same_id_again_changes_nothing(queued: JobStore) -> None:
    claim(queued)
    assert queued.submit(new_job("a"), max_queued=10) == ("a", False)
    job = queued.get("a")
    assert job is not None
    assert job.state == "running"


def test_a_full_queue_refuses_and_records_nothing(store: JobStore) -> None:
    store.submit(new_job("a"), max_queued=1)
    with pytest.raises(QueueFull, match="1 jobs"):
        store.submit(new_job("b"), max_queued=1)
    assert store.get("b") is None


def test_an_idempotency_key_sent_twenty_times_at_once_makes_one_job(store: JobStore) -> None:
    found: list[tuple[str, bool]] = []

    def submit(number: int) -> None:
        found.append(store.submit(new_job(f"j{number}", idempotency_key="key"), max_queued=100))

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1
    assert store.redis.zcard(keys.JOBS_QUEUED) == 1


def test_an_idempotency_key_with_another_request_is_a_conflict(store: JobStore) -> None:
    store.submit(new_job("a", idempotency_key="key"), max_queued=10)
    with pytest.raises(IdempotencyConflict):
        store.submit(new_job("b", idempotency_key="key", request="다른 질문"), max_queued=10)
    assert store.get("b") is None


def test_a_running_job_is_not_given_to_a_second_worker(queued: JobStore) -> None:
    claim(queued)
    assert queued.claim("a", "w2", "box") is NoClaim.BUSY


def test_the_same_owner_claiming_again_keeps_its_attempt(queued: JobStore) -> None:
    assert claim(queued).attempt == claim(queued).attempt == 1
    assert [event.type for event in events(queued, "a")] == ["start"]


def test_ended_and_unknown_jobs_cannot_be_claimed(queued: JobStore) -> None:
    queued.finish(claim(queued), DONE, 1, [])
    assert queued.claim("a", "w2", "box") is NoClaim.FINAL
    assert queued.claim("never", "w2", "box") is NoClaim.GONE


def test_a_dead_workers_job_is_queued_again_and_the_dead_one_writes_nothing_more(queued: JobStore) -> None:
    dead = expired_claim(queued)
    assert queued.leases_over() == ["a"]
    assert queued.expire("a") == "REQUEUED"
    alive = claim(queued, owner="w2")
    assert alive.attempt == 2
    assert queued.emit("a", dead.attempt, 1, [Draft(TOKEN, "낡은 글")]) is EmitReply.LOST
    assert not queued.finish(dead, DONE, 1, [])
    assert queued.finish(alive, DONE, 1, [Draft(TOKEN, "새 글")])
    assert_ended_once(queued, "a", "done")
    assert [event.text for event in events(queued, "a") if event.text] == ["새 글"]


def test_an_expired_lease_can_be_claimed_before_anyone_requeued_it(queued: JobStore) -> None:
    expired_claim(queued)
    assert claim(queued, owner="w2").attempt == 2


def test_a_live_lease_is_left_alone(queued: JobStore) -> None:
    claim(queued)
    assert queued.expire("a") == "KEPT"
    assert queued.leases_over() == []


def test_a_job_that_ends_its_workers_goes_into_quarantine_with_its_history(queued: JobStore) -> None:
    for number in range(2):
        expired_claim(queued, owner=f"box{number}:7:x")
        assert queued.expire("a") is Lost.REQUEUED
    assert queued.claim("a", "box2:7:x", "box") is NoClaim.ALONE
    assert isinstance(queued.claim("a", "box2:7:x", "box", is_alone=True), Claim)
    assert queued.lose("a", "box2:7:", LossCause.MEMORY, 2500) is Lost.QUARANTINED
    assert_ended_once(queued, "a", "failed")
    job = queued.get("a")
    assert job is not None
    assert [(lost.attempt, lost.cause, lost.rss_mib, lost.worker) for lost in job.lost] == [
        (1, "silent", 0, "box0"),
        (2, "silent", 0, "box1"),
        (3, "memory", 2500, "box2"),
    ]
    assert job.error is not None
    assert job.error.code == "max_attempts"
    assert "memory at 2500 MiB on box2" in job.error.message
    assert queued.quarantined() == ["a"]
    assert queued.redis.ttl("job:a") > keys.KEEP_JOB_S


def test_a_claim_finds_the_last_lease_over_before_anyone_else_and_ends_the_job(queued: JobStore) -> None:
    for _ in range(2):
        expired_claim(queued)
        queued.expire("a")
    assert isinstance(queued.claim("a", "w3", "box", is_alone=True), Claim)
    queued.redis.hset("job:a", "lease_until", 1)
    assert queued.claim("a", "w4", "box", is_alone=True) is NoClaim.QUARANTINED
    assert_ended_once(queued, "a", "failed")


def test_a_supervisors_report_needs_no_lease_to_run_out_and_takes_only_its_own_jobs(queued: JobStore) -> None:
    claim(queued, owner="box:7:x")
    assert queued.lose("a", "box:77:", LossCause.CRASHED, 0) is Lost.KEPT
    assert queued.lose("a", "bo:7:", LossCause.CRASHED, 0) is Lost.KEPT
    assert queued.lose("a", "box:7:", LossCause.CRASHED, 120) is Lost.REQUEUED
    assert queued.lose("a", "box:7:", LossCause.CRASHED, 120) is Lost.KEPT
    assert claim(queued, owner="box:8:x").attempt == 2
    assert queued.lose("never", "box:7:", LossCause.CRASHED, 0) is Lost.GONE


def test_a_report_after_the_lease_ran_out_names_the_cause(queued: JobStore) -> None:
    expired_claim(queued, owner="box:7:x")
    queued.expire("a")
    claim(queued, owner="other:1:x")
    assert queued.lose("a", "box:7:", LossCause.HUNG, 300) is Lost.NOTED
    job = queued.get("a")
    assert job is not None
    assert [(lost.cause, lost.rss_mib) for lost in job.lost] == [("hung", 300)]
    assert job.state == "running"


def test_a_quarantined_job_is_asked_again_as_a_new_one_and_only_once(queued: JobStore) -> None:
    for _ in range(3):
        queued.claim("a", "w", "box", is_alone=True)
        queued.redis.hset("job:a", "lease_until", 1)
        queued.expire("a")
    assert queued.retry("a", "b", 60)
    assert queued.retry("a", "b", 60)  # its first reply was lost
    assert not queued.retry("a", "c", 60)
    assert queued.get("c") is None
    assert queued.quarantined() == []
    assert_ended_once(queued, "a", "failed")
    again, old = queued.get("b"), queued.get("a")
    assert again is not None
    assert old is not None
    assert (again.state, again.attempt, again.lost, old.retried_as) == ("queued", 0, (), "b")
    assert claim(queued, "b").payload_json == payload().to_json()


def test_a_job_of_a_newer_schema_is_left_to_a_newer_worker(store: JobStore, client: redis.Redis) -> None:
    store.submit(new_job("a", payload=payload(schema=SCHEMA + 1)), max_queued=10)
    assert store.claim("a", "old:1:x", "old") is NoClaim.NEWER
    job = store.get("a")
    assert job is not None
    assert job.state == "queued"
    newer = JobStore(client, schema=SCHEMA + 1)
    claimed = newer.claim("a", "new:1:x", "new")
    assert isinstance(claimed, Claim)
    assert newer.finish(claimed, DONE, 1, [])
    assert_ended_once(store, "a", "done")


def test_a_job_that_only_older_workers_saw_says_so_when_it_expires(store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(schema=SCHEMA + 1)), max_queued=10)
    store.claim("a", "old:1:x", "old")
    store.redis.hset("job:a", "deadline", 1)
    assert store.expire("a") is Lost.EXPIRED
    job = store.get("a")
    assert job is not None
    assert job.error is not None
    assert (job.error.code, "update dure" in job.error.message, "old" in job.error.message) == (
        "no_new_worker",
        True,
        True,
    )


def test_a_job_released_after_its_cancel_is_cancelled(queued: JobStore) -> None:
    claimed = claim(queued)
    queued.cancel("a")
    assert queued.release(claimed)
    assert_ended_once(queued, "a", "cancelled")


def test_a_released_job_is_not_charged_but_its_fence_moves_on(queued: JobStore) -> None:
    for number in range(5):
        released = claim(queued, owner=f"w{number}")
        assert queued.release(released)
        assert queued.emit("a", released.attempt, 1, []) is EmitReply.LOST
    last = claim(queued)
    assert last.attempt == 6
    assert queued.finish(last, DONE, 1, [])


def test_events_sent_twice_are_written_once(queued: JobStore) -> None:
    claimed = claim(queued)
    drafts = [Draft(TOKEN, "하나"), Draft(TOKEN, "둘")]
    queued.emit("a", 1, 1, drafts)
    queued.emit("a", 1, 1, [*drafts, Draft(TOKEN, "셋")])
    queued.finish(claimed, DONE, 3, [Draft(TOKEN, "셋"), Draft(TOKEN, "넷")])
    assert [event.text for event in events(queued, "a") if event.text] == ["하나", "둘", "셋", "넷"]
    assert_ended_once(queued, "a", "done")


def test_thousands_of_events_at_once_arrive_in_order(queued: JobStore) -> None:
    claimed = claim(queued)
    queued.emit("a", 1, 1, [Draft(TOKEN, str(number)) for number in range(1, 2001)])
    queued.finish(claimed, DONE, 2001, [Draft(TOKEN, str(number)) for number in range(2001, 4001)])
    assert [int(event.text) for event in events(queued, "a") if event.text] == list(range(1, 4001))
    assert_ended_once(queued, "a", "done")


def test_finishing_twice_publishes_once(queued: JobStore) -> None:
    claimed = claim(queued)
    assert queued.finish(claimed, DONE, 1, [])
    assert queued.finish(claimed, DONE, 1, [])
    assert_ended_once(queued, "a", "done")


def test_an_emit_without_renewal_lets_the_lease_run_out(queued: JobStore) -> None:
    claim(queued)
    before = queued.redis.hget("job:a", "lease_until")
    queued.emit("a", 1, 1, [], lease_s=0)
    assert queued.redis.hget("job:a", "lease_until") == before
    queued.emit("a", 1, 1, [], lease_s=100)
    assert int(queued.redis.hget("job:a", "lease_until")) > int(before)


def test_cancelling_a_queued_job_ends_it_at_once(queued: JobStore) -> None:
    assert queued.cancel("a") is CancelReply.CANCELLED
    assert_ended_once(queued, "a", "cancelled")
    assert queued.claim("a", "w1", "box") is NoClaim.FINAL


def test_cancelling_a_running_job_reaches_its_worker(queued: JobStore) -> None:
    claimed = claim(queued)
    assert queued.cancel("a") is CancelReply.REQUESTED
    assert queued.emit("a", 1, 1, []) is EmitReply.CANCEL
    assert queued.finish(claimed, Outcome(JobState.CANCELLED, reply="절반"), 1, [])
    assert_ended_once(queued, "a", "cancelled")


def test_a_cancelled_job_of_a_dead_worker_is_not_run_again(queued: JobStore) -> None:
    expired_claim(queued)
    queued.cancel("a")
    assert queued.expire("a") == "CANCELLED"
    assert_ended_once(queued, "a", "cancelled")


def test_cancelling_what_has_ended_or_never_was_changes_nothing(queued: JobStore) -> None:
    queued.finish(claim(queued), DONE, 1, [])
    assert queued.cancel("a") is CancelReply.FINAL
    assert queued.cancel("never") is CancelReply.GONE
    assert_ended_once(queued, "a", "done")


def test_cancel_and_finish_racing_leave_one_final_state(store: JobStore, client: redis.Redis) -> None:
    other = JobStore(client)
    for number in range(1000):
        job_id = f"r{number}"
        store.submit(new_job(job_id), max_queued=10)
        claimed = claim(store, job_id)
        thread = threading.Thread(target=other.cancel, args=(job_id,))
        thread.start()
        store.finish(claimed, DONE, 1, [])
        thread.join()
        assert_ended_once(store, job_id, "done")


def test_a_job_queued_past_its_deadline_fails_and_says_so(store: JobStore) -> None:
    store.submit(new_job("a", deadline_s=0), max_queued=10)
    assert store.expire("a") == "EXPIRED"
    assert_ended_once(store, "a", "failed")
    job = store.get("a")
    assert job is not None
    assert job.error is not None
    assert job.error.code == "expired"


def test_a_claim_past_the_deadline_fails_the_job(store: JobStore) -> None:
    store.submit(new_job("a", deadline_s=-1), max_queued=10)
    assert store.claim("a", "w1", "box") is NoClaim.EXPIRED
    assert_ended_once(store, "a", "failed")


def test_an_answered_turn_joins_the_conversation_and_a_cancelled_one_does_not(store: JobStore) -> None:
    key = keys.conversation(keys.DEFAULT_TENANT, "c1")
    store.submit(new_job("a", conversation_id="c1"), max_queued=10)
    store.submit(new_job("b", conversation_id="c1"), max_queued=10)
    store.finish(claim(store, "a"), DONE, 1, [])
    store.finish(claim(store, "b"), Outcome(JobState.CANCELLED, reply="절", question="또?"), 1, [])
    assert [(turn.role, turn.content) for turn in store.conversation(key)] == [
        ("user", "두레가 뭐예요?"),
        ("assistant", "네."),
    ]
    assert 0 < store.redis.ttl(key) <= keys.KEEP_CONVERSATION_S


def test_an_id_without_a_job_leaves_the_sets(store: JobStore) -> None:
    store.redis.zadd(keys.JOBS_RUNNING, {"ghost": 1})
    assert store.expire("ghost") == "GONE"
    assert store.redis.zcard(keys.JOBS_RUNNING) == 0


def test_an_unreachable_server_is_a_named_error() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        JobStore(connect("redis://127.0.0.1:1/0", 1)).get("a")


def test_a_wrong_password_is_a_named_error(valkey) -> None:
    wrong = valkey.url.replace(valkey.url.split(":")[2].split("@")[0], "wrong")
    with pytest.raises(StoreError):
        JobStore(connect(wrong, 2)).get("a")
