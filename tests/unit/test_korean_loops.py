"""Answers that go round in circles end where they begin to."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure_worker.korean.editor import KoreanEditor, edit

ONLY = ["repetition"]


def streamed(pieces: list[str]) -> tuple[str, bool]:
    editor = KoreanEditor(ONLY)
    sentences = [sentence for piece in pieces for sentence in editor.feed(piece)]
    sentences += editor.finish(is_cut=False)
    return "".join(sentence.text for sentence in sentences).rstrip(), editor.is_looping


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("밭을 갑니다. 씨를 뿌립니다. " * 5, "밭을 갑니다. 씨를 뿌립니다. 밭을 갑니다. 씨를 뿌립니다."),
        ("시작합니다. " + "물을 충분히 줍니다. " * 9, "시작합니다. 물을 충분히 줍니다. 물을 충분히 줍니다."),
        (
            "".join(f"{number}. 사과를 깎습니다.\n" for number in range(1, 9)),
            "1. 사과를 깎습니다.\n2. 사과를 깎습니다.",
        ),
        ("네. 네. 네. 네. 네.", "네. 네. 네."),
        (
            "첫째입니다. 그것은 아주 좋은 일이 " * 6,
            "첫째입니다. 그것은 아주 좋은 일이 첫째입니다. 그것은 아주 좋은 일이 첫째입니다.",
        ),
        # Without an end mark; a torn sentence behind others goes as one that was cut.
        ("두레입니다. " + "서로 돕고 함께 " * 20, "두레입니다."),
        ("서로 돕고 함께 " * 20, "서로 돕고 함께 서로 돕고 함께"),
        ("정말 " * 12, "정말 정말"),
    ],
)
def test_a_loop_ends_after_two_rounds(text: str, wanted: str) -> None:
    assert streamed([text]) == (wanted, True)
    assert streamed(list(text)) == (wanted, True)


@pytest.mark.parametrize(
    "text",
    [
        "정말 정말 정말 좋아요. 하하 하하.",
        "네. 네. 알겠습니다.",
        "산은 높고 물은 깊다. 산은 높고 물은 깊다.",
        "산토끼 토끼야. 어디를 가느냐. 산토끼 토끼야. 어디를 가느냐. 깡충깡충 뛰면서.",
        "| 예 | 예 | 예 | 예 | 예 |\n| 예 | 예 | 예 | 예 | 예 |\n",
        "```\na = 1\na = 1\na = 1\na = 1\na = 1 a = 1 a = 1 a = 1\n```",
        "1 2 1 2 1 2 1 2 1 2",
        "---\n---\n---\n---",
        "ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ",
    ],
)
def test_what_repeats_for_a_reason_stays(text: str) -> None:
    assert streamed([text]) == (text.rstrip(), False)
    assert streamed(list(text)) == (text.rstrip(), False)


def test_without_the_pass_nothing_is_taken_away() -> None:
    text = "물을 충분히 줍니다. " * 9
    assert edit(text, passes=[]) == text.rstrip()


WORDS = ["가", "나 ", "다. ", "가 나 ", "라.\n", "```", "| ", "한 번 더 ", "1. "]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join), st.lists(st.integers(0, 120), max_size=12))
def test_where_a_loop_is_found_does_not_depend_on_how_the_text_came(text: str, borders: list[int]) -> None:
    places = [0, *sorted(min(border, len(text)) for border in borders), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert streamed(pieces) == streamed([text]) == streamed(list(text))
