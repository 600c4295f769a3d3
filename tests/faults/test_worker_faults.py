"""Workers that die, hang or stop. For every job: one final event, no gap, no trace left."""

import os
import re
import signal
from datetime import datetime

import pytest

from support import Stack, assert_ended_once, events, stop, wait_for

SLOW = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.05"}


def sentences(stack: Stack, job_id: str, attempt: int) -> list[str]:
    found = events(stack.store, job_id)
    return [event.text for event in found if event.type == "sentence" and event.attempt == attempt]


def types(stack: Stack, job_id: str) -> list[str]:
    return [event.type.value for event in events(stack.store, job_id)]


def test_a_worker_killed_in_the_middle_of_an_answer_leaves_exactly_one_answer(own_stack: Stack) -> None:
    """Proved: without the earlier text in `_earlier_text` the second attempt begins anew."""
    worker = own_stack.start_worker("first", **SLOW)
    job_id = own_stack.submit(max_tokens=60)
    wait_for(lambda: sentences(own_stack, job_id, 1), "a first sentence")
    worker.kill()
    own_stack.start_worker("second")
    job = own_stack.wait_for_state(job_id, "done", "failed")
    assert job["status"] == "done"
    assert job["attempt"] == 2
    assert_ended_once(own_stack.store, job_id, "done")
    assert "".join(sentences(own_stack, job_id, 2)).rstrip() == job["reply"]
    second = next(event for event in events(own_stack.store, job_id) if event.attempt == 2 and event.text)
    assert (second.type, second.text) == ("sentence", "".join(sentences(own_stack, job_id, 1)))
    assert job["reply"].count("물으셨습니다") == 1


def test_a_worker_frozen_past_its_lease_writes_nothing_when_it_wakes(own_stack: Stack) -> None:
    """Proved: without the attempt in emit.lua's first line its text mixes into the second attempt's."""
    frozen = own_stack.start_worker("frozen", **SLOW)
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    frozen.send_signal(signal.SIGSTOP)
    own_stack.start_worker("awake", **SLOW)
    wait_for(lambda: "restarted" in types(own_stack, job_id), "the second attempt")
    frozen.send_signal(signal.SIGCONT)
    own_stack.wait_for_state(job_id, "done")
    stop(frozen)  # SIGTERM lets it finish what it believes to be running
    assert frozen.returncode == 0
    assert_ended_once(own_stack.store, job_id, "done")
    found = types(own_stack, job_id)
    attempts = [event.attempt for event in events(own_stack.store, job_id)]
    assert set(attempts[found.index("restarted") :]) == {2}


def test_a_hint_lost_with_an_idle_worker_is_sent_again(own_stack: Stack) -> None:
    """Redis may hand a message to a worker that never reads it; the job is recorded all the same."""
    idle = own_stack.start_worker("idle")
    idle.send_signal(signal.SIGSTOP)
    job_id = own_stack.submit(max_tokens=10)
    own_stack.start_worker("other")
    idle.kill()
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


def test_a_stopping_worker_finishes_its_answer_within_the_grace_time(own_stack: Stack) -> None:
    worker = own_stack.start_worker("box", **SLOW)
    job_id = own_stack.submit(max_tokens=40)
    own_stack.wait_for_text(job_id)
    worker.terminate()
    assert worker.wait(60) == 0
    assert_ended_once(own_stack.store, job_id, "done")
    job = own_stack.store.get(job_id)
    assert job is not None
    assert job.attempt == 1


def test_a_stopping_worker_without_time_gives_its_job_to_another(own_stack: Stack) -> None:
    worker = own_stack.start_worker("hurried", DURE_WORKER_GRACE_S="0", **SLOW)
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    worker.terminate()
    assert worker.wait(60) == 0
    assert own_stack.store.redis.hget(f"job:{job_id}", "charged") == "0"
    own_stack.start_worker("patient")
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


def test_jobs_submitted_while_no_worker_lives_are_answered_later(own_stack: Stack) -> None:
    job_ids = [own_stack.submit(f"{number}번째 질문", max_tokens=5) for number in range(5)]
    own_stack.start_worker()
    for job_id in job_ids:
        own_stack.wait_for_state(job_id, "done")
        assert_ended_once(own_stack.store, job_id, "done")


def test_a_worker_drained_under_load_loses_and_charges_nothing(own_stack: Stack) -> None:
    """Proved: with a release that charges, `charged` differs; with a kill instead, attempts do."""
    first = own_stack.start_worker("first", DURE_WORKER_GRACE_S="0.5", **SLOW)
    job_ids = [own_stack.submit(f"{number}번째 질문", max_tokens=30) for number in range(20)]
    own_stack.wait_for_text(job_ids[0])
    own_stack.start_worker("second")
    first.terminate()
    assert first.wait(60) == 0
    for job_id in job_ids:
        own_stack.wait_for_state(job_id, "done")
        assert_ended_once(own_stack.store, job_id, "done")
        assert own_stack.store.redis.hget(f"job:{job_id}", "charged") == "1"


def test_a_hung_generator_loses_its_job_to_another_worker(own_stack: Stack) -> None:
    """Without a supervisor, by its lease. Proved: with leases renewed without progress the job hangs for ever."""
    hung = own_stack.start_worker("hung", DURE_WORKER_SCRIPTED_FAULTS="true")
    job_id = own_stack.submit("<hang>", max_tokens=60)
    own_stack.wait_for_text(job_id)
    own_stack.start_worker("healthy")
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    hung.kill()
    job = own_stack.store.get(job_id)
    assert job is not None
    assert [lost.cause for lost in job.lost][:1] == ["silent"]


SKEWED = """
import time
true_time = time.time
time.time = lambda: true_time() + {skew_s}
"""


@pytest.mark.parametrize("skew_s", [100, -100])
def test_a_worker_whose_clock_is_wrong_by_100_seconds_works_as_any_other(own_stack: Stack, skew_s: int) -> None:
    """Proved: with leases counted from the worker's own time, a clock behind loses every job at once."""
    folder = own_stack.folder / "skew"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SKEWED.format(skew_s=skew_s))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    skewed = own_stack.start_worker("skewed", PYTHONPATH=path, **SLOW)
    job_ids = [own_stack.submit(f"{number}번째 질문", max_tokens=60) for number in range(4)]
    for job_id in job_ids:
        own_stack.wait_for_text(job_id)
    says = datetime.fromisoformat(re.findall(r'"time": "([^"]+)"', own_stack.log("skewed").read_text("utf-8"))[-1])
    assert abs(says.timestamp() - own_stack.store.now_s()) > 50
    own_stack.start_worker("right", **SLOW)
    for job_id in job_ids[:2]:
        own_stack.wait_for_state(job_id, "done")
        assert_ended_once(own_stack.store, job_id, "done")
        assert own_stack.store.redis.hget(f"job:{job_id}", "charged") == "1"
    late = own_stack.submit(max_tokens=200)
    own_stack.wait_for_text(late)
    skewed.kill()
    own_stack.wait_for_state(late, "done")
    assert_ended_once(own_stack.store, late, "done")
