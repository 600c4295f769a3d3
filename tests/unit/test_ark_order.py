"""Urgent answers go first, and none waits for ever."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from dure.keys import PRIORITY_NORMAL, PRIORITY_URGENT

pytest.importorskip("torch", reason="the extra `torch` is not installed")

from dure_worker.engines.ark import order


def waiting(number: int, priority: int) -> Any:
    return SimpleNamespace(number=number, num_passed=0, request=SimpleNamespace(priority=priority))


def served(answers: list[Any]) -> list[int]:
    found = []
    while answers:
        answer = order.first(answers)
        answers.remove(answer)
        order.note(answer, answers)
        found.append(answer.number)
    return found


def test_the_most_urgent_go_first_and_among_them_whoever_came_first() -> None:
    priorities = [PRIORITY_NORMAL, PRIORITY_URGENT, PRIORITY_NORMAL, PRIORITY_URGENT]
    assert served([waiting(number, priority) for number, priority in enumerate(priorities)]) == [1, 3, 0, 2]


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_passed_by_more_than_a_few_however_many_urgent_ones_come(seed: int) -> None:
    dice = random.Random(seed)
    line = [waiting(0, PRIORITY_NORMAL)]
    everyone = list(line)
    for number in range(1, 300):
        new = waiting(number, PRIORITY_NORMAL if dice.random() < 0.2 else PRIORITY_URGENT)
        line.append(new)
        everyone.append(new)
        if dice.random() < 0.8:
            answer = order.first(line)
            line.remove(answer)
            order.note(answer, line)
    served(line)
    assert max(answer.num_passed for answer in everyone) == order._MOST_PASSED
