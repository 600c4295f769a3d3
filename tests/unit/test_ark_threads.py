"""The kernels give whole results whatever a caller's thread was set to, and as many threads as were asked for."""

import subprocess
import sys

import pytest

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
