"""What operators do to jobs, on the embedded Valkey and on the distribution's Redis."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from dure import job_admin, keys
from dure.events import Draft, EventType
from dure.job import JobState, LossCause
from dure.job_admin import Broom, NoSuchJob, NotQuarantined, Selection
from dure.job_store import Claim, JobStore, Outcome
from dure.worker_registry import WorkerInfo, WorkerRegistry
from support import assert_ended_once, new_job

LONG_AGO = 1


def run(store: JobStore, job_id: str) -> Claim:
    store.submit(new_job(job_id), max_queued=100)
    claim = store.claim(job_id, "box:1:1", "box")
    assert isinstance(claim, Claim)
    return claim


def end(store: JobStore, job_id: str, state: JobState = JobState.DONE, *, finished: int | None = LONG_AGO) -> None:
    """finished: ms; long ago by default, so that nobody can be reading the answer any more."""
    outcome = Outcome(state, reply="네.")  # type: ignore[arg-type]
    assert store.finish(run(store, job_id), outcome, 1, [Draft(EventType.SENTENCE, "네.")])
    if finished is not None:
        store.redis.hset(keys.job(job_id), "finished", finished)


def quarantine(store: JobStore, job_id: str, *, finished: int | None = LONG_AGO) -> None:
    store.submit(new_job(job_id), max_queued=100)
    for number in range(3):
        assert isinstance(store.claim(job_id, f"box:{number}:1", "box", is_alone=True), Claim)
        store.lose(job_id, f"box:{number}:", LossCause.CRASHED, 0)
    assert job_id in store.quarantined()
    if finished is not None:
        store.redis.hset(keys.job(job_id), "finished", finished)


@pytest.fixture
def one_of_each(store: JobStore) -> JobStore:
    for job_id in ("queued-1", "queued-2"):
        store.submit(new_job(job_id), max_queued=100)
    run(store, "running")
    for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
        end(store, state.value, state)
    quarantine(store, "quarantined")
    return store


def everything(store: JobStore) -> dict[str, object]:
    read: dict[Any, Callable[[Any], object]] = {
        "hash": store.redis.hgetall,
        "zset": lambda key: store.redis.zrange(key, 0, -1, withscores=True),
        "stream": store.redis.xrange,
    }
    return {key: read[store.redis.type(key)](key) for key in store.redis.keys("job*")}


def ids(store: JobStore, selection: Selection) -> list[str]:
    return [row.id for row in job_admin.listed(store, selection)]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection.OPEN, ["running", "queued-1", "queued-2"]),
        (Selection.QUEUED, ["queued-1", "queued-2"]),
        (Selection.RUNNING, ["running"]),
        (Selection.QUARANTINED, ["quarantined"]),
        (Selection.DONE, ["done"]),
        (Selection.CANCELLED, ["cancelled"]),
    ],
)
def test_a_selection_has_exactly_its_jobs(one_of_each: JobStore, selection: Selection, expected: list[str]) -> None:
    assert ids(one_of_each, selection) == expected


def test_failed_jobs_include_the_quarantined_ones(one_of_each: JobStore) -> None:
    assert sorted(ids(one_of_each, Selection.FAILED)) == ["failed", "quarantined"]


def test_ended_jobs_are_listed_newest_first_behind_the_open_ones(store: JobStore) -> None:
    for number, job_id in enumerate(["middle", "oldest", "newest"]):
        end(store, job_id, finished=[2000, 1000, 3000][number])
    store.submit(new_job("waiting"), max_queued=100)
    assert ids(store, Selection.ALL) == ["waiting", "newest", "middle", "oldest"]


def test_more_jobs_than_one_batch_are_all_listed(store: JobStore) -> None:
    for number in range(1201):
        store.submit(new_job(f"{number:04d}"), max_queued=5000)
    assert sorted(ids(store, Selection.ALL)) == [f"{number:04d}" for number in range(1201)]
    assert len(ids(store, Selection.QUEUED)) == 1201


def test_what_others_keep_under_such_a_name_is_no_job_and_is_not_purged(store: JobStore) -> None:
    foreign: dict[Any, Any] = {"state": "done", "attempt": "1", "created": "1", "model": "x", "finished": "1"}
    store.redis.hset("job:foreign", mapping=foreign)
    store.redis.hset("job:strange", mapping={**foreign, "charged": "0", "state": "asleep"})
    store.redis.set("job:text", "x")
    assert ids(store, Selection.ALL) == []
    assert job_admin.purgeable(store, Broom.ENDED) == ([], 0)
    assert not job_admin.purge(store, "foreign", Broom.ENDED)
    assert store.redis.hgetall("job:foreign") == foreign


def test_a_job_in_the_queue_whose_hash_has_gone_is_passed_over(store: JobStore) -> None:
    store.redis.zadd(keys.JOBS_QUEUED, {"ghost": 1})
    store.redis.zadd(keys.JOBS_QUARANTINED, {"ghost": 1})
    assert ids(store, Selection.OPEN) == ids(store, Selection.QUARANTINED) == []


def test_cancelling_by_a_key_that_is_no_job_says_so(one_of_each: JobStore) -> None:
    assert job_admin.cancel(one_of_each, "running:ev") is None
    assert job_admin.cancel(one_of_each, "") is None
    with pytest.raises(NoSuchJob):
        job_admin.find(one_of_each, "running:ev")


def test_retrying_gives_a_new_job_and_only_once(one_of_each: JobStore) -> None:
    new_id, model = job_admin.retry(one_of_each, "quarantined", 60)
    job = one_of_each.get(new_id)
    assert job is not None
    assert (job.state, job.model) == ("queued", model)
    with pytest.raises(NotQuarantined, match=f"was asked again as {new_id}"):
        job_admin.retry(one_of_each, "quarantined", 60)


@pytest.mark.parametrize("job_id", ["queued-1", "running", "done", "failed", "cancelled"])
def test_only_quarantined_jobs_can_be_retried(one_of_each: JobStore, job_id: str) -> None:
    before = everything(one_of_each)
    with pytest.raises(NotQuarantined, match=f"{job_id} is "):
        job_admin.retry(one_of_each, job_id, 60)
    assert everything(one_of_each) == before


def test_purging_the_queue_cancels_what_waits_and_nothing_else(one_of_each: JobStore) -> None:
    job_ids, num_fresh = job_admin.purgeable(one_of_each, Broom.QUEUED)
    assert (job_ids, num_fresh) == (["queued-1", "queued-2"], 0)
    for job_id in job_ids:
        assert job_admin.purge(one_of_each, job_id, Broom.QUEUED)
        assert_ended_once(one_of_each, job_id, "cancelled")
    assert ids(one_of_each, Selection.OPEN) == ["running"]


def test_a_job_that_was_claimed_while_the_operator_thought_is_not_touched(store: JobStore) -> None:
    run(store, "a")
    before = everything(store)
    for broom in Broom:
        assert not job_admin.purge(store, "a", broom)
    assert everything(store) == before


def test_purging_ended_jobs_leaves_open_and_quarantined_ones(one_of_each: JobStore) -> None:
    job_ids, _ = job_admin.purgeable(one_of_each, Broom.ENDED)
    assert sorted(job_ids) == ["cancelled", "done", "failed"]
    for job_id in job_ids:
        assert job_admin.purge(one_of_each, job_id, Broom.ENDED)
        assert one_of_each.redis.exists(keys.job(job_id), keys.events(job_id)) == 0
    assert ids(one_of_each, Selection.ALL) == ["running", "queued-1", "queued-2", "quarantined"]
    assert not job_admin.purge(one_of_each, "quarantined", Broom.ENDED)


def test_purging_the_quarantine_deletes_hash_events_and_member(one_of_each: JobStore) -> None:
    assert job_admin.purgeable(one_of_each, Broom.QUARANTINED) == (["quarantined"], 0)
    assert not job_admin.purge(one_of_each, "done", Broom.QUARANTINED)
    assert job_admin.purge(one_of_each, "quarantined", Broom.QUARANTINED)
    assert one_of_each.redis.exists("job:quarantined", "job:quarantined:ev") == 0
    assert one_of_each.quarantined() == []


def test_a_purge_whose_reply_was_lost_may_be_repeated(one_of_each: JobStore) -> None:
    for _ in range(2):
        assert job_admin.purge(one_of_each, "done", Broom.ENDED)
        assert job_admin.purge(one_of_each, "quarantined", Broom.QUARANTINED)


def test_a_job_that_was_retried_meanwhile_stays_with_its_history(one_of_each: JobStore) -> None:
    job_admin.retry(one_of_each, "quarantined", 60)
    assert not job_admin.purge(one_of_each, "quarantined", Broom.QUARANTINED)
    assert one_of_each.get("quarantined") is not None


def test_what_ended_just_now_stays_since_somebody_may_be_reading_it(store: JobStore) -> None:
    end(store, "fresh", finished=None)
    quarantine(store, "poison", finished=None)
    assert job_admin.purgeable(store, Broom.ENDED) == ([], 1)
    assert job_admin.purgeable(store, Broom.QUARANTINED) == ([], 1)
    assert not job_admin.purge(store, "fresh", Broom.ENDED)
    assert not job_admin.purge(store, "poison", Broom.QUARANTINED)
    assert sorted(ids(store, Selection.ALL)) == ["fresh", "poison"]


def test_a_quarantine_member_without_a_job_is_dropped(store: JobStore) -> None:
    store.redis.zadd(keys.JOBS_QUARANTINED, {"ghost": 1})
    assert job_admin.purge(store, "ghost", Broom.QUARANTINED)
    assert store.quarantined() == []


def test_last_seen_is_told_by_the_servers_clock_also_of_those_who_fell_silent(
    store: JobStore, client: redis.Redis
) -> None:
    registry = WorkerRegistry(client)
    registry.announce(WorkerInfo("alive", "m", "scripted", num_slots=1, context=1, pid=1))
    client.zadd(keys.WORKERS, {"silent": 5000})
    seen = registry.last_seen_s()
    assert seen["silent"] == 5
    assert abs(seen["alive"] - store.now_s()) < 60
