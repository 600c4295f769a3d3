from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.events import Event, EventType
from dure_gateway.routes.openai import Said

PROPERTY = settings(deadline=None, max_examples=200, derandomize=True)

letters = st.text("가나 .", max_size=12)
cuts = st.lists(st.integers(0, 12), max_size=6)


def start(attempt: int) -> Event:
    kind = EventType.START if attempt == 1 else EventType.RESTARTED
    return Event("1-0", kind, attempt, worker="일꾼")


def sentence(text: str, attempt: int = 1) -> Event:
    return Event("1-0", EventType.SENTENCE, attempt, text=text)


def sentences(text: str, borders: list[int], attempt: int) -> list[Event]:
    places = [0, *sorted(min(border, len(text)) for border in borders), len(text)]
    return [sentence(text[begin:end], attempt) for begin, end in pairwise(places)]


def sent(events: list[Event]) -> list[str]:
    said = Said()
    return [news for event in events if (news := said.take(event))]


def test_sentences_are_sent_as_they_come() -> None:
    assert sent([start(1), sentence("안녕하세요. "), sentence("두레입니다.")]) == ["안녕하세요. ", "두레입니다."]


def test_drafts_and_the_end_add_nothing() -> None:
    draft = Event("1-0", EventType.TOKEN, 1, text="안녕하")
    final = Event("1-0", EventType.FINAL, 1, state="done")
    assert sent([start(1), draft, sentence("안녕하세요."), draft, final, final]) == ["안녕하세요."]


def test_a_second_attempt_that_repeats_the_first_adds_only_what_is_new() -> None:
    events = [
        start(1),
        sentence("첫째. "),
        sentence("둘째. "),
        start(2),
        sentence("첫째. 둘", 2),
        sentence("째. 셋째.", 2),
    ]
    assert sent(events) == ["첫째. ", "둘째. ", "셋째."]


def test_a_second_attempt_that_is_shorter_adds_nothing() -> None:
    assert sent([start(1), sentence("첫째. "), sentence("둘째."), start(2), sentence("첫째. ", 2)]) == [
        "첫째. ",
        "둘째.",
    ]


def test_a_second_attempt_that_says_something_else_adds_nothing_to_a_text_it_does_not_continue() -> None:
    assert sent([start(1), sentence("첫째. "), start(2), sentence("다른 말. ", 2), sentence("첫째. ", 2)]) == ["첫째. "]


def test_a_third_attempt_is_compared_with_all_that_was_sent() -> None:
    events = [
        start(1),
        sentence("첫째. "),
        start(2),
        sentence("첫째. 둘째. ", 2),
        start(3),
        sentence("첫째. 둘째. 셋째.", 3),
    ]
    assert sent(events) == ["첫째. ", "둘째. ", "셋째."]


def test_an_attempt_that_said_nothing_leaves_no_trace() -> None:
    assert sent([start(1), start(2), sentence("첫째.", 2)]) == ["첫째."]


@PROPERTY
@given(letters, cuts, st.integers(0, 6), cuts)
def test_an_attempt_that_begins_again_and_says_the_same_gives_its_text_once(
    text: str, first_cuts: list[int], num_before_death: int, second_cuts: list[int]
) -> None:
    first = sentences(text, first_cuts, 1)[:num_before_death]
    assert "".join(sent([start(1), *first, start(2), *sentences(text, second_cuts, 2)])) == text


@PROPERTY
@given(st.lists(letters, min_size=1, max_size=3), cuts)
def test_what_was_sent_is_never_taken_back_and_is_always_some_attempts_beginning(
    texts: list[str], borders: list[int]
) -> None:
    events = [e for n, text in enumerate(texts, 1) for e in [start(n), *sentences(text, borders, n)]]
    out = "".join(sent(events))
    assert out.startswith(texts[0])
    assert any(text.startswith(out) for text in texts)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_white_space_between_sentences_is_kept(text: str) -> None:
    assert "".join(sent([start(1), sentence(f"첫째.{text}"), sentence("둘째.")])) == f"첫째.{text}둘째."
