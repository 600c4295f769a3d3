"""An engine is measured in a process of its own: what comes back of it, however that process ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dure import catalog
from dure.settings import Settings
from dure_worker.choice import measure
from dure_worker.engines.scripted import ScriptedEngine
from dure_worker.settings import WorkerSettings
from model_desk import own_model
from support import DEADLINE_S

SCRIPTED = Settings.read({"DURE_MODEL": catalog.SCRIPTED})


def worker(**changes: object) -> WorkerSettings:
    return WorkerSettings.read({"DURE_WORKER_THREADS": "1"}, **{"engine": "scripted", **changes})


def test_figures_come_back_from_a_process_with_the_workers_own_settings() -> None:
    found = measure.in_a_process(SCRIPTED, worker(scripted_token_s=0.02, heartbeat_fd=77))
    assert found.failure == ""
    assert 0 < found.decode_tokens_per_s <= 50, "the pause that was set bounds it"
    assert found.decode_all_tokens_per_s > 0
    assert found.prefill_tokens_per_s > 0


@pytest.mark.parametrize("num_slots", [1, 4])
def test_all_slots_and_no_more_are_measured_together(num_slots: int) -> None:
    """Proved: with one answer more than slots, one waits, and the figure is no longer that of all."""
    engine = ScriptedEngine(num_slots=num_slots, token_s=0.02)
    found = measure.speeds(engine, num_slots, 2048, seconds=0.5)
    assert found.decode_all_tokens_per_s <= 50 * num_slots
    assert found.decode_tokens_per_s <= 50


def test_a_model_that_cannot_be_loaded_fails_with_the_engines_own_words(tmp_path: Path) -> None:
    settings = Settings.read({"DURE_HOME": str(tmp_path), "DURE_MODEL": "broken"})
    own_model(settings.models_dir, "broken")
    found = measure.in_a_process(settings, worker(engine="llama"))
    assert "cannot be loaded" in found.failure


def test_one_that_does_not_end_is_killed_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WITHIN_S", 0.1)
    assert "not done within 0.1 s" in measure.in_a_process(SCRIPTED, worker(scripted_token_s=10)).failure


def test_a_crash_is_named_by_its_signal() -> None:
    assert measure._last_words(-4, "noise") == "killed by SIGILL"
    assert measure._last_words(1, "Traceback\n\nValueError: no\n") == "ValueError: no"
    assert measure._last_words(3, "") == "exit status 3"


def test_it_ends_when_the_worker_that_started_it_is_gone() -> None:
    """Proved: without the watching thread it goes on, with ten seconds a token."""
    theirs, ours = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "dure_worker.choice.measure"],
        env=measure._environ(SCRIPTED, worker(scripted_token_s=10)),
        stdin=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.close(ours)
    try:
        assert process.wait(DEADLINE_S) == -9
    finally:
        process.kill()
