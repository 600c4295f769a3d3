"""Blanks go into runs of words, and into nothing else."""

import pytest

from dure_worker.korean.editor import edit


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("저는오늘학교에갔습니다.", "저는 오늘 학교에 갔습니다."),
        ("이프로그램은누구나무료로쓸수있습니다.", "이 프로그램은 누구나 무료로 쓸 수 있습니다."),
    ],
)
def test_a_run_of_words_gets_its_blanks(wrong: str, right: str) -> None:
    assert edit(wrong, passes=["spacing"]) == right


@pytest.mark.parametrize(
    "text",
    [
        "국립중앙박물관학예연구실에 갔습니다.",
        "개인정보처리방침입니다.",
        "설명해드리겠습니다만요.",
        "https://example.kr/저는오늘학교에갔습니다 를 보세요.",
        "`저는오늘학교에갔습니다`",
    ],
)
def test_names_auxiliaries_and_what_is_masked_get_no_blanks(text: str) -> None:
    assert edit(text, passes=["spacing"]) == text
