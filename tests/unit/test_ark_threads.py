"""The kernels give whole results whatever a caller's thread was set to, and as many threads as were asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import tiny_chat

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

CHILD = """
import sys, threading
import numpy as np, torch
from dure_worker.engines.ark import threads
from dure_worker.engines.ark.blocks import Codes
from dure_worker.engines.ark.linear import Linear

decided, later = map(int, sys.argv[1:])
dice = np.random.default_rng(1)
codes = Codes(dice.integers(-8, 8, (512, 256)).astype(np.int8), np.full((512, 8), 0.125, np.float32), None, 4)
x = torch.from_numpy(dice.normal(size=(3, 256)).astype(np.float32))
wanted = x @ torch.from_numpy(codes.numbers()).T
threads.decide(decided)
failures = []

def check():
    torch.set_num_threads(later)
    found = Linear.packed(codes)(x)
    if torch.get_num_threads() != decided or float((found - wanted).abs().max() / wanted.std()) > 0.1:
        failures.append(torch.get_num_threads())

check()
for _ in range(2):
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
sys.exit(str(failures) if failures else 0)
"""


@pytest.mark.parametrize(("decided", "later"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_results_are_whole_whatever_a_thread_was_set_to(decided: int, later: int) -> None:
    """Proved: without `prepare` a half of them is missing where a thread has fewer."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(decided), str(later)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


TEAMS = """
import os, sys, threading
from pathlib import Path
import torch
from dure_worker.engines.ark.engine import ArkEngine
from dure_worker.engines.base import GenerateRequest
from dure.job import Message

def num_threads():
    return len(os.listdir("/proc/self/task"))

before = num_threads()
engine = ArkEngine(Path(sys.argv[1]), "tiny", num_slots=2, context=256, num_threads=2)
for number in range(2):
    list(engine.generate(GenerateRequest(str(number), [Message("user", "안녕하세요?")], max_tokens=4)))
print(num_threads() - before)
engine.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how many threads there are")
def test_only_the_scheduler_has_a_team(tmp_path: Path) -> None:
    """Proved: where the thread that loads keeps its own, there are three, and each waits asleep."""
    weights = tiny_chat.write(tmp_path)
    done = subprocess.run([sys.executable, "-c", TEAMS, str(weights)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) == 2, "the scheduler's thread, and one that computes with it"
