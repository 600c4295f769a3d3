"""From `auto` to an engine: what speaks against ark, else what was measured, now or at an earlier start."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dure import artifact, catalog, engines, gguf, model_names
from dure.budget import Budget
from dure.cpu import Cpu
from dure.errors import ModelError, PlanTooLarge, SettingsError
from dure.gguf import Gguf
from dure.settings import Settings
from dure_worker import budget
from dure_worker.choice import record, rules
from dure_worker.choice.measure import in_a_process
from dure_worker.choice.record import Choice, Measured
from dure_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_CANDIDATES = ("llama", "ark")

Measure = Callable[[Settings, WorkerSettings], Measured]


@dataclass(frozen=True)
class _Open:
    """What only figures can decide. candidates: the settings that each engine would serve with."""

    folder: Path
    key: dict[str, Any]
    candidates: dict[str, WorkerSettings]


def resolved(
    settings: Settings,
    worker: WorkerSettings,
    here: Budget | None,
    cpu: Cpu | None = None,
    measure: Measure = in_a_process,
) -> WorkerSettings:
    """The settings with an engine instead of `auto`. The first time on a machine it measures, for up to minutes.

    Raises EngineMissing, ModelMissing, ModelUnknown, ModelCorrupt.
    """
    rules.require_packages(worker.engine)  # before a gigabyte is read
    engines.weights_of(worker.engine, worker.weights)
    rules.require_for_adapter(worker)
    if worker.engine != "auto" or settings.model == catalog.SCRIPTED:
        return worker
    choice = choose(settings, worker, here, cpu or Cpu.here(), measure)
    figures = {name: asdict(found) for name, found in choice.measured.items()}
    extra = {"action": "worker.engine", "engine": choice.engine, "reason": choice.reason, "figures": figures}
    log.info("engine: %s, because %s", choice.engine, choice.reason, extra=extra)
    return worker.model_copy(update={"engine": choice.engine})


def choose(settings: Settings, worker: WorkerSettings, here: Budget | None, cpu: Cpu, measure: Measure) -> Choice:
    if reason := rules.against_ark_with(worker):
        return Choice("llama", reason)
    if reason := rules.against_ark_here(cpu):
        return Choice("llama", reason)
    weights = artifact.require(settings.model, settings.models_dir)
    found = _ruled(gguf.read(weights), worker, here, cpu)
    if isinstance(found, Choice):
        return found
    return record.find(found.folder, found.key) or _measured(found, settings, worker.slots, measure)


def foreseen(settings: Settings, worker: WorkerSettings, here: Budget | None, cpu: Cpu) -> Choice:
    """What `choose` would say, without measuring or reading weights through.

    Raises SettingsError where the engine that is named cannot serve.
    """
    rules.require_for_adapter(worker)
    if worker.engine != "auto":
        _require_able(settings, worker)
        return Choice(worker.engine, "named by DURE_WORKER_ENGINE")
    if reason := rules.against_ark_with(worker):
        return Choice("llama", reason)
    if reason := rules.against_ark_here(cpu):
        return Choice("llama", reason)
    try:
        found = _ruled(_header(settings), worker, here, cpu)
    except ModelError:
        return Choice("auto", "the model is not here, or not whole")
    if isinstance(found, Choice):
        return found
    return record.find(found.folder, found.key) or Choice("auto", "measured at a worker's first start")


def _require_able(settings: Settings, worker: WorkerSettings) -> None:
    rules.require_packages(worker.engine)
    if worker.engine != "ark":
        return
    with contextlib.suppress(ModelError):
        if reason := rules.against_ark(_header(settings)):
            raise SettingsError(f"DURE_WORKER_ENGINE=ark cannot serve {settings.model} ({reason}): choose auto")


def _header(settings: Settings) -> Gguf:
    return model_names.described(model_names.weights_of(settings.model, settings.models_dir))


def _ruled(source: Gguf, worker: WorkerSettings, here: Budget | None, cpu: Cpu) -> Choice | _Open:
    if reason := rules.against_ark(source):
        return Choice("llama", reason)
    candidates, too_large = _fitting(source, worker, here)
    if too_large:
        # Where neither fits, the budget says of llama what would.
        engine = next(iter(candidates), "llama")
        return Choice(engine, "; ".join(f"{name} was not measured, {why}" for name, why in too_large.items()))
    return _Open(source.path.parent, record.key_of(source.path, cpu, candidates), candidates)


def _fitting(
    source: Gguf, worker: WorkerSettings, here: Budget | None
) -> tuple[dict[str, WorkerSettings], dict[str, str]]:
    """The candidates that fit into memory with the settings of each, and why the others do not."""
    candidates, too_large = {}, {}
    limited = budget.limited(here, worker.memory_mib)
    for name in _CANDIDATES:
        each = worker.model_copy(update={"engine": name})
        try:
            candidates[name] = (
                each if limited is None else budget.replace_load(each, budget.planned(each, source, limited)[0])
            )
        except PlanTooLarge as error:
            too_large[name] = str(error).partition(": ")[0]
    return candidates, too_large


def _measured(found: _Open, settings: Settings, num_slots: int, measure: Measure) -> Choice:
    """One candidate after the other. Workers of one machine that start together measure once."""
    with _alone(found.folder):
        if known := record.find(found.folder, found.key):
            return known
        measured = {name: measure(settings, candidate) for name, candidate in found.candidates.items()}
        choice = rules.decided(measured, num_slots)
        # Where both failed, something passing was wrong; the next start may have better luck.
        if not all(each.failure for each in measured.values()):
            record.remember(found.folder, found.key, choice)
        return choice


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".engine.lock")
    with contextlib.ExitStack() as stack:
        # In a folder that cannot be written, each measures for itself.
        with contextlib.suppress(OSError):
            try:
                stack.enter_context(lock.acquire(blocking=False))
            except Timeout:
                log.info("another worker measures the engines: waiting for it", extra={"action": "engine.wait"})
                stack.enter_context(lock.acquire())
        yield
