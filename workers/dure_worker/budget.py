"""What this worker may hold: its plan is checked before any weights are read."""

import logging
from dataclasses import replace
from pathlib import Path

from dure import budget, engines, gguf, memory_plan
from dure.budget import Budget
from dure.gguf import Gguf
from dure.memory_plan import MIB, Load, Plan
from dure_worker import adapter
from dure_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def within_budget(
    worker: WorkerSettings, weights: Path, here: Budget | None, draft: Path | None = None
) -> WorkerSettings:
    """The settings to serve with: as they are, or with `fit` smaller. Raises PlanTooLarge, ModelCorrupt.

    here: None where the machine does not tell its memory, as macOS; nothing is checked then. draft: weights of the
    model that guesses, if one does.
    """
    here = limited(here, worker.memory_mib)
    if here is None:
        return worker
    load, plan = planned(worker, gguf.read(weights), here, gguf.read(draft) if draft else None)
    log.info(
        "planned: %d MiB at its peak, of %d (%s)",
        plan.rss // MIB,
        here.worker // MIB,
        here.source,
        extra={"action": "worker.plan", "num_slots": load.slots, "context": load.context},
    )
    return replace_load(worker, load)


def planned(worker: WorkerSettings, source: Gguf, here: Budget, draft: Gguf | None = None) -> tuple[Load, Plan]:
    """What it is to do at once, with `fit` perhaps less than wanted, and what that takes. Raises PlanTooLarge."""
    # A mapped file's pages are the system's to drop: they are planned for all the same, since without them in memory
    # every token waits for the disk.
    weights = engines.weights_of(worker.engine, worker.weights)
    num_bytes, shape = memory_plan.of_gguf(source, worker.engine, weights)
    if worker.adapter:
        num_bytes += adapter.num_bytes(adapter.opened(Path(worker.adapter), source))
    wanted = Load(
        worker.slots,
        worker.context,
        worker.prompt_cache_mib * MIB,
        has_editor=worker.is_parsing,
        engine=worker.engine,
        kv_bits=worker.kv_bits,
        weights=weights,
    )
    if draft is not None and worker.engine == "ark":
        # Not made smaller with the slots: what guesses is small.
        small = memory_plan.plan(*memory_plan.of_gguf(draft, "ark"), replace(wanted, kv_bits=16))
        num_bytes += small.weights + small.kv_cache
    load = (budget.fitted(here, num_bytes, shape, wanted) if worker.fit else None) or wanted
    return load, budget.require(here, num_bytes, shape, load)


def replace_load(worker: WorkerSettings, load: Load) -> WorkerSettings:
    changed = {"slots": load.slots, "context": load.context, "prompt_cache_mib": load.prompt_cache_bytes // MIB}
    return worker.model_copy(update=changed)


def limit_mib(worker: WorkerSettings, here: Budget | None) -> int:
    """At which resident memory the supervisor kills this worker; 0: never."""
    if here is None or not worker.memory_mib:
        return worker.memory_mib
    return min(worker.memory_mib, max(1, here.worker // MIB))


def limited(here: Budget | None, memory_mib: int) -> Budget | None:
    """Nobody should be promised what the supervisor would kill for."""
    if here is None or not memory_mib or here.worker <= memory_mib * MIB:
        return here
    return replace(here, total=memory_mib * MIB, reserve=0, source="DURE_WORKER_MEMORY_MIB", num_workers=1)
