import json
from dataclasses import replace

import pytest
from kombu.exceptions import OperationalError

from dure import broker, keys
from dure.job_store import Claim, JobStore
from dure.reconciler import HINT_LOST_AFTER_S, Reconciler
from dure.worker_registry import WorkerInfo, WorkerRegistry
from support import Valkey, assert_ended_once, new_job


class Hints:
    """Records what is published; can be broken."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.priorities: list[int] = []
        self.is_broken = False

    def __call__(self, job_id: str, queue: str, priority: int) -> None:
        if self.is_broken:
            raise OperationalError("the broker is away")
        self.sent.append((job_id, queue))
        self.priorities.append(priority)


@pytest.fixture
def hints() -> Hints:
    return Hints()


def submit_long_ago(store: JobStore, job_id: str) -> None:
    store.submit(new_job(job_id), max_queued=100)
    old = int((store.now_s() - HINT_LOST_AFTER_S - 1) * 1000)
    store.redis.hset(keys.job(job_id), "created", old)
    store.redis.zadd(keys.JOBS_QUEUED, {job_id: old})


def die(store: JobStore, job_id: str) -> None:
    assert store.claim(job_id, "dead", "box")
    store.redis.hset(keys.job(job_id), "lease_until", 1)
    store.redis.zadd(keys.JOBS_RUNNING, {job_id: 1})


def test_a_job_whose_hint_was_never_sent_gets_one(store: JobStore, hints: Hints) -> None:
    submit_long_ago(store, "a")
    assert Reconciler(store, hints).run_once() == 1
    assert hints.sent == [("a", "celery.scripted")]


def test_a_fresh_job_is_left_to_its_own_hint(store: JobStore, hints: Hints) -> None:
    store.submit(new_job("a"), max_queued=100)
    assert Reconciler(store, hints).run_once() == 0


@pytest.mark.parametrize("priority", keys.PRIORITY_STEPS)
@pytest.mark.parametrize("queue", ["celery.scripted", "w.box"])
def test_a_hint_in_any_queue_counts(store: JobStore, valkey: Valkey, hints: Hints, queue: str, priority: int) -> None:
    WorkerRegistry(store.redis).announce(WorkerInfo("box", "scripted", "scripted", 4, 2048, 1))
    submit_long_ago(store, "a")
    with broker.make_celery(valkey.url) as app:
        broker.publish(app, "a", queue, priority)
    assert Reconciler(store, hints).run_once() == 0


def test_a_hint_in_the_own_queue_of_a_dead_worker_does_not_count(store: JobStore, valkey: Valkey, hints: Hints) -> None:
    """Proved: fails where the reconciler believes every name that ever announced itself."""
    WorkerRegistry(store.redis).announce(WorkerInfo("box", "scripted", "scripted", 4, 2048, 1))
    submit_long_ago(store, "a")
    with broker.make_celery(valkey.url) as app:
        broker.publish(app, "a", "w.box")
    store.redis.delete(keys.worker("box"))  # expired: it was silent for 15 s
    Reconciler(store, hints).run_once()
    assert hints.sent == [("a", "celery.scripted")]


def test_a_worker_announces_itself_anew_to_a_server_that_forgot_it(store: JobStore) -> None:
    """Only changes are sent; a server that came back empty needs all."""
    registry = WorkerRegistry(store.redis)
    info = WorkerInfo("box", "scripted", "scripted", 4, 2048, 1)
    registry.announce(info)
    store.redis.flushall()
    registry.announce(replace(info, num_running=2))
    assert registry.live() == [replace(info, num_running=2)]
    assert 0 < store.redis.ttl(keys.worker("box")) <= keys.WORKER_TTL_S


def test_one_damaged_job_does_not_hold_up_the_others(store: JobStore, hints: Hints) -> None:
    store.redis.zadd(keys.JOBS_RUNNING, {"damaged": 1})
    store.redis.hset(keys.job("damaged"), mapping={"state": "running", "lease_until": "never"})
    submit_long_ago(store, "a")
    assert Reconciler(store, hints).run_once() == 1


def test_a_workers_entry_that_cannot_be_read_is_passed_over(store: JobStore, hints: Hints) -> None:
    store.redis.zadd(keys.WORKERS, {"odd": 9e15})
    store.redis.hset(keys.worker("odd"), mapping={"name": "odd"})
    submit_long_ago(store, "a")
    assert Reconciler(store, hints).run_once() == 1


def test_workers_silent_for_long_are_forgotten(store: JobStore, hints: Hints) -> None:
    registry = WorkerRegistry(store.redis)
    registry.announce(WorkerInfo("alive", "scripted", "scripted", 4, 2048, 1))
    store.redis.zadd(keys.WORKERS, {"dead": 1})
    Reconciler(store, hints).run_once()
    assert store.redis.zrange(keys.WORKERS, 0, -1) == ["alive"]


def test_a_hint_taken_by_a_worker_that_died_before_its_claim_is_sent_again(
    store: JobStore, valkey: Valkey, hints: Hints
) -> None:
    """kombu keeps it as unacknowledged for ten minutes. Fails where such a hint counts as one."""
    submit_long_ago(store, "a")
    with broker.make_celery(valkey.url) as app:
        broker.publish(app, "a", "celery.scripted")
    name = keys.queue_keys("celery.scripted")[-1]
    message = json.loads(store.redis.rpop(name))
    store.redis.hset("unacked", "tag", json.dumps([message, "celery.scripted", "celery.scripted"]))
    Reconciler(store, hints).run_once()
    assert hints.sent == [("a", "celery.scripted")]


def test_a_job_given_back_gets_its_hint_at_once_and_goes_first(store: JobStore, hints: Hints) -> None:
    """However young: its old hint has been used up."""
    store.submit(new_job("a"), max_queued=100)
    claimed = store.claim("a", "box:1:x", "box")
    assert isinstance(claimed, Claim)
    store.release(claimed)
    assert Reconciler(store, hints).run_once() == 1
    assert hints.priorities == [keys.PRIORITY_URGENT]


@pytest.mark.parametrize("junk", ["{", "5", "[]", "{}", '{"headers": 3}', "\u0000"])
def test_what_is_no_hint_in_a_queue_is_passed_over(store: JobStore, hints: Hints, junk: str) -> None:
    """Proved: json's or KeyError's exception ended the gateway's reconciler."""
    store.redis.lpush("celery.scripted", junk)
    submit_long_ago(store, "a")
    assert Reconciler(store, hints).run_once() == 1


def test_other_jobs_hints_do_not_stand_in_for_a_lost_one(store: JobStore, valkey: Valkey, hints: Hints) -> None:
    submit_long_ago(store, "a")
    with broker.make_celery(valkey.url) as app:
        for number in range(3):
            broker.publish(app, f"other{number}", "celery.scripted")
    Reconciler(store, hints).run_once()
    assert hints.sent == [("a", "celery.scripted")]


def test_a_dead_workers_job_is_hinted_at_again(store: JobStore, hints: Hints) -> None:
    store.submit(new_job("a"), max_queued=100)
    die(store, "a")
    Reconciler(store, hints).run_once()
    assert hints.sent == [("a", "celery.scripted")]
    assert hints.priorities == [keys.PRIORITY_URGENT]
    job = store.get("a")
    assert job is not None
    assert job.state == "queued"


def test_a_broken_broker_loses_nothing(store: JobStore, hints: Hints) -> None:
    submit_long_ago(store, "a")
    hints.is_broken = True
    with pytest.raises(OperationalError):
        Reconciler(store, hints).run_once()
    hints.is_broken = False
    assert Reconciler(store, hints).run_once() == 1


def test_two_reconcilers_do_what_one_does(store: JobStore, hints: Hints) -> None:
    store.submit(new_job("a"), max_queued=100)
    die(store, "a")
    Reconciler(store, hints).run_once()
    Reconciler(store, hints).run_once()
    claimed = store.claim("a", "alive", "box")
    assert isinstance(claimed, Claim)
    assert claimed.attempt == 2


def test_a_job_past_its_deadline_fails_without_any_worker(store: JobStore, hints: Hints) -> None:
    store.submit(new_job("a", deadline_s=0), max_queued=100)
    store.redis.zadd(keys.JOBS_QUEUED, {"a": 1})
    assert Reconciler(store, hints).run_once() == 0
    assert_ended_once(store, "a", "failed")
