"""Answers judged by the editor's detectors, on texts whose faults are known."""

import pytest

from dure_worker.korean.endings import Register
from dure_workshop.evaluate.answers import judged, loops, registers

GOOD = "두레는 이웃끼리 힘을 모으던 모임입니다. 모내기를 함께 했습니다."


def test_a_good_answer_has_no_fault() -> None:
    found = judged([(GOOD, Register.FORMAL)])
    assert (found.num_answers, found.num_sentences) == (1, 2)
    assert (found.errors_per_100_sentences, found.sentences_with_errors) == (0, 0)
    assert (found.register_kept, found.replies_complete) == (1, 1)
    assert (found.replies_with_loops, found.replies_with_foreign_letters) == (0, 0)


def test_errors_count_each_and_sentences_once() -> None:
    found = judged([("몇일 뒤에 뵈요. 내일은 갈께요. 오늘은 쉽니다.", None)])
    assert found.num_sentences == 3
    assert found.errors_per_100_sentences == 100
    assert found.sentences_with_errors == pytest.approx(2 / 3)


def test_the_register_is_that_which_was_asked_for() -> None:
    answers = [(GOOD, Register.PLAIN), ("나도 몰라. 같이 찾아보자.", Register.PLAIN), ("목록", Register.PLAIN)]
    assert judged(answers).register_kept == 0.5
    assert registers("비가 와요. 목록") == [Register.POLITE]


def test_no_register_was_asked_for_and_none_is_judged() -> None:
    assert judged([(GOOD, None)]).register_kept is None


@pytest.mark.parametrize("text", ["두레는 모임", "", "그래서 "])
def test_what_is_torn_is_not_complete(text: str) -> None:
    assert judged([(text, Register.FORMAL)]).replies_complete == 0


def test_an_empty_answer_is_judged_too() -> None:
    found = judged([("", Register.FORMAL)])
    assert (found.num_sentences, found.errors_per_100_sentences, found.register_kept) == (0, None, None)


def test_no_answers_have_no_shares() -> None:
    found = judged([])
    assert (found.num_answers, found.replies_complete, found.replies_with_loops) == (0, None, 0)


def test_circles_and_foreign_letters_are_counted_by_answer() -> None:
    circle = "모내기를 함께 했습니다. " * 8
    assert loops(circle)
    assert not loops(GOOD)
    found = judged([(circle, None), (GOOD, None), ("두레는 村의 모임입니다. 農사를 짓습니다.", None)])
    assert (found.replies_with_loops, found.replies_with_foreign_letters) == (1, 1)
