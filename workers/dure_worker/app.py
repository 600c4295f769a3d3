"""Builds a worker from its settings: engine, store, runner, and the Celery application that wakes it."""

import logging
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from celery import Celery
from celery.signals import worker_shutting_down

from dure import artifact, broker, catalog, engines, gguf, keys
from dure.budget import Budget
from dure.edits import PARSING, Pass
from dure.heartbeat import Beat
from dure.job_store import JobStore, connect
from dure.redis_policy import inspect_server
from dure.settings import Settings
from dure.worker_registry import WorkerRegistry
from dure_worker import adapter
from dure_worker.budget import limit_mib, within_budget
from dure_worker.choice import rules
from dure_worker.choice.choosing import resolved
from dure_worker.engines import Engine
from dure_worker.heartbeat import Heartbeat
from dure_worker.korean import misspellings, parser
from dure_worker.lifecycle import Lifecycle
from dure_worker.outbox import Outbox
from dure_worker.pressure import Level, Pressure
from dure_worker.runner import Runner
from dure_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


def run_worker(settings: Settings, worker: WorkerSettings) -> bool:
    """Serve until SIGTERM, SIGINT or lack of memory. Returns after running answers ended or were given back.

    True: it wants to be started anew, because its memory ran short.
    """
    url = settings.require_redis_url()
    client = connect(url, Settings.redis_timeout_s)
    inspect_server(client)
    threading.excepthook = _end_process
    here = Budget.here(worker.num_sharing)
    limit = limit_mib(worker, here)
    loading = Beat(is_ready=False, memory_mib=limit, hung_after_s=worker.hung_after_s)
    # From here on: measuring engines, and packing weights for one, takes minutes that must not look like a hang.
    heartbeat = Heartbeat(worker.heartbeat_fd, lambda: loading)
    worker = with_budget(settings, resolved(settings, worker, here), here)
    engine = load_engine(settings, worker)
    log.info("model loaded: %s", engine.info.model, extra={"action": "worker.loaded", "worker": worker.name})
    store = JobStore(client)
    lifecycle = Lifecycle(worker.name, engine.info, WorkerRegistry(client), worker.grace_s)
    outbox = Outbox(store, worker.lease_s)
    pressure = Pressure(lifecycle.rss_mib, limit, _stop_in_order)
    passes = _passes(settings, worker)
    runner = Runner(store, engine, outbox, lifecycle, worker.lease_s, lambda: pressure.is_tight, passes)
    app = make_app(url, runner)
    heartbeat.follow(
        lambda: replace(loading, is_ready=True, stalled_s=outbox.stalled_s(), job_ids=lifecycle.running_ids)
    )

    def on_shutdown(**_: Any) -> None:
        lifecycle.begin_stop()

    worker_shutting_down.connect(on_shutdown)
    pressure.start()
    try:
        app.worker_main(_arguments(settings, worker, engine.info.model))
    finally:
        outbox.stop()
        lifecycle.close()
        engine.close()
    return pressure.level is Level.OVER


def _passes(settings: Settings, worker: WorkerSettings) -> list[str]:
    """Of the Korean editor. Those that parse have Kiwi loaded; a worker for trials does not pay for it, and what it
    recites is one loop.
    """
    if _is_scripted(settings, worker):
        return [name for name in worker.passes if name not in {*PARSING, Pass.REPETITION}]
    if worker.is_parsing:
        parser.load()
    if Pass.MISSPELLINGS in worker.passes:
        misspellings.entries()  # a damaged list is said now
    return worker.passes


def with_budget(settings: Settings, worker: WorkerSettings, here: Budget | None) -> WorkerSettings:
    """The settings to serve with. Raises PlanTooLarge, ModelMissing, ModelUnknown, ModelCorrupt."""
    if _is_scripted(settings, worker):
        return worker
    weights = artifact.require(settings.model, settings.models_dir)
    return within_budget(worker, weights, here, _draft(settings, worker))


def load_engine(settings: Settings, worker: WorkerSettings) -> Engine:
    """The engine must be `resolved`. Raises ModelMissing, ModelUnknown, EngineMissing, EngineError."""
    if _is_scripted(settings, worker):
        from dure_worker.engines.scripted import ScriptedEngine  # noqa: PLC0415

        return ScriptedEngine(
            catalog.SCRIPTED,
            worker.slots,
            worker.context,
            worker.scripted_token_s,
            has_faults=worker.scripted_faults,
            memory_mib=worker.memory_mib,
        )
    weights = artifact.require(settings.model, settings.models_dir)
    if worker.engine == "ark":
        return _ark(weights, settings, worker)
    if worker.engine == "transformers":
        return _transformers(weights, settings, worker)
    # Loading the runtime costs 100 MB and a second; who serves `scripted` does not pay for it.
    from dure_worker.engines.llama import LlamaEngine  # noqa: PLC0415

    return LlamaEngine(
        weights,
        settings.model,
        num_slots=worker.slots,
        context=worker.context,
        num_threads=worker.num_threads,
        cache_mib=worker.prompt_cache_mib,
        is_mapped=worker.load == "mmap",
        kv_bits=worker.kv_bits,
        adapter=_adapter(weights, worker),
    )


def _adapter(weights: Path, worker: WorkerSettings) -> Path | None:
    if not worker.adapter:
        return None
    adapter.opened(Path(worker.adapter), gguf.read(weights))
    return Path(worker.adapter)


def _ark(weights: Path, settings: Settings, worker: WorkerSettings) -> Engine:
    rules.require_packages("ark")
    from dure_worker.engines.ark.engine import ArkEngine  # noqa: PLC0415 - not everybody has torch
    from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415

    return ArkEngine(
        weights,
        settings.model,
        num_slots=worker.slots,
        context=worker.context,
        num_threads=worker.num_threads,
        recipe=RECIPES[engines.weights_of("ark", worker.weights)],
        kv_bits=worker.kv_bits,
        kv_folder=settings.home / "kv" / settings.model,
        kv_disk_mib=worker.kv_disk_mib,
        draft=_draft(settings, worker),
    )


def _draft(settings: Settings, worker: WorkerSettings) -> Path | None:
    return artifact.require(worker.draft_model, settings.models_dir) if worker.draft_model else None


def _transformers(weights: Path, settings: Settings, worker: WorkerSettings) -> Engine:
    rules.require_packages("transformers")
    from dure_worker.engines.hf.loading import Weights  # noqa: PLC0415
    from dure_worker.engines.transformers_engine import TransformersEngine  # noqa: PLC0415 - as ark

    return TransformersEngine(
        weights,
        settings.model,
        num_slots=worker.slots,
        context=worker.context,
        num_threads=worker.num_threads,
        weights=cast("Weights", engines.weights_of("transformers", worker.weights)),
    )


def _is_scripted(settings: Settings, worker: WorkerSettings) -> bool:
    return catalog.SCRIPTED in {worker.engine, settings.model}


def make_app(url: str, runner: Runner) -> Celery:
    app = broker.make_celery(url, is_worker=True)

    @app.task(name=broker.TASK_NAME)  # type: ignore[untyped-decorator]
    def chat(job_id: str) -> None:
        runner.run(job_id)

    return app


def _stop_in_order() -> None:
    os.kill(os.getpid(), signal.SIGTERM)  # as anybody else would stop it: running answers may end


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """A worker whose outbox or announcer has died must not live on as if it served."""
    name = failure.thread.name if failure.thread else "?"
    log.critical("thread %s died", name, exc_info=failure.exc_value, extra={"action": "worker.broken"})
    os._exit(70)  # EX_SOFTWARE (sysexits.h)


def _arguments(settings: Settings, worker: WorkerSettings, model: str) -> list[str]:
    return [
        "worker",
        "--pool=threads",
        f"--concurrency={worker.slots}",
        f"--hostname={worker.name}@dure",
        f"--queues={keys.worker_queue(worker.name)},{keys.model_queue(model)}",
        f"--loglevel={settings.log_level}",
        # Idle chatter between workers would cost a cheap network more than the work.
        "--without-gossip",
        "--without-mingle",
        "--task-events",
        "--heartbeat-interval=10",
    ]
