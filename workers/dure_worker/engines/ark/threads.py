"""How many threads the kernels compute with, and on whose behalf.

The process's first use of them decides the number for good: auto-round-lib 0.16 takes OMP_NUM_THREADS then, or the
cores it may run on. Whoever calls it later from a thread that OpenMP gives fewer gets a part of the result and no error
(seen), so every caller is brought to that number here.

Each thread that ever computed keeps a team of its own until it ends. Where all teams together have more threads than
the box has cores, GNU OpenMP lets each of them sleep at every barrier instead of waiting awake (GOMP_SPINCOUNT): a pass
over a 0.5B model took 41 ms instead of 27. So one thread computes for good, and what must be computed before it is
there is computed `apart`.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

_VARIABLE = "OMP_NUM_THREADS"
_Made = TypeVar("_Made")
_lock = threading.Lock()
_decided: list[int] = []


def decide(num_threads: int) -> None:
    """Before the first use. Later it only says what was decided, where that is another number."""
    with _lock:
        if not _decided:
            os.environ[_VARIABLE] = str(num_threads)
            _decided.append(num_threads)
        elif _decided[0] != num_threads:
            log.warning(
                "the kernels compute with %d threads, not %d: this process had begun with them",
                _decided[0],
                num_threads,
                extra={"action": "ark.threads"},
            )


def prepare() -> None:
    """The calling thread, before it uses the kernels."""
    if not _decided:
        decide(torch.get_num_threads())
    if torch.get_num_threads() != _decided[0]:
        torch.set_num_threads(_decided[0])


def apart(compute: Callable[[], _Made]) -> _Made:
    """What `compute` returns or raises, from a thread whose team ends with it."""
    with ThreadPoolExecutor(1, "ark-apart") as pool:
        return pool.submit(compute).result()
