"""The memory plan against real workers with the models that can be had here: slots full, cache full, peak as planned.

Memory does not depend on how busy the machine is; nothing here is timed.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from dure import engines, gguf, memory_plan
from dure.memory_plan import MIB, Load
from support import Stack

pytestmark = pytest.mark.weights

TOLERANCE = 0.08
LONG = "두레는 농사일이 바쁠 때 이웃끼리 힘을 모으던 마을의 모임입니다. "
ROOM = 64  # tokens: the question's end and the answer
CACHE_MIB = 24  # soon full
REQUEST_S = 580


class Box:
    """A worker with all that the plan knows of it."""

    def __init__(self, folder: Path, weights: Path, load: Load) -> None:
        self.load = load
        self.stack = Stack(folder, DURE_GATEWAY_DEADLINE_S=str(REQUEST_S))
        self.weights = weights

    def start(self) -> None:
        self.stack.environ |= {
            "DURE_HOME": str(self.weights.parents[2]),
            "DURE_MODEL": self.weights.parent.name,
            "DURE_WORKER_ENGINE": self.load.engine,
            "DURE_WORKER_SLOTS": str(self.load.slots),
            "DURE_WORKER_CONTEXT": str(self.load.context),
            "DURE_WORKER_PROMPT_CACHE_MIB": str(CACHE_MIB),
        }
        self.worker = self.stack.start_worker("planned")
        few, more = self._ask("a", 1), self._ask("a", 5)
        self.num_copies = int((self.load.context - ROOM - few) / ((more - few) / 4))

    def fill(self, number: int) -> list[int]:
        """All slots at once, each with a conversation that nearly fills it. Returns how many tokens each had."""
        with ThreadPoolExecutor(self.load.slots) as pool:
            names = [f"{number}-{slot}" for slot in range(self.load.slots)]
            return list(pool.map(self._ask, names, [self.num_copies] * self.load.slots))

    def _ask(self, name: str, num_copies: int) -> int:
        """Returns how many tokens the prompt had."""
        body = {
            "message": f"{name}. {LONG * num_copies}",
            "model": self.weights.parent.name,
            "max_tokens": 24,
            "seed": 1,
        }
        answer = httpx.post(f"{self.stack.url}/api/chat", json=body, timeout=REQUEST_S)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens"])

    def peak(self) -> int:
        status = Path(f"/proc/{self.worker.pid}/status").read_text("utf-8")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


LOADS = [
    ("llama", "qwen2.5-coder-0.5b-instruct-q4_k_m", 4, 512),
    ("llama", "qwen2.5-coder-0.5b-instruct-q4_k_m", 1, 2048),
    ("llama", "qwen2.5-coder-0.5b-korean", 2, 1024),
    ("llama", "qwen2.5-coder-1.5b-korean", 1, 1024),
    ("llama", "qwen2.5-coder-1.5b-instruct-q4_k_m", 1, 512),
    ("llama", "gemma-3-270m-q4_k_m", 2, 1024),
    ("llama", "gemma-3-270m-korean", 4, 512),
    ("ark", "qwen2.5-coder-0.5b-korean", 4, 512),
    ("ark", "qwen2.5-coder-0.5b-korean", 1, 2048),
    ("ark", "qwen2.5-coder-0.5b-korean", 4, 2048),
]


@pytest.fixture(params=LOADS, ids=[f"{engine} {name}, {slots} x {context}" for engine, name, slots, context in LOADS])
def box(tmp_path: Path, fetched: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Box]:
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process's peak")
    engine, name, slots, context = request.param
    if engine == "ark":
        pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")
        from dure_worker.engines.ark.loading import packed
        from dure_worker.engines.ark.packing import RECIPES

        # Which takes a minute or two on a busy machine; the worker finds them packed.
        packed(fetched(name), RECIPES[engines.weights_of("ark", "auto")])
    box = Box(tmp_path, fetched(name), Load(slots, context, CACHE_MIB * MIB, engine=engine))
    with box.stack:
        box.start()
        yield box


def test_a_worker_with_full_slots_and_a_full_cache_holds_what_was_planned(box: Box) -> None:
    num_bytes, shape = memory_plan.of_gguf(gguf.read(box.weights), box.load.engine)
    planned = memory_plan.plan(num_bytes, shape, box.load).rss
    # The second conversations push the first ones into the prompt cache, which has no room for all of them.
    num_tokens = [*box.fill(1), *box.fill(2)]
    assert min(num_tokens) > box.load.context * 0.75
    peak = box.peak()
    assert planned == pytest.approx(peak, rel=TOLERANCE), f"planned {planned / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB"


_LOADING = """
import sys
from pathlib import Path
from dure import gguf
from dure_worker.engines.ark.loading import load
decoder = load(gguf.read(Path(sys.argv[1])))
# Not ru_maxrss, which begins with that of the process that started this one.
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) << 10)
"""


def test_loading_packed_weights_takes_little_more_than_they_are(fetched: Callable[[str], Path]) -> None:
    """A copy in floats would be 2 GB."""
    pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")
    from dure_worker.engines.ark.loading import packed
    from dure_worker.engines.ark.packing import AS_IN_THE_FILE

    weights = fetched("qwen2.5-coder-0.5b-korean")
    size = packed(weights, AS_IN_THE_FILE).stat().st_size
    command = [sys.executable, "-c", _LOADING, str(weights)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert size < peak < size + 300_000_000
