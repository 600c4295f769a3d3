"""Both engines are really measured with the real 0.5B, once; who wins depends on the machine."""

import logging
from pathlib import Path

import pytest

from dure.cpu import Cpu
from dure.settings import Settings
from dure_worker.choice import choosing, measure, record
from dure_worker.settings import WorkerSettings

pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")
pytestmark = pytest.mark.weights

# The kernels run without VNNI too, only slower: what rules other machines out is told to be here.
VNNI = Cpu("x86_64", "of this test", frozenset({"avx512_vnni"}))


def test_both_engines_are_measured_once_and_one_is_taken(
    small_model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(measure, "_WITHIN_S", 550.0)  # the machine may be ten times slower, and packs meanwhile
    settings = Settings.read({"DURE_HOME": str(small_model.parents[2]), "DURE_MODEL": small_model.parent.name})
    worker = WorkerSettings.read({}, slots=2, context=512)
    (small_model.parent / record.NAME).unlink(missing_ok=True)
    taken = choosing.resolved(settings, worker, None, cpu=VNNI)
    assert taken.engine in {"llama", "ark"}
    known = choosing.foreseen(settings, worker, None, VNNI)
    assert known.engine == taken.engine
    assert set(known.measured) == {"llama", "ark"}
    for name, found in known.measured.items():
        assert found.failure == "", name
        assert min(found.prefill_tokens_per_s, found.decode_tokens_per_s, found.decode_all_tokens_per_s) > 0, name
    caplog.clear()
    assert choosing.resolved(settings, worker, None, cpu=VNNI) == taken
    assert [line.action for line in caplog.records if hasattr(line, "action")] == ["worker.engine"]
