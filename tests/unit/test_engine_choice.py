"""`engine = auto`: what decides, what is remembered, and what is believed of it."""

import os
import select
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dure import artifact, gguf
from dure.budget import Budget
from dure.cpu import Cpu
from dure.errors import SettingsError
from dure.gguf import TensorType
from dure.heartbeat import Beat
from dure.memory_plan import MIB
from dure.settings import Settings
from dure_worker.choice import choosing, record, rules
from dure_worker.choice.record import Choice, Measured
from dure_worker.settings import WorkerSettings
from model_desk import own_model
from support import DEADLINE_S

VNNI = Cpu("x86_64", "Fast", frozenset({"avx2", "avx512_vnni"}))
SLOW = Measured(prefill_tokens_per_s=50, decode_tokens_per_s=10, decode_all_tokens_per_s=20)
FAST = Measured(prefill_tokens_per_s=100, decode_tokens_per_s=20, decode_all_tokens_per_s=40)
CRASHED = Measured(failure="killed by SIGILL")


class Bench:
    """Measures by heart; remembers what it was asked for."""

    def __init__(self, **figures: Measured) -> None:
        self.figures = {"llama": SLOW, "ark": FAST} | figures
        self.asked: list[WorkerSettings] = []

    def __call__(self, settings: Settings, worker: WorkerSettings) -> Measured:
        self.asked.append(worker)
        return self.figures[worker.engine]

    @property
    def engines(self) -> list[str]:
        return [worker.engine for worker in self.asked]


@pytest.fixture(autouse=True)
def _all_packages_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are on the machine that runs the tests is not what is tested."""
    monkeypatch.setattr(rules, "missing_for_ark", lambda *_: [])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a model of one layer."""
    found = Settings.read({"DURE_HOME": str(tmp_path), "DURE_MODEL": "mine"})
    own_model(found.models_dir, "mine")
    return found


WORKER = WorkerSettings.read({"DURE_WORKER_THREADS": "2"})


def engine_of(settings: Settings, bench: Bench, worker: WorkerSettings = WORKER, **changes: Any) -> str:
    return choosing.resolved(settings, worker, None, **({"cpu": VNNI, "measure": bench} | changes)).engine


def kept(settings: Settings) -> Path:
    return settings.models_dir / "mine" / record.NAME


# rules


@pytest.mark.parametrize(
    ("cpu", "missing", "words"),
    [
        (Cpu("aarch64", "", frozenset()), "", "aarch64"),
        (Cpu("x86_64", "Old", frozenset({"avx2", "avx512f"})), "", "neither AVX512-VNNI nor AVX-VNNI"),
        (Cpu("x86_64"), "", "neither"),
        (VNNI, "auto_round_kernel", "extra `torch` is not installed (missing: auto_round_kernel)"),
        (VNNI, "", ""),
        (Cpu("AMD64", "", frozenset({"avx_vnni"})), "", ""),
    ],
)
def test_the_machine_rules_ark_out_or_lets_it_be_measured(
    cpu: Cpu, missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "missing_for_ark", lambda *_: [missing] if missing else [])
    said = rules.against_ark_here(cpu)
    assert words in said
    assert bool(said) == bool(words)


def test_where_the_machine_rules_it_out_neither_weights_nor_torch_are_touched(tmp_path: Path) -> None:
    """In a process of its own, since other tests have imported torch."""
    code = (
        "import sys; from dure.cpu import Cpu; from dure.settings import Settings;"
        "from dure_worker.settings import WorkerSettings; from dure_worker.choice.choosing import resolved;"
        "found = resolved(Settings.read(), WorkerSettings.read(), None, cpu=Cpu('aarch64'));"
        "print(found.engine, 'torch' in sys.modules)"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
    environ |= {"DURE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["llama", "False"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.architecture", "exaone", "architecture exaone"),
        ("tokenizer.ggml.model", "t5", "vocabulary"),
        ("tokenizer.ggml.pre", "of another family", "vocabulary"),
    ],
)
def test_a_model_that_ark_does_not_run_is_not_measured(settings: Settings, key: str, value: str, words: str) -> None:
    source = gguf.read(settings.models_dir / "mine" / artifact.WEIGHTS)
    other = replace(source, values=source.values | {key: replace(source.values[key], value=value)})
    assert rules.against_ark(source) == ""
    assert words in rules.against_ark(other)


def test_nor_is_one_whose_weights_ark_cannot_read(settings: Settings) -> None:
    source = gguf.read(settings.models_dir / "mine" / artifact.WEIGHTS)
    tensors = source.tensors | {gguf.EMBEDDING: replace(source.tensors[gguf.EMBEDDING], type=TensorType.Q2_K)}
    assert "Q2_K" in rules.against_ark(replace(source, tensors=tensors))


def test_an_engine_that_is_named_is_taken_as_it_is(settings: Settings) -> None:
    bench = Bench()
    for name in ("llama", "ark"):
        assert engine_of(settings, bench, WORKER.model_copy(update={"engine": name}), cpu=Cpu("aarch64")) == name
    assert bench.asked == []


# what the figures mean


def test_with_an_adapter_it_is_llama_without_measuring(settings: Settings) -> None:
    bench = Bench()
    worker = WORKER.model_copy(update={"adapter": "adapter.gguf"})
    assert engine_of(settings, bench, worker) == "llama"
    assert bench.asked == []
    assert choosing.foreseen(settings, worker, None, VNNI) == Choice("llama", "a LoRA adapter is added by llama alone")
    for engine in ("ark", "transformers"):
        with pytest.raises(SettingsError, match=rf"the engine {engine} adds no adapter: choose .* the merged model"):
            engine_of(settings, bench, worker.model_copy(update={"engine": engine}))


def test_a_usual_exchange_takes_what_the_formula_says() -> None:
    """½ (150/100 + 120/20) + ½ · 4 · (150/100 + 120/40)"""
    assert rules.exchange_s(FAST, 4) == pytest.approx(3.75 + 9)


def test_ark_is_taken_only_where_it_is_clearly_faster() -> None:
    def times(factor: float) -> Measured:
        return Measured(50 * factor, 10 * factor, 20 * factor)

    assert rules.decided({"llama": SLOW, "ark": times(1.06)}, 4).engine == "ark"
    assert rules.decided({"llama": SLOW, "ark": times(1.04)}, 4).engine == "llama"
    assert rules.decided({"llama": SLOW, "ark": times(0.5)}, 4).engine == "llama"


@pytest.mark.parametrize("silent", [{"decode_tokens_per_s": 0.0}, {"prefill_tokens_per_s": 0.0}])
def test_a_candidate_that_fails_or_says_nothing_loses(silent: dict[str, float]) -> None:
    choice = rules.decided({"llama": SLOW, "ark": CRASHED}, 4)
    assert (choice.engine, choice.reason) == ("llama", "ark failed (killed by SIGILL)")
    assert rules.decided({"llama": CRASHED, "ark": SLOW}, 4).engine == "ark"
    assert rules.decided({"llama": CRASHED, "ark": CRASHED}, 4).engine == "llama"
    assert rules.decided({"llama": SLOW, "ark": replace(FAST, **silent)}, 4).engine == "llama"


# what is remembered


def test_it_is_measured_once_and_remembered_with_its_reason(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench = Bench()
    assert [engine_of(settings, bench) for _ in range(3)] == ["ark"] * 3
    assert bench.engines == ["llama", "ark"]
    lines = [line for line in caplog.records if getattr(line, "action", "") == "worker.engine"]
    assert len(lines) == 3
    assert len({line.getMessage() for line in lines}) == 1
    assert "with llama and" in lines[0].reason
    assert lines[-1].figures["ark"]["decode_tokens_per_s"] == FAST.decode_tokens_per_s


def test_a_crash_is_remembered_but_two_are_not(settings: Settings) -> None:
    bench = Bench(ark=CRASHED)
    assert [engine_of(settings, bench) for _ in range(2)] == ["llama"] * 2
    assert bench.engines == ["llama", "ark"]
    kept(settings).unlink()
    hopeless = Bench(llama=CRASHED, ark=CRASHED)
    assert [engine_of(settings, hopeless) for _ in range(2)] == ["llama"] * 2
    assert len(hopeless.asked) == 4


@pytest.mark.parametrize("change", ["cpu", "flags", "weights", "threads", "slots", "context", "load", "version"])
def test_what_was_measured_otherwise_is_measured_again(
    settings: Settings, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_of(settings, Bench())
    bench, worker, cpu = Bench(llama=FAST, ark=SLOW), WORKER, VNNI
    if change == "cpu":
        cpu = replace(VNNI, name="Another")
    elif change == "flags":
        cpu = replace(VNNI, flags=VNNI.flags | {"amx_int8"})
    elif change == "weights":
        os.utime(settings.models_dir / "mine" / artifact.WEIGHTS, (1, 1))
    elif change == "version":
        monkeypatch.setattr(record.metadata, "version", lambda _: "another")
    else:
        values: dict[str, Any] = {"threads": 1, "slots": 3, "context": 1024, "load": "mmap"}
        worker = WORKER.model_copy(update={change: values[change]})
    assert engine_of(settings, bench, worker, cpu=cpu) == "llama"
    assert bench.engines == ["llama", "ark"]


def test_workers_with_other_settings_do_not_forget_each_others_figures(settings: Settings) -> None:
    few = WORKER.model_copy(update={"slots": 1})
    bench = Bench()
    for worker in (WORKER, few, WORKER, few):
        engine_of(settings, bench, worker)
    assert len(bench.asked) == 4


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\xfe", b"{}", b"[1]", b'[{"key": {}}]', b'[{"key": {}, "choice": {"engine": 7}}]']
)
def test_a_damaged_record_is_as_none_and_is_mended(settings: Settings, damage: bytes) -> None:
    kept(settings).write_bytes(damage)
    bench = Bench()
    assert [engine_of(settings, bench) for _ in range(2)] == ["ark"] * 2
    assert bench.engines == ["llama", "ark"]


def test_where_nothing_can_be_written_it_is_measured_each_time_and_said(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    kept(settings).mkdir()  # a file cannot take its place; rights would not stop root
    (kept(settings) / "full").touch()
    bench = Bench()
    assert [engine_of(settings, bench) for _ in range(2)] == ["ark"] * 2
    assert len(bench.asked) == 4
    assert "the next start measures again" in caplog.text
    assert not list(kept(settings).parent.glob(f".{record.NAME}.*"))


def test_workers_that_start_together_measure_once(settings: Settings) -> None:
    is_measuring, may_go_on = threading.Event(), threading.Event()
    bench, found = Bench(), list[str]()

    def slowly(settings: Settings, worker: WorkerSettings) -> Measured:
        is_measuring.set()
        assert may_go_on.wait(60)
        return bench(settings, worker)

    def start() -> None:
        found.append(choosing.resolved(settings, WORKER, None, cpu=VNNI, measure=slowly).engine)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert is_measuring.wait(60)
    may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert found == ["ark"] * 3
    assert len(bench.asked) == 2


# memory


def fits(settings: Settings, engine: str, worker: WorkerSettings = WORKER) -> int:
    """The least MiB of a machine in which that engine fits."""
    source = gguf.read(settings.models_dir / "mine" / artifact.WEIGHTS)
    named = worker.model_copy(update={"engine": engine})
    plan = choosing.budget.planned(named, source, Budget(1 << 40))[1]
    return (plan.rss + plan.margin) // MIB + 1


def test_a_candidate_that_does_not_fit_is_not_measured_and_the_reason_says_so(settings: Settings) -> None:
    bench = Bench()
    assert fits(settings, "llama") < fits(settings, "ark")
    here = Budget(fits(settings, "llama") * MIB, reserve=0)
    choice = choosing.choose(settings, WORKER, here, VNNI, bench)
    assert choice.engine == "llama"
    assert "ark was not measured, a worker with 4 slots of 2048 tokens needs" in choice.reason
    too_small = choosing.choose(settings, WORKER, Budget(MIB, reserve=0), VNNI, bench)
    assert too_small.engine == "llama"
    assert "llama was not measured" in too_small.reason
    assert bench.asked == []


def test_each_candidate_is_measured_with_the_slots_that_fit(settings: Settings) -> None:
    bench = Bench()
    many = WORKER.model_copy(update={"slots": 64, "context": 8192, "fit": True, "memory_mib": 0})
    here = Budget(fits(settings, "ark", many.model_copy(update={"slots": 40})) * MIB, reserve=0)
    choosing.choose(settings, many, here, VNNI, bench)
    slots = {worker.engine: worker.slots for worker in bench.asked}
    assert slots["ark"] == 40
    assert slots["llama"] > slots["ark"]


# what is known without measuring


def test_what_is_foreseen_is_what_was_measured_and_nothing_is_measured_for_it(settings: Settings) -> None:
    before = choosing.foreseen(settings, WORKER, None, VNNI)
    assert (before.engine, before.measured) == ("auto", {})
    assert "first start" in before.reason
    bench = Bench()
    chosen = choosing.choose(settings, WORKER, None, VNNI, bench)
    assert choosing.foreseen(settings, WORKER, None, VNNI) == chosen
    assert choosing.foreseen(settings, WORKER, None, Cpu("aarch64")).engine == "llama"
    named = WORKER.model_copy(update={"engine": "ark"})
    assert choosing.foreseen(settings, named, None, VNNI) == Choice("ark", "named by DURE_WORKER_ENGINE")
    away = settings.model_copy(update={"model": "qwen2.5-coder-0.5b-korean"})
    assert choosing.foreseen(away, WORKER, None, VNNI) == Choice("auto", "the model is not here, or not whole")
    assert bench.engines == ["llama", "ark"]


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


@pytest.mark.parametrize(("engine", "words"), [("ark", "(torch): pip install 'dure[torch]'"), ("auto", "dure model")])
def test_without_the_extra_ark_is_a_setting_that_cannot_be_and_auto_goes_on(
    tmp_path: Path, engine: str, words: str
) -> None:
    """EX_CONFIG is what a supervisor does not try again. auto goes on to what is missing next, the model.

    Proved: as an EngineError it ends with status 1.
    """
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TORCH, "utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
    environ |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "DURE_HOME": str(tmp_path)}
    environ |= {"DURE_REDIS_URL": "redis://127.0.0.1:1/0", "DURE_WORKER_ENGINE": engine}
    command = [sys.executable, "-P", "-m", "dure_worker"]
    done = subprocess.run(command, env=environ, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == os.EX_CONFIG
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


MEASURING = """
import sys
from dure_worker import app
from dure_worker.__main__ import main

def measuring(*_):
    sys.stdin.read()
    sys.exit()

app.resolved = measuring
main()
"""


def test_a_worker_beats_while_its_engines_are_measured(tmp_path: Path) -> None:
    """Proved: with the heartbeat begun after it, none comes, and after 15 minutes the supervisor would kill it."""
    listening, theirs = os.pipe()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
    environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "DURE_HOME": str(tmp_path)}
    environ |= {"DURE_REDIS_URL": "redis://127.0.0.1:1/0", "DURE_WORKER_HEARTBEAT_FD": str(theirs)}
    command = [sys.executable, "-c", MEASURING]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, pass_fds=(theirs,)) as process:
        os.close(theirs)
        is_heard = bool(select.select([listening], [], [], DEADLINE_S)[0])
        beat = Beat.last_of(os.read(listening, 1 << 16)) if is_heard else None
        process.communicate()
    os.close(listening)
    assert process.returncode == 0
    assert beat is not None
    assert not beat.is_ready
