"""Whose turn it is: for a slot, and for having a prompt read.

The most urgent first, then whoever came first. So that no one starves, nobody is passed by more than _MOST_PASSED later
ones, waiting and being read together: then the turn is as good as urgent, and only those that came before go before.
"""

from collections.abc import Iterable, Sequence

from dure.keys import PRIORITY_URGENT
from dure_worker.engines.ark.answer import Answer

_MOST_PASSED = 4


def first(answers: Iterable[Answer]) -> Answer:
    return min(answers, key=_rank)


def note(served: Answer, others: Sequence[Answer]) -> None:
    """Those that came before `served` and still wait were passed."""
    for other in others:
        other.num_passed += other.number < served.number


def _rank(answer: Answer) -> tuple[int, int]:
    is_overdue = answer.num_passed >= _MOST_PASSED
    return PRIORITY_URGENT if is_overdue else answer.request.priority, answer.number
