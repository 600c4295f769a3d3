from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dure_worker.engines.stop import StopFinder

PROPERTY = settings(deadline=None, max_examples=200, derandomize=True)

# Few letters, so that stop strings are found, overlap and begin one another.
letters = st.text(alphabet="가나\n", max_size=14)
stops = st.lists(st.text(alphabet="가나\n", min_size=1, max_size=4), max_size=4)


def before_earliest(text: str, stop: list[str]) -> str:
    found = [text.find(word) for word in stop if word and word in text]
    return text[: min(found)] if found else text


def shown(pieces: list[str], stop: list[str]) -> str:
    finder = StopFinder(stop)
    return "".join([*map(finder.feed, pieces), finder.finish()])


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


@PROPERTY
@given(letters, stops, st.lists(st.integers(0, 14), max_size=14))
@example("가나다라", ["가나다라", "다"], [3])
def test_what_is_shown_ends_before_the_earliest_stop_string_however_the_text_was_cut(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    assert shown(pieces_of(text, cuts), stop) == before_earliest(text, stop)


@PROPERTY
@given(letters, st.text(alphabet="가나\n", min_size=1, max_size=4), st.lists(st.integers(0, 14), max_size=14))
@example("가가나", "가나", [1, 2])
def test_one_stop_string_is_found_however_the_text_was_cut(text: str, stop: str, cuts: list[int]) -> None:
    finder = StopFinder([stop])
    given_out = "".join([*map(finder.feed, pieces_of(text, cuts)), finder.finish()])
    assert given_out == before_earliest(text, [stop])
    assert finder.is_found is (stop in text)


@PROPERTY
@given(letters, stops)
def test_text_is_held_back_only_while_it_may_still_begin_a_stop_string(text: str, stop: list[str]) -> None:
    finder = StopFinder(stop)
    out = "".join(map(finder.feed, text))
    if not finder.is_found:
        held = text[len(out) :]
        assert not held or any(word.startswith(held) for word in stop)


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("두레입니다. 끝. 더", ["끝"], "두레입니다. "),
        ("두레입니다.", ["두레입니다."], ""),
        ("질문:질문자", ["질문자", "질문자님"], "질문:"),
        ("사용자님 사용자", ["사용자", "사용자님"], ""),
        ("가나가나다", ["가나다"], "가나"),
        ("끝끝끝", ["끝끝"], ""),
        ("두레\n\n사용자: 안녕", ["\n\n사용자:"], "두레"),
        ("안녕하세요", ["세요!"], "안녕하세요"),
        ("😀👩‍👩‍👧 끝", ["👩‍👩‍👧"], "😀"),
    ],
)
def test_stop_strings_are_found_letter_by_letter(text: str, stop: list[str], wanted: str) -> None:
    assert shown(list(text), stop) == wanted
    assert shown([text], stop) == wanted


@pytest.mark.parametrize(
    ("pieces", "stop", "wanted"),
    [
        (["가나다", "라"], ["가나다라", "다"], ""),
        (["가나다", "마"], ["가나다라", "다"], "가나"),
        (["가나다"], ["가나다라", "다"], "가나"),
    ],
)
def test_a_short_stop_string_inside_a_longer_one_does_not_decide_too_early(
    pieces: list[str], stop: list[str], wanted: str
) -> None:
    assert shown(pieces, stop) == wanted


@pytest.mark.parametrize("stop", [[], [""], ["", ""]])
def test_without_stop_strings_nothing_is_held_back(stop: list[str]) -> None:
    finder = StopFinder(stop)
    assert [finder.feed(piece) for piece in ("두", "레", "")] == ["두", "레", ""]
    assert finder.finish() == ""
    assert not finder.is_found


def test_nothing_comes_after_a_stop_string() -> None:
    finder = StopFinder(["끝"])
    assert finder.feed("두레끝") == "두레"
    assert finder.feed("더 있습니다") == ""
    assert finder.finish() == ""


def test_the_beginning_of_a_stop_string_that_stays_one_is_shown_at_the_end() -> None:
    finder = StopFinder(["사용자:"])
    assert finder.feed("두레 사용자") == "두레 "
    assert finder.finish() == "사용자"
    assert not finder.is_found
