"""The engines that are compared, each with the weights that it serves."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.comparison.native_server import NativeServer
from dure_worker.engines import Engine

# What `--engine` and the tables call the two that the others are compared with.
NATIVE, UNTRIMMED = "llama-server", "llama-untrimmed"


@dataclass(frozen=True)
class Contestant:
    """weights: how the engine holds them (DURE_WORKER_WEIGHTS).

    is_trimmed False: it serves the file that the trimmed one was made from.
    """

    name: str
    engine: str
    quant: str
    is_trimmed: bool = True
    is_quick: bool = False
    weights: str = ""


_ALL = (
    Contestant(NATIVE, "llama-server", "Q4_K_M, untrimmed", is_trimmed=False, is_quick=True),
    Contestant(UNTRIMMED, "llama", "Q4_K_M, untrimmed", is_trimmed=False, is_quick=True),
    Contestant("llama", "llama", "Q4_K_M", is_quick=True),
    Contestant("ark-int5", "ark", "int5 by GPTQ", is_quick=True, weights="int5"),
    Contestant("ark-file", "ark", "as in the file", weights="file"),
    Contestant("ark-int4", "ark", "int4 and int5 by GPTQ", weights="int4"),
    Contestant("ark-int2", "ark", "int2 by GPTQ", weights="int2"),
    Contestant("ark-int8", "ark", "int8", weights="int8"),
    Contestant("transformers-bf16", "transformers", "bf16", weights="bf16"),
    Contestant("transformers-nf4", "transformers", "NF4", weights="nf4"),
)
CONTESTANTS = {each.name: each for each in _ALL}


def chosen(wanted: list[str], *, has_server: bool, is_quick: bool) -> list[Contestant]:
    """The baseline comes first and always. wanted: names or engines; none: all, or the quick ones.

    Raises ValueError, which lists the names.
    """
    baseline = CONTESTANTS[NATIVE if has_server else UNTRIMMED]
    others = [each for each in _ALL if each.name not in {NATIVE, UNTRIMMED}]
    for name in wanted:
        if name != baseline.name and not any(name in {each.name, each.engine} for each in others):
            raise ValueError(f"no engine is called {name}: choose {', '.join(each.name for each in others)}")
    if wanted:
        others = [each for each in others if {each.name, each.engine} & set(wanted)]
    elif is_quick:
        others = [each for each in others if each.is_quick]
    return [baseline, *others]


def start(one: Contestant, path: Path, server: Path | None, **sizes: Any) -> tuple[Engine, int]:
    """The engine, and the process whose memory and age are its own. sizes: num_slots, context, num_threads."""
    if one.engine == "llama-server":
        assert server is not None
        native = NativeServer(server, path, "bench", **sizes)
        return native, native.pid
    return _MAKERS[one.engine](one)(path, "bench", **sizes), os.getpid()


# Each imports what it needs when it is wanted: a library that another engine brings must not count as its memory.


def _llama(_: Contestant) -> Callable[..., Engine]:
    from dure_worker.engines.llama import LlamaEngine  # noqa: PLC0415

    return LlamaEngine


def _ark_engine(one: Contestant) -> Callable[..., Engine]:
    from dure_worker.engines.ark.engine import ArkEngine  # noqa: PLC0415
    from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415

    return partial(ArkEngine, recipe=RECIPES[one.weights])


def _transformers(one: Contestant) -> Callable[..., Engine]:
    from dure_worker.engines.transformers_engine import TransformersEngine  # noqa: PLC0415

    return partial(TransformersEngine, weights=one.weights)


_MAKERS = {"llama": _llama, "ark": _ark_engine, "transformers": _transformers}
