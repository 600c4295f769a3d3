"""A box's memory promise: how much a worker may hold here, whether a plan keeps to it, and what would.

Checked before (`require`), enforced while (the worker's pressure.py and its supervisor), measured after
(tests/acceptance/test_small_box.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dure import machine_memory, memory_plan
from dure.errors import PlanTooLarge
from dure.machine_memory import Memory
from dure.memory_plan import MIB, Load, Plan, Shape

# Beside the workers: Linux and its services on a small box without a desktop, and 142 MiB for gateway, Valkey and
# Flower of `dure up` (README, "What it costs").
RESERVE_BYTES = 512 * MIB
# A control group holds what was put into it, not the system: those 142 MiB, the supervisor, and some page cache.
GROUP_RESERVE_BYTES = 256 * MIB
# Below this hardly a question and its answer fit.
LEAST_CONTEXT = 512
_CONTEXT_STEP = 256  # llama.cpp rounds up to it
WITHOUT_KIWI = "DURE_WORKER_EDITS=light"


@dataclass(frozen=True)
class Budget:
    """Bytes. total: of the machine or of the control group that limits it; num_workers share what is left of it."""

    total: int
    reserve: int = RESERVE_BYTES
    source: str = "host"
    num_workers: int = 1

    @classmethod
    def of(cls, memory: Memory, num_workers: int = 1) -> "Budget":
        is_group = memory.source.startswith("cgroup")
        return cls(memory.total, GROUP_RESERVE_BYTES if is_group else RESERVE_BYTES, memory.source, num_workers)

    @classmethod
    def here(cls, num_workers: int = 1, root: Path = Path("/")) -> "Budget | None":
        """None where the machine does not tell its memory."""
        memory = machine_memory.usable_memory(root)
        return cls.of(memory, num_workers) if memory else None

    @property
    def worker(self) -> int:
        """What one worker may hold at its peak."""
        return max(0, self.total - self.reserve) // self.num_workers

    def plan(self, weights: int, shape: Shape, load: Load) -> Plan:
        return memory_plan.plan(weights, shape, load, self.reserve)

    def holds(self, plan: Plan) -> bool:
        return plan.rss + plan.margin <= self.worker


def require(budget: Budget, weights: int, shape: Shape, load: Load) -> Plan:
    """The plan of a worker that fits. Raises PlanTooLarge, which names what would."""
    plan = budget.plan(weights, shape, load)
    if budget.holds(plan):
        return plan
    shared = f", shared by {budget.num_workers} workers" if budget.num_workers > 1 else ""
    needed = (plan.rss + plan.margin) // MIB
    raise PlanTooLarge(
        f"a worker with {load.slots} slots of {load.context} tokens needs {needed} MiB, but may have "
        f"{budget.worker // MIB} MiB of {budget.total // MIB} MiB ({budget.source}{shared}): "
        + _remedy(budget, weights, shape, load)
    )


def _remedy(budget: Budget, weights: int, shape: Shape, load: Load) -> str:
    if smaller := fitted(budget, weights, shape, load):
        return (
            f"add --fit (DURE_WORKER_FIT=1), or choose --slots {smaller.slots} with DURE_WORKER_CONTEXT="
            f"{smaller.context} and DURE_WORKER_PROMPT_CACHE_MIB={smaller.prompt_cache_bytes // MIB}"
        )
    if load.has_editor and fitted(budget, weights, shape, replace(load, has_editor=False)):
        return f"do without the corrections that need Kiwi ({WITHOUT_KIWI}), and add --fit (DURE_WORKER_FIT=1)"
    return f"serve a smaller model: `dure model recommend --ram {budget.total // MIB}MiB`"


def fitted(budget: Budget, weights: int, shape: Shape, load: Load) -> Load | None:
    """The largest load up to the wanted one that fits; None if not even one short slot does."""
    return next((each for each in _smaller(load) if budget.holds(budget.plan(weights, shape, each))), None)


def _smaller(load: Load) -> Iterator[Load]:
    """In the order of what people miss least: slots (others wait), then the prompt cache, then the context."""
    for slots in range(load.slots, 0, -1):
        yield replace(load, slots=slots)
    one = replace(load, slots=1, prompt_cache_bytes=0)
    yield one
    for context in range(load.context - load.context % _CONTEXT_STEP, LEAST_CONTEXT - 1, -_CONTEXT_STEP):
        yield replace(one, context=min(context, load.context))
