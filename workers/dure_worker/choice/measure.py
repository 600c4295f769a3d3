"""How fast one engine is here with the settings of a worker, measured in a process of its own.

`python -m dure_worker.choice.measure` does that for the engine and the model that its environment names, and ends with
one JSON object. A process gives its memory back whole, and may crash.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

from dure.errors import DureError
from dure.job import Sampling
from dure.settings import Settings
from dure_worker.choice.record import Measured
from dure_worker.engines import Engine
from dure_worker.engines.timing import TOKENS_OF_LONG, question, reading, timed, together
from dure_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

# Loading and packing included: fitting the weights of a 1.5B takes minutes on two slow cores.
_WITHIN_S = 1200.0
# Of measuring, for each of the candidates: as much for reading as for writing alone and for writing in all slots.
_MEASURED_S = 2.5
# As it is served: always the likeliest token would flatter an engine that guesses what comes next.
_AS_SERVED = Sampling(seed=1)
_FEWEST_TOKENS, _MOST_TOKENS = 8, 64
_MOST_REPEATS = 15


def in_a_process(settings: Settings, worker: WorkerSettings) -> Measured:
    """Of worker.engine. Whatever goes wrong is in `failure`."""
    log.info("measuring %s%s", worker.engine, _packing(settings, worker), extra={"action": "engine.measure"})
    # It reads until this end closes, which it does when this process dies, however it does.
    theirs, ours = os.pipe()
    try:
        return _measured(_environ(settings, worker), theirs)
    finally:
        os.close(theirs)
        os.close(ours)


def _measured(environ: dict[str, str], stdin: int) -> Measured:
    command = [sys.executable, "-P", "-m", "dure_worker.choice.measure"]
    with subprocess.Popen(
        command,
        env=environ,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # to end with it what it has started in turn
    ) as process:
        try:
            said, complained = process.communicate(timeout=_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Measured(failure=f"not done within {_WITHIN_S:g} s")
    if process.returncode:
        return Measured(failure=_last_words(process.returncode, complained))
    return Measured(**json.loads(said.splitlines()[-1]))


def _packing(settings: Settings, worker: WorkerSettings) -> str:
    folder = settings.models_dir / settings.model
    if worker.engine != "ark" or any(folder.glob("ark-*.safetensors")):
        return ""
    return "; first its weights are packed for this machine, once, which takes a minute or more"


def _environ(settings: Settings, worker: WorkerSettings) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DURE_")}
    own = {f"DURE_WORKER_{name.upper()}": str(value) for name, value in worker.model_dump().items()}
    own["DURE_WORKER_HEARTBEAT_FD"] = "-1"
    return clean | own | {"DURE_HOME": str(settings.home), "DURE_MODEL": settings.model}


def _last_words(code: int, complained: str) -> str:
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"killed by {known.get(-code, str(-code))}"
    lines = complained.strip().splitlines()
    return lines[-1] if lines else f"exit status {code}"


def speeds(engine: Engine, num_slots: int, context: int, seconds: float = _MEASURED_S) -> Measured:
    """By about so many seconds of measuring. Raises EngineError."""
    # What is touched for the first time is slow; this is not counted, and tells how much the time is enough for.
    share_s = seconds / 3
    first = timed(engine, question(0, _FEWEST_TOKENS, _AS_SERVED))
    num_tokens = _within(first.tokens_per_s * share_s, _FEWEST_TOKENS, _MOST_TOKENS)
    num_repeats = _within(
        reading(engine, 1) * share_s / TOKENS_OF_LONG, 1, min(_MOST_REPEATS, context // 2 // TOKENS_OF_LONG)
    )
    # Answers beside each other write more together than one alone, though not as many times more.
    num_each = _within(2 * num_tokens / num_slots, _FEWEST_TOKENS, _MOST_TOKENS)
    return Measured(
        prefill_tokens_per_s=reading(engine, num_repeats),
        decode_tokens_per_s=timed(engine, question(0, num_tokens, _AS_SERVED)).tokens_per_s,
        decode_all_tokens_per_s=together(engine, num_slots, num_each, _AS_SERVED),
    )


def _within(value: float, least: int, most: int) -> int:
    return max(least, min(most, math.floor(value)))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    if os.getpgrp() == os.getpid():  # started as above; what packs weights for it ends too
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    from dure_worker.app import load_engine  # noqa: PLC0415 - which measures through this module

    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings, worker = Settings.read(), WorkerSettings.read()
    began = time.monotonic()
    try:
        engine = load_engine(settings, worker)
        load_s = time.monotonic() - began
        found = replace(speeds(engine, worker.slots, worker.context), load_s=load_s)
    except DureError as error:
        sys.exit(str(error))
    engine.close()
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
