import unicodedata
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dure.edits import PARSING, Pass
from dure_worker.korean import editor as korean

PROPERTY = settings(deadline=None, max_examples=200, derandomize=True)

# What generated Korean is made of, with everything that ends a sentence, seems to, or can be torn.
PARTS = [
    "안녕하세요", "두레는 모임입니다", "한글", unicodedata.normalize("NFD", "각힣값"), "ᄒ", "ᅡ", "ᆫ", "ㄱ",
    "é", "e\u0301",
    ".", "!", "?", "…", "。", "”", "'", ")", "」", " ", "  ", "\t", "\n", "\n\n", "\r\n", "\u3000", "\u00a0",
    "1.", "12. ", "가. ", "하.", "3.14", "https://example.kr/두레?가=1.", "```", "``", "`", "*", "\ufffd",
    "😀", "👩‍👩‍👧", "a",
]  # fmt: skip
generated = st.one_of(st.lists(st.sampled_from(PARTS), max_size=16).map("".join), st.text(max_size=30))
cuts = st.lists(st.integers(0, 60), max_size=20)


def pieces_of(text: str, borders: list[int]) -> list[str]:
    places = [0, *sorted(min(border, len(text)) for border in borders), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


# Without those that parse: Kiwi has tests of its own.
QUICK = [name for name in Pass if name not in PARSING]


class KoreanEditor:
    """The texts of its sentences."""

    def __init__(self, passes: Sequence[str] = ()) -> None:
        self._editor = korean.KoreanEditor(passes)

    def feed(self, text: str) -> list[str]:
        return [sentence.text for sentence in self._editor.feed(text)]

    def finish(self, *, is_cut: bool) -> list[str]:
        return [sentence.text for sentence in self._editor.finish(is_cut=is_cut)]


def edit(text: str, *, is_cut: bool = False, passes: Sequence[str] = ()) -> str:
    return korean.edit(text, is_cut=is_cut, passes=passes)


def streamed(pieces: list[str], *, is_cut: bool = False, passes: Sequence[str] = ()) -> list[str]:
    editor = KoreanEditor(passes)
    sentences = [sentence for piece in pieces for sentence in editor.feed(piece)]
    return sentences + editor.finish(is_cut=is_cut)


@PROPERTY
@given(generated, cuts, st.booleans())
@example("안녕. 하", [1, 2, 3, 4], False)  # noqa: FBT003
def test_the_result_does_not_depend_on_how_the_text_came(text: str, borders: list[int], is_cut: bool) -> None:
    for passes in ((), QUICK):
        sentences = streamed(pieces_of(text, borders), is_cut=is_cut, passes=passes)
        assert sentences == streamed([text], is_cut=is_cut, passes=passes)
        assert "".join(sentences).rstrip() == edit(text, is_cut=is_cut, passes=passes)


@PROPERTY
@given(generated)
def test_letter_by_letter_gives_what_the_whole_gives(text: str) -> None:
    assert streamed(list(text)) == streamed([text])


@PROPERTY
@given(generated)
def test_an_uncut_text_stays_as_it_is_but_composed_and_without_broken_characters(text: str) -> None:
    wanted = unicodedata.normalize("NFC", text.replace("\ufffd", ""))
    assert edit(text).rstrip() == wanted.rstrip()


@PROPERTY
@given(generated, st.booleans())
def test_editing_twice_changes_nothing_more(text: str, is_cut: bool) -> None:
    once = edit(text, is_cut=is_cut)
    assert edit(once) == once


@PROPERTY
@given(generated)
def test_no_empty_sentence_is_sent(text: str) -> None:
    assert "" not in streamed(list(text))


@pytest.mark.parametrize("text", ["한글입니다. 값을 읽습니다.", "닭이 웁니다!\n흙을 밟습니다."])
def test_decomposed_hangul_is_composed_also_across_the_borders_of_pieces(text: str) -> None:
    torn = list(unicodedata.normalize("NFD", text))
    assert len(torn) > len(text)
    assert "".join(streamed(torn)) == text


def test_broken_characters_are_left_out_also_where_a_piece_ends_with_one() -> None:
    assert "".join(streamed(["두\ufffd레", "\ufffd", "입니다.\ufffd ", "\ufffd네."])) == "두레입니다. 네."


def test_a_sentence_is_held_until_the_next_one_begins() -> None:
    editor = KoreanEditor()
    assert editor.feed("안녕하세요") == []
    assert editor.feed(".") == []
    assert editor.feed(" ") == []
    assert editor.feed("저") == ["안녕하세요. "]
    assert editor.feed("는 두레입니다!”") == []
    assert editor.feed("\n") == []
    assert editor.feed("\n") == []
    assert editor.feed("무엇") == ["저는 두레입니다!”\n\n"]
    assert editor.finish(is_cut=False) == ["무엇"]


def test_one_piece_may_finish_several_sentences() -> None:
    assert KoreanEditor().feed("네, 맞습니다. 정말요? 그럼요! 좋") == ["네, 맞습니다. ", "정말요? ", "그럼요! "]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("1. 사과를 씻습니다. 2. 깎습니다.", ["1. 사과를 씻습니다. ", "2. 깎습니다."]),
        ("가. 씨를 뿌립니다.\n나. 물을 줍니다.", ["가. 씨를 뿌립니다.\n", "나. 물을 줍니다."]),
        ("순서입니다.\n10. 마지막", ["순서입니다.\n", "10. 마지막"]),
        ("원주율은 3.14입니다. 맞지요?", ["원주율은 3.14입니다. ", "맞지요?"]),
        ("https://example.kr/a.b?c=1 을 보세요. 끝", ["https://example.kr/a.b?c=1 을 보세요. ", "끝"]),
        ("“정말요?” 그가 물었습니다.", ["“정말요?” ", "그가 물었습니다."]),
        ("글쎄요... 모르겠어요.", ["글쎄요... ", "모르겠어요."]),
    ],
)
def test_sentences_end_where_a_reader_sees_an_end(text: str, sentences: list[str]) -> None:
    assert streamed(list(text)) == sentences


@pytest.mark.parametrize("word", ["네", "예", "응", "왜"])
def test_an_answer_of_one_syllable_is_a_sentence_and_no_list_number(word: str) -> None:
    assert streamed([f"{word}. 알겠습니다. 곧"]) == [f"{word}. ", "알겠습니다. ", "곧"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("두레는 모임입니다. 함께 일하", "두레는 모임입니다."),
        ("두레는 모임입니다.\n함께 일하", "두레는 모임입니다."),
        ("첫째입니다. 둘째입니다! 셋째는 “아", "첫째입니다. 둘째입니다!"),
        ("두레는 모임입니다. 함께 일합니다.", "두레는 모임입니다. 함께 일합니다."),
        ("두레는 모임입니다. “함께 일합니다.”", "두레는 모임입니다. “함께 일합니다.”"),
        ("두레는 모임입니다. **함께 일합니다.**", "두레는 모임입니다. **함께 일합니다.**"),
        ("두레는 모임입니다. 함께 일합니다.  \n", "두레는 모임입니다. 함께 일합니다."),
    ],
)
def test_a_torn_last_sentence_is_cut_back_and_a_whole_one_is_kept(text: str, wanted: str) -> None:
    assert edit(text, is_cut=True) == wanted


@pytest.mark.parametrize("text", ["두레는 옛날 농촌에서", "1. 사과를", "\ufffd두레는", "3.14는"])
def test_a_single_torn_sentence_is_better_than_nothing(text: str) -> None:
    assert edit(text, is_cut=True) == text.replace("\ufffd", "")


def test_what_was_not_cut_keeps_its_last_words() -> None:
    assert edit("두레는 모임입니다. 함께 일하") == "두레는 모임입니다. 함께 일하"


@pytest.mark.parametrize("number", ["2.", "2. ", "나.", "나. "])
def test_a_list_number_without_its_text_is_torn_too(number: str) -> None:
    assert edit(f"순서입니다.\n1. 씻습니다.\n{number}", is_cut=True) == "순서입니다.\n1. 씻습니다."


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("```python\nprint(1)\nprint(", "```python\nprint(1)\n```"),
        ("예입니다.\n```python\nprint(1)\nprint(", "예입니다.\n```python\nprint(1)\n```"),
        ("```\n가\n```\n설명입니다.\n```\n나\n다", "```\n가\n```\n설명입니다.\n```\n나\n```"),
        ("```python\nprint(1)\n``", "```python\nprint(1)\n```"),
        ("```python\nprint(1)\n```", "```python\nprint(1)\n```"),
    ],
)
def test_a_torn_code_block_keeps_its_whole_lines_and_gets_its_closing_fence(text: str, wanted: str) -> None:
    assert edit(text, is_cut=True) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("```python\ndef f():\n    x = 1\n    y = 2\n    z", "```python\ndef f():\n    x = 1\n    y = 2\n```"),
        ("```python\nprint(1)\n", "```python\nprint(1)\n```"),
        ("```python\nif a:\n    b()\nelse:\n    c", "```python\nif a:\n    b()\nelse:\n```"),
    ],
)
def test_a_torn_code_block_keeps_its_indented_and_last_whole_lines_too(text: str, wanted: str) -> None:
    assert edit(text, is_cut=True) == wanted


@pytest.mark.parametrize("torn", ["```", "```pyth", "```python\n", "```python\n    "])
@pytest.mark.parametrize("before", ["예입니다.\n", "예입니다. ", ""])
def test_a_code_block_torn_right_at_its_beginning_leaves_no_fence_open(before: str, torn: str) -> None:
    assert edit(before + torn, is_cut=True).count("```") % 2 == 0


@pytest.mark.parametrize("text", ["", " ", "\n", "\ufffd", " \ufffd \n"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_nothing_stays_nothing(text: str, is_cut: bool) -> None:
    assert edit(text, is_cut=is_cut).strip() == ""
