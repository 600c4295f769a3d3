"""The other's words, and words that an answer shows as wrong, stay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.edits import Pass
from dure_worker.korean.about import passes_for
from dure_worker.korean.editor import KoreanEditor


@pytest.mark.parametrize(
    "question",
    [
        "맞춤법 좀 봐 주세요. 나는 몇일 쉬었다.",
        "‘몇일’이 맞아요, ‘며칠’이 맞아요?",
        "'되요' 가 맞나요?",
        "다음 문장을 교정해 주세요: 사과을 먹었다",
        "띄어쓰기를 고쳐 줘: 나는학교에간다",
        "이 글에서 틀린 곳을 찾아 주세요.",
        "이 문장 고쳐 줘: 내일 뵈요",
    ],
)
def test_where_spelling_is_asked_for_words_are_not_mended(question: str) -> None:
    assert not {Pass.MISSPELLINGS, Pass.SPACING, Pass.JOSA} & set(passes_for([question], Pass))
    assert {Pass.REPETITION, Pass.REGISTER, Pass.PUNCTUATION} <= set(passes_for([question], Pass))


@pytest.mark.parametrize(
    "question",
    ["몇일 걸려요?", "이 옷이 저한테 맞아요?", "'노인과 바다'는 누가 썼나요?", "글쓰기 연습은 어떻게 해요?", ""],
)
def test_elsewhere_they_are(question: str) -> None:
    assert passes_for([question], Pass) == list(Pass)


def edited(text: str, said: str) -> str:
    editor = KoreanEditor(["misspellings", "josa", "register"], said=said)
    return "".join(part.text for part in [*editor.feed(text), *editor.finish(is_cut=False)])


@pytest.mark.parametrize(("opening", "closing"), ["“”", "‘’", '""', "''", "「」", "『』"])
def test_a_quotation_from_the_question_stays(opening: str, closing: str) -> None:
    quoted = f"{opening}몇일 동안 사과을 먹었어{closing}"
    assert edited(f"{quoted}라고 하셨지만 몇일인지 모릅니다.", "저는 몇일 동안 사과을 먹었어") == (
        f"{quoted}라고 하셨지만 며칠인지 모릅니다."
    )


def test_a_quotation_of_somebody_else_is_mended() -> None:
    assert edited("“몇일 뒤에 보자.”라고 했습니다.", "언제 보자고 했어?") == "“며칠 뒤에 보자.”라고 했습니다."


WORDS = st.sampled_from(["몇일", "되요", "사과을", "먹었어", "역활", "두레", "12 kg", "할께요", "`a`"])


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), st.lists(WORDS, max_size=3).map(" ".join))
def test_what_is_quoted_stays_byte_for_byte(quoted: str, behind: str) -> None:
    assert f"“{quoted}”" in edited(f"“{quoted}”라고 하셨습니다. {behind}", f"제가 {quoted} 하고 말했어요")
