"""An engine is measured in a process of its own: what comes back of it, however that process ends."""

import os
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from dure import catalog
from dure.settings import Settings
from dure_worker.choice import measure
from dure_worker.engines import GenerateRequest, Token
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


class Counted(ScriptedEngine):
    """Knows how many answers were wanted at once, at most."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots=num_slots, token_s=0.05)
        self.most = self._num_wanted = 0
        self._counting = threading.Lock()

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        with self._counting:
            self._num_wanted += 1
            self.most = max(self.most, self._num_wanted)
        yield from super().generate(request)
        with self._counting:
            self._num_wanted -= 1


@pytest.mark.parametrize("num_slots", [1, 3])
def test_as_many_answers_are_measured_together_as_there_are_slots(num_slots: int) -> None:
    """Proved: with one more it fails."""
    engine = Counted(num_slots)
    found = measure.speeds(engine, num_slots, 2048, seconds=1)
    assert engine.most == num_slots
    assert 0 < found.decode_tokens_per_s <= 20, "the pause bounds it"
    assert 0 < found.decode_all_tokens_per_s <= 20 * num_slots


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
