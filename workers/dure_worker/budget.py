"""What this worker may hold: its plan is checked before any weights are read."""

import logging
from dataclasses import replace
from pathlib import Path

from dure import budget, gguf, memory_plan
from dure.budget import Budget
from dure.memory_plan import MIB, Load
from dure_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def within_budget(worker: WorkerSettings, weights: Path, here: Budget | None) -> WorkerSettings:
    """The settings to serve with: as they are, or with `fit` smaller. Raises PlanTooLarge, ModelCorrupt.

    here: None where the machine does not tell its memory, as macOS; nothing is checked then.
    """
    # A mapped file's pages are the system's to drop: they are planned for all the same, since without them in memory
    # every token waits for the disk.
    num_bytes, shape = memory_plan.of_gguf(gguf.read(weights), worker.engine, worker.weights)
    cache_bytes = worker.prompt_cache_mib * MIB
    wanted = Load(worker.slots, worker.context, cache_bytes, engine=worker.engine, weights=worker.weights)
    here = _limited(here, worker.memory_mib)
    if here is None:
        return worker
    load = (budget.fitted(here, num_bytes, shape, wanted) if worker.fit else None) or wanted
    plan = budget.require(here, num_bytes, shape, load)
    log.info(
        "planned: %d MiB at its peak, of %d (%s)",
        plan.rss // MIB,
        here.worker // MIB,
        here.source,
        extra={"action": "worker.plan", "num_slots": load.slots, "context": load.context},
    )
    return replace_load(worker, load)


def replace_load(worker: WorkerSettings, load: Load) -> WorkerSettings:
    changed = {"slots": load.slots, "context": load.context, "prompt_cache_mib": load.prompt_cache_bytes // MIB}
    return worker.model_copy(update=changed)


def limit_mib(worker: WorkerSettings, here: Budget | None) -> int:
    """At which resident memory the supervisor kills this worker; 0: never."""
    if here is None or not worker.memory_mib:
        return worker.memory_mib
    return min(worker.memory_mib, max(1, here.worker // MIB))


def _limited(here: Budget | None, memory_mib: int) -> Budget | None:
    """Nobody should be promised what the supervisor would kill for."""
    if here is None or not memory_mib or here.worker <= memory_mib * MIB:
        return here
    return replace(here, total=memory_mib * MIB, reserve=0, source="DURE_WORKER_MEMORY_MIB", num_workers=1)
