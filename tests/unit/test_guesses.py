"""Whether guesses pay is decided by what was measured."""

import pytest

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_worker.engines.ark.guesses import Worth
from dure_worker.engines.ark.step_times import StepTimes


def learned(num_passes: int, num_right: int) -> Worth:
    worth = Worth()
    for number in range(num_passes):
        worth.learn(num_right if number % 2 else 0)
    return worth


@pytest.mark.parametrize(
    ("cost", "num_right", "pays"), [(1.25, 2, True), (1.25, 0, False), (2.5, 2, False), (2.5, 4, True), (None, 0, True)]
)
def test_guesses_pay_if_they_win_more_than_they_cost(cost: float | None, num_right: int, pays: bool) -> None:
    assert learned(20, num_right).pays(cost) is pays


def test_what_did_not_pay_is_tried_again_now_and_then() -> None:
    worth = learned(20, 0)
    assert 0 < sum(worth.pays(2.0) for _ in range(100)) < 20


def test_a_text_that_changes_is_noticed() -> None:
    worth = learned(200, 0)
    for _ in range(40):
        worth.learn(3)
    assert worth.pays(1.5)


def test_cost_is_the_time_of_a_longer_pass_in_shorter_ones() -> None:
    times = StepTimes()
    assert times.cost(1, 3) is None
    for _ in range(100):
        times.learn(1, 0.02)
        times.learn(4, 0.03)
    assert times.cost(1, 3) == pytest.approx(1.5)
    assert times.cost(1, 3, extra_s=0.01) == pytest.approx(2.0)
    times.learn(1, 5.0)
    assert times.cost(1, 3) == pytest.approx(1.5), "held up by something else"
