"""The soak's judge must see what it is there for: each test breaks one job by hand."""

import pytest
from soaking.verdict import Asked, Verdict, judge, question

from dure import keys
from dure.job_store import JobStore
from dure.worker_registry import WorkerRegistry
from dure_worker.engines.scripted import ScriptedEngine
from dure_worker.lifecycle import Lifecycle
from dure_worker.outbox import Outbox
from dure_worker.runner import Runner
from support import new_job


@pytest.fixture
def answered(store: JobStore) -> Asked:
    """One job, rightly answered."""
    asked = Asked("a", question(1, 40), may_cancel=False)
    store.submit(new_job("a", payload=asked.payload), max_queued=10)
    engine = ScriptedEngine()
    outbox = Outbox(store, 15)
    lifecycle = Lifecycle("box", engine.info, WorkerRegistry(store.redis), 1)
    Runner(store, engine, outbox, lifecycle, 15).run("a")
    outbox.stop()
    lifecycle.close()
    return asked


def verdict(store: JobStore, asked: Asked) -> Verdict:
    return judge(store, [asked], deaths=[])


def test_a_right_answer_is_not_complained_about(store: JobStore, answered: Asked) -> None:
    assert verdict(store, answered).bad == []


def test_a_job_that_is_gone_or_has_not_ended_is_lost(store: JobStore, answered: Asked) -> None:
    store.redis.hset(keys.job("a"), "state", "running")
    assert verdict(store, answered).lost == ["a"]
    store.redis.delete(keys.job("a"))
    assert verdict(store, answered).lost == ["a"]


def test_a_second_final_event_is_a_duplicate(store: JobStore, answered: Asked) -> None:
    store.redis.xadd(keys.events("a"), {"type": "final", "attempt": 1, "state": "done"})
    assert verdict(store, answered).duplicated == ["a"]


def test_an_ended_job_that_still_waits_in_a_set_is_a_duplicate_to_come(store: JobStore, answered: Asked) -> None:
    store.redis.zadd(keys.JOBS_QUEUED, {"a": 1})
    assert verdict(store, answered).duplicated == ["a"]


def test_a_missing_event_is_a_gap(store: JobStore, answered: Asked) -> None:
    entries = store.redis.xrange(keys.events("a"))
    store.redis.xdel(keys.events("a"), entries[1][0])
    assert verdict(store, answered).gaps == ["a"]


@pytest.mark.parametrize(
    "change",
    [{"reply": "딴말입니다."}, {"reply": ""}, {"reply": "딴말입니다.", "attempt": 2}, {"state": "failed"}],
    ids=str,
)
def test_another_answer_than_the_engines_is_wrong(
    store: JobStore, answered: Asked, change: dict[str, str | int]
) -> None:
    store.redis.hset(keys.job("a"), mapping=change)
    assert verdict(store, answered).wrong == ["a"]


def test_a_cancelled_job_is_right_only_where_somebody_cancelled(store: JobStore, answered: Asked) -> None:
    store.redis.hset(keys.job("a"), "state", "cancelled")
    assert verdict(store, answered).wrong == ["a"]
    assert verdict(store, Asked("a", answered.payload, may_cancel=True)).wrong == []


def test_recovery_counts_from_the_death_to_the_next_start(store: JobStore, answered: Asked) -> None:
    began = int(store.redis.xrange(keys.events("a"))[0][0].split("-")[0]) / 1000
    store.redis.delete(keys.events("a"))
    for second, fields in (
        (0, {"type": "start", "attempt": 1, "worker": "box"}),
        (7, {"type": "start", "attempt": 2, "worker": "other"}),
    ):
        store.redis.xadd(keys.events("a"), fields, id=f"{int((began + second) * 1000)}-0")
    store.redis.xadd(keys.events("a"), {"type": "final", "attempt": 2, "state": "done"})
    found = judge(store, [answered], deaths=[("box", began + 2), ("other", began + 3)])
    assert found.recoveries == pytest.approx([5], abs=0.01)
