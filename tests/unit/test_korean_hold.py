"""A sentence that takes long is sent in parts, which read like the whole."""

from itertools import pairwise

import pytest
from benchmarks.korean import own_clean, own_pairs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dure.edits import PARSING, Pass
from dure.events import tidy
from dure_worker.korean import hold
from dure_worker.korean.editor import KoreanEditor, edit
from dure_worker.korean.endings import Register
from dure_worker.korean.sentence import Sentence

QUICK = [name for name in Pass if name not in PARSING]


class Clock:
    """Goes on by a second with each piece that is fed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def streamed(
    pieces: list[str],
    passes: list[str],
    *,
    hold_s: float = 1.2,
    is_cut: bool = False,
    register: Register | None = None,
) -> list[Sentence]:
    clock = Clock()
    editor = KoreanEditor(passes, register=register, hold_s=hold_s, clock=clock)
    sentences = []
    for piece in pieces:
        clock.now += 1
        sentences += editor.feed(piece)
    return sentences + editor.finish(is_cut=is_cut)


def text_of(sentences: list[Sentence]) -> str:
    return "".join(sentence.text for sentence in sentences).rstrip()


def words(text: str) -> list[str]:
    """As a slow engine gives them: with the blank in front."""
    return [f"{' ' if number else ''}{word}" for number, word in enumerate(text.split(" "))]


LONG = "두레는 농촌에서 농사일을 서로 돕기 위하여 마을 단위로 둔 공동 노동 조직입니다."


def test_the_beginning_of_a_slow_sentence_comes_before_its_end() -> None:
    found = [sentence.text for sentence in streamed(words(LONG), [])]
    assert len(found) > 2
    assert "".join(found) == LONG
    assert not any(text.endswith(" ") for text in found)


def test_a_quick_sentence_comes_as_a_whole() -> None:
    assert [sentence.text for sentence in streamed(words(LONG), [], hold_s=99)] == [LONG]


def test_what_two_words_later_may_change_is_not_given() -> None:
    clock = Clock()
    editor = KoreanEditor([], hold_s=1.2, clock=clock)
    assert editor.feed("두레는 농촌에서 농사일을") == []
    clock.now = 2
    assert [part.text for part in editor.feed(" 서")] == ["두레는"]


def test_near_the_limit_only_whole_sentences_come() -> None:
    clock = Clock()
    editor = KoreanEditor([], hold_s=1.2, clock=clock)
    given = []
    for word in words(LONG):
        clock.now += 1
        given += editor.feed(word, in_whole_sentences=True)
    assert given == []


@pytest.mark.parametrize(
    "text",
    [
        "그는 “나는 내일 아침에 일찍 집으로 갈 거야",
        "이 (아주 오래된 낡은 책에 나온 말은",
        "다음 `print(1) 이라는 아주 짧은 코드는",
        "**아주 중요한 내용을 담은 글을 쓰면",
        "[두레 안내 글을 여기에서 읽어",
        "| 이름 | 뜻 | 쓰임 | 때 |",
        "## 두레의 뜻과 오래된 역사 이야기",
        "```\n가 나 다 라 마 바",
    ],
)
def test_what_is_open_or_says_only_as_a_whole_what_it_is_stays_held(text: str) -> None:
    place = hold.safe_place(text, 0)
    assert place is None or not set("“(`*[|#") & set(text[:place])


def test_edits_lie_where_they_were_made_in_their_part() -> None:
    text = "내일은 비가 오니까 꼭 우산을 가져오면 되요 그리고 몇일 뒤에 다시 만나면 좋겠어요."
    parts = streamed(words(text), ["misspellings"])
    edits = [(part.raw[each.start : each.end], each.after) for part in parts for each in part.edits]
    assert edits == [("되요", "돼요"), ("몇일", "며칠")]
    assert text_of(parts) == text.replace("되요", "돼요").replace("몇일", "며칠")


def test_edits_are_counted_once() -> None:
    clock = Clock()
    editor = KoreanEditor(["misspellings"], hold_s=1.2, clock=clock)
    for word in words("이제 되요 그리고 내일은 아침부터 저녁까지 비가 계속해서 많이 온다고 합니다."):
        clock.now += 1
        editor.feed(word)
    editor.finish(is_cut=False)
    assert editor.counts == {"misspellings": 1}


def test_a_loop_is_not_begun_once_more() -> None:
    found = text_of(streamed(words(" ".join([LONG] * 5)), ["repetition"]))
    assert found == f"{LONG} {LONG}"


def test_a_torn_sentence_of_which_a_part_is_out_keeps_its_rest() -> None:
    torn = "두레는 모임입니다. 농촌에서 농사일을 서로 돕기 위하여 마을 단위로"
    assert text_of(streamed(words(torn), [], is_cut=True)) == torn
    assert text_of(streamed(words(torn), [], hold_s=99, is_cut=True)) == "두레는 모임입니다."


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("두레는 모임입니다. 농촌에서", " 농사일을 서로 돕기 위하여 둔"),
        ("두레는 모임입니다. ", ""),
        ("두레는 모임입니다.", ""),
        ("", " 농사일을 서로 돕기 위하여 둔"),
    ],
)
def test_a_sentence_that_another_attempt_began_to_send_keeps_its_rest(before: str, wanted: str) -> None:
    editor = KoreanEditor([], before=before)
    parts = [*editor.feed(" 농사일을 서로 돕기 위하여 둔"), *editor.finish(is_cut=True)]
    assert "".join(part.text for part in parts) == wanted


def test_the_speaker_is_not_named_before_the_register_is_known() -> None:
    text = "네. 나는 오늘 아침에 일찍 일어나서 마을 사람들과 함께 넓은 밭을 갈았어."
    assert text_of(streamed(words(text), ["register"], register=Register.FORMAL)) == (
        "네. 저는 오늘 아침에 일찍 일어나서 마을 사람들과 함께 넓은 밭을 갈았습니다."
    )


PARTS = [
    "안녕하세요", "두레는", "모임입니다", "몇일", "되요", "학교를", " ", "  ", ". ", "!", "?", "\n", "(", ")", "“", "”",
    "`", "**", "$", "3.14", "https://example.kr/a", "ㄱ", "\ufffd", "e\u0301", "12 kg", "|", "# ",
]  # fmt: skip


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.lists(st.sampled_from(PARTS), max_size=40), st.booleans())
@example(["두레는", " ", "몇일", " ", "되요", " ", "a", " ", "b", ". ", "c"], False)  # noqa: FBT003
def test_parts_say_what_the_whole_says(pieces: list[str], is_cut: bool) -> None:
    """With passes that look at words alone. A torn end whose beginning is out stays; else all is the same."""
    found = text_of(streamed(pieces, QUICK, is_cut=is_cut))
    whole = edit("".join(pieces), passes=QUICK, is_cut=is_cut)
    if is_cut:
        assert found.startswith(whole) or whole.startswith(found)
    else:
        assert found == whole


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.sampled_from(PARTS), max_size=40))
def test_every_letter_that_was_generated_belongs_to_one_part(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = streamed(pieces, QUICK)
    assert tidy("".join(part.raw for part in parts)).rstrip() == tidy(text).rstrip()
    for part in parts:
        assert all(0 <= each.start <= each.end <= len(part.raw) for each in part.edits)


def test_nearly_every_real_sentence_reads_the_same_in_parts_and_as_a_whole() -> None:
    """Wherever it was parted; with Kiwi, which sees no more than the beginning."""
    texts = own_clean() + [wrong for rows in own_pairs().values() for wrong, _ in rows]
    long = [text for text in texts if len(text.split(" ")) > 3]
    assert len(long) > 200
    same = [text_of(streamed(words(text), list(Pass))) == edit(text) for text in long]
    assert sum(same) / len(same) >= 0.99


def test_borders_of_pieces_make_no_difference_without_a_clock() -> None:
    text = " ".join(own_clean()[:40])
    for size in (1, 3, 7):
        borders = [*range(0, len(text), size), len(text)]
        pieces = [text[start:end] for start, end in pairwise(borders)]
        assert text_of(streamed(pieces, list(Pass), hold_s=float("inf"))) == edit(text)
