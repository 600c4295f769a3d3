"""An engine for the length of a block, as a worker would start it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from dure_worker.engines import Engine
from dure_workshop.evaluate.subject import Subject
from dure_workshop.room import require_memory


@contextmanager
def opened(subject: Subject, num_slots: int, context: int, num_threads: int) -> Iterator[Engine]:
    """Beside the Korean editor. Raises PlanTooLarge, ModelError, EngineError."""
    what = f"{subject.name} ({subject.title}) with the Korean editor"
    require_memory(subject.memory(num_slots, context, has_editor=True), what)
    engine = _made(subject, num_slots, context, num_threads)
    try:
        yield engine
    finally:
        engine.close()


def _made(subject: Subject, num_slots: int, context: int, num_threads: int) -> Engine:
    path, name = subject.path, subject.name
    if subject.engine == "ark":
        from dure_worker.engines.ark.engine import ArkEngine  # noqa: PLC0415 - not everybody has torch
        from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415

        recipe = RECIPES[subject.weights]
        return ArkEngine(path, name, num_slots=num_slots, context=context, num_threads=num_threads, recipe=recipe)
    if subject.engine == "transformers":
        from dure_worker.engines.hf.loading import Weights  # noqa: PLC0415
        from dure_worker.engines.transformers_engine import TransformersEngine  # noqa: PLC0415 - as ark

        weights = cast("Weights", subject.weights)
        return TransformersEngine(
            path, name, num_slots=num_slots, context=context, num_threads=num_threads, weights=weights
        )
    from dure_worker.engines.llama import LlamaEngine  # noqa: PLC0415 - loads the runtime

    return LlamaEngine(path, name, num_slots=num_slots, context=context, num_threads=num_threads, cache_mib=0)
