"""Workers that kill themselves, hang, or grow, under the supervisor of `dure worker`."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dure.job import JobRecord
from dure.job_store import JobStore
from model_desk import make_model
from support import DEADLINE_S, DURE, Stack, assert_ended_once, events, stop, wait_for

# Leases longer than the test: what comes back, comes back by the supervisor.
LONG_LEASE = {"DURE_WORKER_LEASE_S": "60"}
SLOW = {"DURE_WORKER_SCRIPTED_TOKEN_S": "0.05"}
FAULTS = {"DURE_WORKER_SCRIPTED_FAULTS": "true"}


def record(store: JobStore, job_id: str) -> JobRecord:
    job = store.get(job_id)
    assert job is not None
    return job


@pytest.mark.parametrize(
    ("question", "cause", "environ"),
    [
        ("<die>", "killed", {}),
        ("<hang>", "hung", {}),
        ("<grow>", "memory", {"DURE_WORKER_MEMORY_MIB": "400"}),
    ],
)
def test_a_poison_job_is_quarantined_with_its_cause_and_its_neighbours_are_answered(
    own_stack: Stack, question: str, cause: str, environ: dict[str, str]
) -> None:
    """Proved: fails without `lose` in `on_death`, without ALONE in claim.lua (neighbours are quarantined too)."""
    own_stack.start_supervised("box", **SLOW, **FAULTS, **LONG_LEASE, **environ)
    neighbours = [own_stack.submit(f"{number}번째 이웃", max_tokens=60) for number in range(3)]
    for job_id in neighbours:
        own_stack.wait_for_text(job_id)
    poison = own_stack.submit(question, max_tokens=60)
    own_stack.wait_for_state(poison, "failed")
    assert_ended_once(own_stack.store, poison, "failed")
    job = record(own_stack.store, poison)
    assert job.error is not None
    assert job.error.code == "max_attempts"
    assert [lost.cause for lost in job.lost] == [cause] * 3
    assert all(lost.rss_mib > 0 for lost in job.lost)
    assert own_stack.store.quarantined() == [poison]
    for job_id in neighbours:
        own_stack.wait_for_state(job_id, "done")
        assert_ended_once(own_stack.store, job_id, "done")


def test_a_killed_workers_job_does_not_wait_for_its_lease(own_stack: Stack) -> None:
    """Proved: with `_give_up_jobs` empty the job stays with the dead worker for a minute and the wait fails."""
    own_stack.start_supervised("box", **SLOW, DURE_WORKER_LEASE_S="60")
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    began = own_stack.store.now_s()
    os.kill(own_stack.wait_for_worker("box"), signal.SIGKILL)
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    restarted = next(event for event in events(own_stack.store, job_id) if event.type == "restarted")
    assert int(restarted.id.split("-")[0]) / 1000 < began + 60
    assert record(own_stack.store, job_id).lost[0].cause == "killed"


def test_a_frozen_worker_is_killed_and_started_again(own_stack: Stack) -> None:
    """A stopped process neither beats nor hears SIGTERM. Proved: fails without the silence check."""
    own_stack.start_supervised("box", **SLOW, **LONG_LEASE)
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    pid = own_stack.wait_for_worker("box")
    os.kill(pid, signal.SIGSTOP)
    own_stack.wait_for_worker("box", not_pid=pid)
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")
    assert record(own_stack.store, job_id).lost[0].cause == "hung"
    assert "no longer advanced" in own_stack.log("box").read_text("utf-8")


def test_an_idle_worker_is_not_taken_for_a_hung_one(own_stack: Stack) -> None:
    """Proved: fails when stalled_s counts without a running answer."""
    own_stack.start_supervised("box", DURE_WORKER_HUNG_AFTER_S="1")
    pid = own_stack.wait_for_worker("box")
    began = own_stack.store.now_s()
    wait_for(lambda: own_stack.store.now_s() > began + 3, "three idle seconds")
    job_id = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(job_id, "done")
    assert own_stack.wait_for_worker("box") == pid


def test_sighup_loads_the_model_anew_after_running_answers_ended(own_stack: Stack) -> None:
    """Proved: with a kill instead of SIGTERM in `reload` the job needs a second attempt."""
    supervisor = own_stack.start_supervised("box", **SLOW)
    job_id = own_stack.submit(max_tokens=40)
    own_stack.wait_for_text(job_id)
    pid = own_stack.wait_for_worker("box")
    supervisor.send_signal(signal.SIGHUP)
    own_stack.wait_for_worker("box", not_pid=pid)
    own_stack.wait_for_state(job_id, "done")
    assert record(own_stack.store, job_id).attempt == 1
    later = own_stack.submit(max_tokens=5)
    own_stack.wait_for_state(later, "done")
    assert supervisor.poll() is None


def test_sigterm_to_the_supervisor_drains_its_worker(own_stack: Stack) -> None:
    supervisor = own_stack.start_supervised("box", **SLOW)
    job_id = own_stack.submit(max_tokens=40)
    own_stack.wait_for_text(job_id)
    stop(supervisor)
    assert supervisor.returncode == 0
    assert_ended_once(own_stack.store, job_id, "done")
    assert record(own_stack.store, job_id).attempt == 1


def test_a_supervisor_gives_up_loudly_on_a_worker_that_cannot_start(own_stack: Stack) -> None:
    """Proved: with a pause after each death that forgets the earlier ones it never ends."""
    own_stack.store.redis.config_set("maxmemory-policy", "allkeys-lru")
    done = supervised_to_the_end(own_stack)
    assert done.returncode == 1
    assert "died 5 times" in done.stderr
    assert "maxmemory-policy" in done.stderr


def test_a_supervisor_does_not_start_again_what_says_it_would_fail_again(own_stack: Stack) -> None:
    done = supervised_to_the_end(own_stack, DURE_WORKER_CONTEXT="1")
    assert done.returncode == 1
    assert "starting it again" not in done.stdout + done.stderr
    assert "DURE_WORKER_CONTEXT = '1'" in done.stderr


def supervised_to_the_end(stack: Stack, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [DURE, "worker"],
        env=stack.environ | environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_two_deaths_while_redis_is_away_lose_nothing(own_stack: Stack) -> None:
    """The supervisor cannot report then; the lease does it."""
    own_stack.start_supervised("box", **SLOW)
    job_id = own_stack.submit(max_tokens=60)
    own_stack.wait_for_text(job_id)
    pid = own_stack.wait_for_worker("box")
    own_stack.valkey.stop()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "wait for their leases" in own_stack.log("box").read_text("utf-8"), "the failed report")
    own_stack.valkey.start()
    own_stack.wait_for_state(job_id, "done")
    assert_ended_once(own_stack.store, job_id, "done")


def test_a_worker_whose_memory_runs_short_ends_its_answers_and_starts_anew(own_stack: Stack) -> None:
    """Proved: without `on_over` the worker keeps its pid; with a crash's exit status the neighbour loses an attempt."""
    own_stack.start_supervised("box", **SLOW, **FAULTS, **LONG_LEASE, DURE_WORKER_MEMORY_MIB="400")
    before = own_stack.wait_for_worker("box")
    swollen = own_stack.submit("<swell>", max_tokens=20)
    own_stack.wait_for_state(swollen, "done")
    # It runs while the worker decides to stop: 15 s of text, of which its grace is 20.
    neighbour = own_stack.submit("이웃", max_tokens=300)
    own_stack.wait_for_worker("box", not_pid=before)
    own_stack.wait_for_state(neighbour, "done")
    for job_id in (swollen, neighbour):
        assert_ended_once(own_stack.store, job_id, "done")
        assert not record(own_stack.store, job_id).lost
    assert "memory ran short" in own_stack.log("box").read_text("utf-8")


def test_a_worker_that_cannot_fit_says_so_once_and_is_not_started_again(own_stack: Stack, tmp_path: Path) -> None:
    """Proved: with exit status 1 the supervisor tries five times."""
    model = make_model(tmp_path / "tiny.gguf")
    environ = own_stack.environ | {
        "DURE_HOME": str(tmp_path / "home"), "DURE_WORKER_ENGINE": "llama", "DURE_WORKER_MEMORY_MIB": "50",
    }  # fmt: skip
    subprocess.run([DURE, "model", "add", model, "--name", "mine"], env=environ, check=True, capture_output=True)
    command = [DURE, "worker", "--model", "mine"]
    done = subprocess.run(command, env=environ, capture_output=True, encoding="utf-8", timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert "starting it again" not in done.stdout
    assert "may have 50 MiB of 50 MiB (DURE_WORKER_MEMORY_MIB)" in done.stderr
    assert "Traceback" not in done.stderr
