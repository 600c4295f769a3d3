"""What speaks against the ark engine before anything is measured, and what the measured figures mean."""

import importlib.util
import math
from collections.abc import Callable, Mapping

from dure import engines, split_patterns
from dure.cpu import Cpu
from dure.errors import EngineMissing, SettingsError
from dure.gguf import Gguf
from dure_worker.choice.record import Choice, Measured
from dure_worker.settings import WorkerSettings

# By these the extra `torch` is known. Found, not imported: torch takes seconds and 200 MiB.
_MODULES_OF = {
    "ark": ("torch", "auto_round_kernel", "numpy", "tokenizers", "jinja2"),
    "transformers": ("torch", "transformers", "bitsandbytes", "gguf", "accelerate", "jinja2"),
}
# Without them the kernels compute in fp32. With them they may do so all the same: that is why flags only rule out.
_VNNI = {"avx512_vnni", "avx_vnni"}

# A usual exchange in Korean, in tokens: the persona and a question of some sentences; three or four sentences.
_NUM_READ, _NUM_WRITTEN = 150, 120
# llama takes less memory and runs everywhere: less than this is not worth a change.
_CLEARLY_FASTER = 1.05

Finder = Callable[[str], object]


def against_ark_here(cpu: Cpu, find: Finder = importlib.util.find_spec) -> str:
    """Why this machine does not run it, or not faster; '' if nothing speaks against it."""
    if not cpu.is_x86:
        return f"ark's kernels are for x86-64, and this is {cpu.machine}"
    if not cpu.flags & _VNNI:
        return "this CPU has neither AVX512-VNNI nor AVX-VNNI"
    missing = missing_for_ark(find)
    return f"the extra `torch` is not installed (missing: {', '.join(missing)})" if missing else ""


def against_ark_with(worker: WorkerSettings) -> str:
    """Why these settings rule it out; '' if they do not."""
    return "a LoRA adapter is added by llama alone" if worker.adapter else ""


def require_for_adapter(worker: WorkerSettings) -> None:
    """Raises SettingsError where an engine is named that adds no adapter."""
    if worker.adapter and worker.engine not in ("auto", "llama"):
        raise SettingsError(
            f"DURE_WORKER_ADAPTER: the engine {worker.engine} adds no adapter: choose DURE_WORKER_ENGINE=llama, or "
            "serve the merged model, which `dure workshop adapt` writes beside it"
        )


def against_ark(source: Gguf) -> str:
    """Why it does not run this model; '' if it does. Only where its packages are here."""
    if source.architecture not in engines.ARK:
        return f"ark does not run the architecture {source.architecture or '(none named)'}"
    if not split_patterns.is_known(source):
        return "ark does not know how this model's vocabulary splits text"
    from dure_worker.engines.ark.blocks import READABLE  # noqa: PLC0415 - numpy comes with the extra

    kinds = {tensor.type for tensor in source.tensors.values() if len(tensor.shape) > 1} - set(READABLE)
    return f"ark does not read weights of kind {', '.join(sorted(kind.name for kind in kinds))}" if kinds else ""


def missing_for_ark(find: Finder = importlib.util.find_spec) -> list[str]:
    return [name for name in _MODULES_OF["ark"] if find(name) is None]


def require_packages(engine: str, find: Finder = importlib.util.find_spec) -> None:
    """Raises EngineMissing."""
    if missing := [name for name in _MODULES_OF.get(engine, ()) if find(name) is None]:
        raise EngineMissing(
            f"DURE_WORKER_ENGINE={engine} needs more packages ({', '.join(missing)}): pip install 'dure[torch]', "
            "or choose DURE_WORKER_ENGINE=auto"
        )


def exchange_s(found: Measured, num_slots: int) -> float:
    """Seconds of a usual exchange under load; infinite where nothing could be measured.

    The mean of one exchange alone and of `num_slots` at once, which take turns on the same cores. With R tokens to
    read and W to write, at r read, d written alone and D written by all together, a second:
    ½ (R/r + W/d) + ½ · num_slots · (R/r + W/D)
    """
    speeds = (found.prefill_tokens_per_s, found.decode_tokens_per_s, found.decode_all_tokens_per_s)
    if found.failure or min(speeds) <= 0:
        return math.inf
    reading_s = _NUM_READ / speeds[0]
    alone_s = reading_s + _NUM_WRITTEN / speeds[1]
    together_s = num_slots * (reading_s + _NUM_WRITTEN / speeds[2])
    return (alone_s + together_s) / 2


def decided(measured: Mapping[str, Measured], num_slots: int) -> Choice:
    """measured: of llama and of ark."""
    llama_s, ark_s = (exchange_s(measured[name], num_slots) for name in ("llama", "ark"))
    engine = "ark" if ark_s * _CLEARLY_FASTER <= llama_s and ark_s < math.inf else "llama"
    return Choice(engine, _reason(measured, llama_s, ark_s), dict(measured))


def _reason(measured: Mapping[str, Measured], llama_s: float, ark_s: float) -> str:
    failures = [f"{name} failed ({found.failure})" for name, found in measured.items() if found.failure]
    if failures:
        return " and ".join(failures)
    percent = (_CLEARLY_FASTER - 1) * 100
    return (
        f"a usual exchange under load takes {llama_s:.1f} s with llama and {ark_s:.1f} s with ark, "
        f"which must be {percent:.0f} % faster to be taken"
    )
