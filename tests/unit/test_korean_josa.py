"""Particles, with the real parser."""

import pytest

from dure_worker.korean import parser, readings
from dure_worker.korean.editor import edit, edited


@pytest.mark.parametrize(
    ("word", "final"),
    [
        ("사과", 0), ("책", 1), ("물", 8), ("3", 16), ("7", 8), ("2", 0), ("10", 17), ("100", 1), ("3000", 4),
        ("20000", 4), ("0", 21), ("3.5", 0), ("12", 0), ("Python", 4), ("JavaScript", 0), ("API", 0), ("HTML", 8),
        ("Linux", 0), ("'책'", 1), ("(사과)", 0), ("“물”", 8), ("Excel", 8), ("x", 0),
        ("60ml", 0), ("30g", 16), ("6,400km", 0), ("2kg", 16), ("16GB", 0), ("3TV", 0),
    ],
)  # fmt: skip
def test_how_a_word_ends_when_it_is_read(word: str, final: int) -> None:
    assert readings.final(word) == final


@pytest.mark.parametrize("word", ["", "?", "日本", "…", "grok", "ONE"])
def test_what_is_not_known_is_not_guessed(word: str) -> None:
    assert readings.final(word) is None


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("사과을 먹었습니다.", "사과를 먹었습니다."),
        ("책를 읽었습니다.", "책을 읽었습니다."),
        ("학교이 멀어요.", "학교가 멀어요."),
        ("오늘는 날씨가 좋습니다.", "오늘은 날씨가 좋습니다."),
        ("친구과 함께 갔습니다.", "친구와 함께 갔습니다."),
        ("부산로 갑니다.", "부산으로 갑니다."),
        ("Python를 배웁니다.", "Python을 배웁니다."),
        ("점수는 3를 넘습니다.", "점수는 3을 넘습니다."),
    ],
)
def test_a_particle_follows_the_sound_before_it(wrong: str, right: str) -> None:
    assert edit(wrong, passes=["josa"]) == right
    assert [each.kind for part in edited(wrong, passes=["josa"]) for each in part.edits] == ["josa"]


@pytest.mark.parametrize(
    "text",
    [
        "국가는 국민의 것입니다.", "효과가 있습니다.", "하나는 작고 하나는 큽니다.", "제가 하겠습니다.",
        "네가 좋아하는 것을 말해.",
        "아이가 웃는다.", "나이가 많은 사람", "서로 돕습니다.", "나라가 큽니다.", "많은 사람이 있는 곳",
        "서울로 갑니다.",
        "물로 씻습니다.", "철수야, 놀자.", "가을이 왔다.", "높은 산과 깊은 바다", "그는 의사이다.",
        "회의는 10시로 정했습니다.",
        "Linux는 무료입니다.", "결과와 원인", "누나와 나", "`x`를 반환합니다.", "이 가게는 빵이 맛있다.",
        "심술나서 왔어.", "지진나면 어떡하지?", "내일은 나은 하루이길", "잘 저은 물을 붓는다.", "국수를 삶는 시간",
        "문을 잠가 주세요.", "후아 힘드네.", "나비고기과의 한 종이다.", "물 240ml를 담는다.", "길이는 6,400km로 길다.",
        "“오리(duck)”를 뜻한다.", "앨범 'SQUARE ONE'과 수록곡", "유레이 바로 북쪽에 있다.",
        "Vue 3가 개발되던 때", "Python 3.13를 씁니다.",
        "객체는 Proxy이며 무겁습니다.", "위조(CSRF)과 포함(XSSI)과 같은 문제",
    ],
)  # fmt: skip
def test_what_is_right_stays(text: str) -> None:
    assert edit(text, passes=["josa"]) == text


def test_what_is_masked_is_one_foreign_word_to_the_parser() -> None:
    found = parser.parse("`x = 1`을 보세요.")
    assert found.ending_at(7) is not None
    assert [each.form for each in found.morphemes if each.start == 7] == ["을"]
