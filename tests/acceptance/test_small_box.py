"""The promise: a real 3 GB, enforced by the kernel, and in it everything of `dure up` under long mixed work."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from benchmarks.village import Village

from control_group import ControlGroup
from dure.settings import Settings

pytestmark = pytest.mark.weights

BOX_BYTES = 3 * 10**9
# Of the worker, Kiwi included: 1.8 GB.
MOST_MIB = 1.8e9 / 2**20
# Each takes some seconds of two cores. 200 were run before this was written; a few keep the promise from rotting.
NUM_JOBS = int(os.environ.get("DURE_TEST_BOX_JOBS", "10"))
REQUEST_S = 590  # the longest deadline that a gateway grants
LONG = "두레는 농사일이 바쁠 때 이웃끼리 힘을 모으던 마을의 모임입니다. "


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    made = ControlGroup(BOX_BYTES)
    yield made
    made.remove()


def ask(village: Village, number: int) -> httpx.Response:
    """Of ten prompts four are short, four fill a sixth of their slot, two nearly all of it."""
    repeats = (0, 10, 0, 10, 55, 0, 10, 0, 10, 55)[number % 10]
    body = {"message": f"{number}. {LONG * repeats}이 글을 요약해 주세요.", "max_tokens": 16 + number % 5 * 16}
    return httpx.post(f"{village.url}/api/chat", json=body, timeout=REQUEST_S)


def test_the_default_model_answers_long_mixed_jobs_within_three_gigabytes(
    group: ControlGroup, default_model: str
) -> None:
    """Proved: with a limit of 1.2 GB the worker is refused at its start; with the check gone, the kernel kills it."""
    # The engine of every CPU: the limit is one promise for all machines.
    changes = {"DURE_GATEWAY_DEADLINE_S": str(REQUEST_S), "DURE_WORKER_ENGINE": "llama"}
    with Village(default_model, Settings.read().models_dir, group.inside, **changes) as village:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: ask(village, number), range(NUM_JOBS)))
        peak = village.peak_mib()
    assert [answer.status_code for answer in answers] == [200] * NUM_JOBS
    assert all(answer.json()["reply"] for answer in answers)
    assert group.num_oom_kills == 0
    assert group.peak <= BOX_BYTES
    assert peak["worker"] <= MOST_MIB, peak
