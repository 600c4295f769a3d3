"""The passes that need no parser, each with what it must and must not touch."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.errors import SettingsError
from dure_worker.korean import masks, misspellings
from dure_worker.korean.editor import KoreanEditor, edit, edited
from dure_worker.korean.sentence import Change, Draft

PROPERTY = settings(deadline=None, max_examples=200, derandomize=True)
QUICK = ("unicode", "misspellings", "punctuation")

PROTECTED = [
    "`몇일 = 되요`", "```\n몇일 되요\n```", "https://되요.example.kr/몇일?a=1&b=2", "www.example.kr/a_b",
    "kim@example.co.kr",
    "/home/몇일/되요.txt", "./run.sh", "C:\\Users\\kim", "main.py", "print(x)", "snake_case", "--force",
    "$a^2 + b^2$", "a^2 + b^2 = c^2",
    "| 몇일 | 되요 |", "**", "[링크](https://example.kr)", "<b>", "3.14", "40%", "1,234.5", "12km", "5 kg",
    "2024-01-02", "10:30",
]  # fmt: skip


@pytest.mark.parametrize("text", PROTECTED)
def test_what_is_protected_is_masked_whole(text: str) -> None:
    assert masks.spans(text)[0][0] == 0
    assert masks.spans(text)[-1][1] == len(text)


@PROPERTY
@given(st.lists(st.sampled_from([*PROTECTED, "몇일", "되요", " ", "그렇치만", ".", "\n"]), max_size=10).map("".join))
def test_what_is_protected_comes_back_byte_for_byte(text: str) -> None:
    draft = Draft(text)
    kept = [text[start:end] for start, end in masks.spans(text)]
    draft.apply("misspellings", misspellings.changes(draft))
    places = iter(range(len(draft.text) + 1))
    for each in kept:
        assert any(draft.text.startswith(each, place) for place in places), (each, draft.text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("안녕ᄒᆫ하세요.", "안녕하세요."),
        ("도움ㄱ이 됩니다.", "도움이 됩니다."),
        ("정말요！ 좋습니다．", "정말요! 좋습니다."),
        ("ＡＢＣ입니다.", "ABC입니다."),
        ("안\u200b녕\ufeff하세요.", "안녕하세요."),
        ("ㅋㅋㅋ 재밌네요ㅎㅎ ㅠㅠ", "ㅋㅋㅋ 재밌네요ㅎㅎ ㅠㅠ"),
        ("ㅇㅇ 그래. ㄱㄱ", "ㅇㅇ 그래. ㄱㄱ"),
        ("ㄱ, ㄴ, ㄷ 순서로 적습니다.", "ㄱ, ㄴ, ㄷ 순서로 적습니다."),
    ],
)
def test_characters(text: str, wanted: str) -> None:
    assert edit(text, passes=["unicode"]) == wanted


@pytest.mark.parametrize(("wrong", "right"), [(wrong, right) for wrong, (right, _) in misspellings.entries().items()])
def test_each_misspelling_of_the_list_is_corrected_and_the_correction_stays(wrong: str, right: str) -> None:
    assert edit(f"그 {wrong} 등", passes=["misspellings"]) == f"그 {right} 등"
    assert edit(right, passes=["misspellings"]) == right.rstrip()


def test_the_list_is_as_long_as_promised() -> None:
    assert len(misspellings.entries()) >= 400


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("# 머리말\n됬\t됐".encode(), "line 2: want wrong, right"),
        ("됬\t됐\tanywhere".encode(), "line 1"),
        ("\t됐\tany".encode(), "line 1"),
        ("됬\t됐\tany\n\n".encode(), "line 2"),
        ("됬\t됐\tany".encode("euc-kr", "ignore") + b"\xb5\xc6", "cannot be read"),
    ],
)
def test_a_damaged_list_is_said_with_its_line(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "misspellings.tsv"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=complaint) as caught:
        misspellings.read(path)
    assert str(path) in str(caught.value)


def test_a_list_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="install dure anew"):
        misspellings.read(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("제가 할께요.", "제가 할게요."),
        ("빵을 만들께요.", "빵을 만들게요."),
        ("꼭 먹을꺼야.", "꼭 먹을 거야."),
        ("내일 갈 꺼예요.", "내일 갈 거예요."),
        ("책이 있읍니다.", "책이 있습니다."),
        ("문제가 없읍니까?", "문제가 없습니까?"),
        ("했슴니다.", "했습니다."),
        ("왠만하면 몇일 뒤에 돼요.", "웬만하면 며칠 뒤에 돼요."),
    ],
)
def test_families_of_endings(text: str, wanted: str) -> None:
    assert edit(text, passes=["misspellings"]) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "이곳은 가평읍입니다.", "딸께 드렸습니다.", "전체의 일부로 봅니다.", "불길이 타올랐다.", "가을께 만납시다.",
        "열 살께였다.",
        "짐을 들어내다 다쳤다.", "아이예요.", "루마니아에 갑니다.", "파토스와 로고스.", "재빠리 움직였다.",
        "한 됫박을 샀다.",
        "노래를 들어나 보자.", "선생님께서 오셨어요.", "꺼야 할 불이 있다.", "그는 일에 열심이다.",
    ],
)  # fmt: skip
def test_words_that_only_look_misspelled_stay(text: str) -> None:
    assert edit(text, passes=QUICK) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("좋습니다 .", "좋습니다."),
        ("정말요 ?", "정말요?"),
        ("맞습니다.그래서 갑니다.", "맞습니다. 그래서 갑니다."),
        ("좋습니다。", "좋습니다."),
        ("도와드리겠습니다", "도와드리겠습니다."),
        ("무엇을 도와드릴까요", "무엇을 도와드릴까요?"),
        ("음.. 글쎄,, 그게…", "음.. 글쎄,, 그게…"),
        ("가.나.다 순입니다.", "가.나.다 순입니다."),
        ("사과와 배", "사과와 배"),
    ],
)
def test_punctuation(text: str, wanted: str) -> None:
    assert edit(text, passes=["punctuation"]) == wanted


def test_a_block_of_code_is_not_edited_also_where_it_is_cut_into_sentences() -> None:
    text = "보세요.\n```python\nx = '몇일'\n\ny = '되요'\n```\n몇일 걸립니다."
    assert edit(text, passes=QUICK) == text.replace("몇일 걸", "며칠 걸")


def test_an_edit_says_where_it_was_in_the_raw_sentence() -> None:
    (sentence,) = edited("몇일 뒤에 할께요 .", passes=QUICK)
    assert sentence.text == "며칠 뒤에 할게요."
    for each in sentence.edits:
        assert sentence.raw[each.start : each.end] == each.before
    assert [(each.kind, each.before, each.after) for each in sentence.edits] == [
        ("misspellings", "몇일", "며칠"),
        ("misspellings", "할께", "할게"),
        ("punctuation", " ", ""),
    ]


def test_changes_that_overlap_are_made_once() -> None:
    draft = Draft("가나다라")
    draft.apply("x", [Change(0, 2, "A"), Change(1, 3, "B"), Change(3, 4, "C")])
    assert draft.text == "A다C"


def test_a_pass_that_fails_leaves_the_sentence_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Draft) -> Iterator[Change]:
        raise ValueError("broken")

    monkeypatch.setattr(misspellings, "changes", broken)
    editor = KoreanEditor(QUICK)
    (sentence,) = [*editor.feed("비밀은 몇일 뒤에 . "), *editor.finish(is_cut=False)]
    assert sentence.text == "비밀은 몇일 뒤에."
    assert editor.failures == {"misspellings": 1}
    assert not re.search("비밀", caplog.text)


@PROPERTY
@given(
    st.lists(st.sampled_from(["몇일", "되요", "할께", "요", ".", " ", "！", "ㄱ", "안녕", "다", "?"]), max_size=12).map(
        "".join
    )
)
def test_editing_twice_changes_nothing_more(text: str) -> None:
    once = edit(text, passes=("misspellings", "unicode"))
    assert edit(once, passes=("misspellings", "unicode")) == once
