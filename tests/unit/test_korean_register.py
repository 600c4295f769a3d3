"""Sentences that fall out of the register of an answer are brought back into it, and no others."""

import pytest

from dure_worker.korean.editor import edit
from dure_worker.korean.endings import Register

F, P, FRIENDLY = Register.FORMAL, Register.POLITE, Register.PLAIN


def converted(text: str, register: Register) -> str:
    return edit(text, passes=["register"], register=register)


# (as it may come, 합쇼체, 해요체)
FORMS = [
    ("오늘은 날씨가 좋아요.", "오늘은 날씨가 좋습니다.", "오늘은 날씨가 좋아요."),
    ("오늘은 날씨가 좋습니다.", "오늘은 날씨가 좋습니다.", "오늘은 날씨가 좋아요."),
    ("오늘은 날씨가 좋아.", "오늘은 날씨가 좋습니다.", "오늘은 날씨가 좋아요."),
    ("저는 학생이에요.", "저는 학생입니다.", "저는 학생이에요."),
    ("나는 학생이야.", "저는 학생입니다.", "저는 학생이에요."),
    ("그건 사과예요.", "그건 사과입니다.", "그건 사과예요."),
    ("그것은 바다입니다.", "그것은 바다입니다.", "그것은 바다예요."),
    ("그것은 `code`입니다.", "그것은 `code`입니다.", "그것은 `code`예요."),
    ("밥을 먹었니?", "밥을 먹었습니까?", "밥을 먹었어요?"),
    ("밥을 먹었습니까?", "밥을 먹었습니까?", "밥을 먹었어요?"),
    ("무엇을 도와드릴까요?", "무엇을 도와드릴까요?", "무엇을 도와드릴까요?"),
    ("제가 할게요.", "제가 하겠습니다.", "제가 할게요."),
    ("내가 도와줄게.", "제가 도와주겠습니다.", "제가 도와줄게요."),
    ("책을 읽으세요.", "책을 읽으십시오.", "책을 읽으세요."),
    ("이쪽으로 오십시오.", "이쪽으로 오십시오.", "이쪽으로 오세요."),
    ("할머니께서 오세요.", "할머니께서 오십니다.", "할머니께서 오세요."),
    ("걱정하지 마세요.", "걱정하지 마십시오.", "걱정하지 마세요."),
    ("함께 갑시다.", "함께 갑시다.", "함께 가요."),
    ("고마워.", "고맙습니다.", "고마워요."),
    ("물을 만들어요!", "물을 만듭니다!", "물을 만들어요!"),
    ("아니에요.", "아닙니다.", "아니에요."),
    ("정말 예쁘구나.", "정말 예쁩니다.", "정말 예쁘군요."),
    ("잘 몰라요. ", "잘 모릅니다.", "잘 몰라요."),
]


@pytest.mark.parametrize(("text", "formal", "polite"), FORMS)
def test_a_sentence_is_said_in_either_register(text: str, formal: str, polite: str) -> None:
    assert converted(text, F) == formal
    assert converted(text, P) == polite


@pytest.mark.parametrize("register", [F, P])
@pytest.mark.parametrize(
    "text",
    [
        "안녕하세요?",
        "사과, 배, 감 등.",
        "1. 사과",
        "“나는 간다.”",
        "그는 “빨리 와.”라고 했다.",
        "(예: 밥을 먹어.)",
        "지금이 아니면 언제?",
        "이 방법은 건강을 위해",
        "사과는 씻어서,",
        "```\n좋다.\n```",
        "이쪽으로 와라.",
        "",
        "   ",
    ],
)
def test_greetings_fragments_and_the_words_of_others_stay(text: str, register: Register) -> None:
    assert converted(text, register) == text.rstrip()


def test_a_command_and_a_statement_that_look_alike_are_left() -> None:
    assert converted("이쪽으로 와.", F) == "이쪽으로 와."


def test_a_text_in_the_plain_style_of_prose_stays_and_a_stray_in_talk_does_not() -> None:
    prose = "두레는 모임이다. 사람들은 함께 일한다."
    assert converted(prose, F) == prose
    assert converted("두레는 모임입니다. 사람들은 함께 일한다.", F) == "두레는 모임입니다. 사람들은 함께 일합니다."


@pytest.mark.parametrize(
    ("text", "formal"),
    [
        ("다음과 같은 행동은 꼭 고려해 보세요.", "다음과 같은 행동은 꼭 고려해 보십시오."),
        ("물은 1분 더 채워 주세요.", "물은 1분 더 채워 주십시오."),
        ("지진이 나면 책상 밑으로 들어가세요.", "지진이 나면 책상 밑으로 들어가십시오."),
        ("선생님은 아주 친절하세요.", "선생님은 아주 친절하십니다."),
        ("부모님께서 오세요.", "부모님께서 오십니다."),
        ("그분이 먼저 오세요.", "그분이 먼저 오세요."),
        ("설크를 잼아주세요.", "설크를 잼아주세요."),
    ],
)
def test_a_bidding_stays_one_unless_somebody_is_honoured(text: str, formal: str) -> None:
    assert converted(text, F) == formal


def test_who_offers_something_humbly_speaks_of_himself() -> None:
    assert converted("이야기를 하나 들려 드리겠습니다.", P) == "이야기를 하나 들려 드릴게요."


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("오늘은 날씨가 좋습니다.", "오늘은 날씨가 좋아."),
        ("오늘은 날씨가 좋아요.", "오늘은 날씨가 좋아."),
        ("저는 학생입니다.", "나는 학생이야."),
        ("저는 가수예요.", "나는 가수야."),
        ("그것은 바다입니다.", "그것은 바다야."),
        ("이건 제 책이에요.", "이건 내 책이야."),
        ("아니에요.", "아니야."),
        ("밥을 먹었습니까?", "밥을 먹었어?"),
        ("어디에 가세요?", "어디에 가?"),
        ("책을 읽으세요.", "책을 읽어."),
        ("이쪽으로 오십시오.", "이쪽으로 와."),
        ("걱정하지 마세요.", "걱정하지 마."),
        ("할머니께서 오세요.", "할머니께서 오셔."),
        ("할머니께서 오십니다.", "할머니께서 오셔."),
        ("제가 도와드리겠습니다.", "내가 도와드릴게."),
        ("함께 갑시다.", "함께 가자."),
        ("제가 할게요.", "내가 할게."),
        ("무엇을 할까요?", "무엇을 할까?"),
        ("비가 오네요.", "비가 오네."),
        ("그렇죠?", "그렇지?"),
        ("정말 예쁘군요.", "정말 예쁘군."),
        ("어제는 비가 왔거든요.", "어제는 비가 왔거든."),
        ("고맙습니다.", "고마워."),
        ("안녕하세요! 반갑습니다.", "안녕! 반가워."),
        ("안녕하십니까?", "안녕?"),
    ],
)
def test_a_polite_sentence_is_said_to_a_friend(text: str, plain: str) -> None:
    assert converted(text, FRIENDLY) == plain


@pytest.mark.parametrize(
    "text",
    [
        "오늘은 날씨가 좋아.",
        "정말 좋다.",
        "이쪽으로 와라.",
        "그는 “빨리 오세요.”라고 했어.",
        "저 사람은 누구야?",
        "제일 좋아.",
        "사과, 배, 감 등.",
    ],
)
def test_what_a_friend_would_say_stays(text: str) -> None:
    assert converted(text, FRIENDLY) == text


@pytest.mark.parametrize(
    ("text", "honoured"),
    [
        ("약은 식사 뒤에 먹으시면 됩니다.", "약은 식사 뒤에 드시면 됩니다."),
        ("푹 자시면 됩니다.", "푹 주무시면 됩니다."),
        ("할아버지께서 진지를 먹으시고 나가셨습니다.", "할아버지께서 진지를 드시고 나가셨습니다."),
    ],
)
def test_who_is_honoured_is_said_to_eat_and_sleep_with_the_words_for_it(text: str, honoured: str) -> None:
    assert converted(text, F) == honoured


def test_the_honorific_word_comes_with_the_ending_too() -> None:
    assert converted("약을 먹으세요.", P) == "약을 드세요."
    assert converted("약을 먹으세요.", F) == "약을 드십시오."
    assert converted("일찍 자세요.", F) == "일찍 주무십시오."


@pytest.mark.parametrize("text", ["바른 자세입니다.", "자세히 보십시오.", "자, 시작합니다.", "저는 밥을 먹습니다."])
def test_words_that_only_look_honorific_stay(text: str) -> None:
    assert converted(text, F) == text


def test_a_question_to_somebody_needs_no_word_for_you() -> None:
    assert converted("당신은 어떤 음식을 좋아하십니까?", F) == "어떤 음식을 좋아하십니까?"
    assert converted("당신은 좋은 사람입니다.", F) == "당신은 좋은 사람입니다."
    assert converted("당신의 이름은 무엇입니까?", F) == "당신의 이름은 무엇입니까?"


def test_without_a_register_nothing_is_converted() -> None:
    assert edit("날씨가 좋아. 좋아요. 좋습니다.", passes=["register"]) == "날씨가 좋아. 좋아요. 좋습니다."
