import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dure.errors import ContextOverflow, DureError
from dure.job import JobPayload, Message, Persona
from dure.persona import shipped
from dure_worker.conversation.conversation import Conversation, Prompt
from dure_worker.conversation.persona import register_of
from dure_worker.engines.scripted import ScriptedEngine
from dure_worker.korean.endings import Register

PROPERTY = settings(deadline=None, max_examples=200, derandomize=True)

count_tokens = ScriptedEngine().count_tokens
SYSTEM = Message("system", "짧게 답하세요.")


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def talk(num_rounds: int, question: str = "지금 질문") -> list[Message]:
    rounds = [(user(f"질문 {n}"), assistant(f"대답 {n}")) for n in range(num_rounds)]
    return [*(turn for pair in rounds for turn in pair), user(question)]


def fit(messages: list[Message], context: int, *, max_tokens: int = 1, **options: Any) -> Prompt:
    return Conversation(count_tokens, context).fit(JobPayload(messages, max_tokens=max_tokens, **options))


def test_what_fits_is_left_whole() -> None:
    messages = [SYSTEM, *talk(3)]
    prompt = fit(messages, 1000)
    assert prompt.messages == messages
    assert prompt.num_tokens == count_tokens(messages)


def test_jamo_as_macos_writes_them_become_syllables_before_they_are_counted() -> None:
    written = unicodedata.normalize("NFD", "두레는 무엇인가요? ㅋㅋ")
    prompt = fit([user(written)], 1000)
    assert prompt.messages[-1] == user("두레는 무엇인가요? ㅋㅋ")
    assert prompt.num_tokens < count_tokens([prompt.messages[0], user(written)])


@pytest.mark.parametrize("num_kept", [0, 1, 2, 3])
def test_the_oldest_turns_go_first_and_questions_go_with_their_answers(num_kept: int) -> None:
    turns = talk(4)
    kept = [SYSTEM, *turns[len(turns) - 1 - 2 * num_kept :]]
    exactly = count_tokens(kept) + 1
    assert fit([SYSTEM, *turns], exactly).messages == kept
    assert fit([SYSTEM, *turns], exactly + 1).messages == kept


@pytest.mark.parametrize("answers", [[assistant("답")], [assistant("답"), assistant("덧붙임")]])
def test_all_answers_to_a_dropped_question_go_with_it(answers: list[Message]) -> None:
    rest = [user("둘째 질문"), assistant("둘째 답"), user("지금 질문")]
    context = count_tokens([SYSTEM, *rest]) + 1
    assert fit([SYSTEM, user("첫 질문"), *answers, *rest], context).messages == [SYSTEM, *rest]


def test_two_questions_in_a_row_are_dropped_one_by_one() -> None:
    turns = [user("첫 질문"), user("덧붙인 질문"), assistant("답"), user("지금 질문")]
    context = count_tokens([SYSTEM, *turns[1:]]) + 1
    assert fit([SYSTEM, *turns], context).messages == [SYSTEM, *turns[1:]]


@PROPERTY
@given(
    st.lists(
        st.tuples(st.text("가나다라 ", max_size=40), st.lists(st.text("하", max_size=40), max_size=2)), max_size=8
    ),
    st.text("마바사", min_size=1, max_size=40),
    st.integers(16, 300),
    st.integers(1, 400),
)
def test_a_prompt_leaves_room_keeps_system_and_question_and_begins_with_a_question(
    rounds: list[tuple[str, list[str]]], question: str, context: int, max_tokens: int
) -> None:
    turns = [turn for asked, answers in rounds for turn in [user(asked), *map(assistant, answers)]] + [user(question)]
    assume(count_tokens([SYSTEM, turns[-1]]) <= context - min(max_tokens, context // 4))
    prompt = fit([SYSTEM, *turns], context, max_tokens=max_tokens)
    system, *kept = prompt.messages
    assert system == SYSTEM
    assert kept == turns[len(turns) - len(kept) :]
    assert kept[0].role == "user"
    assert kept[-1] == user(question)
    assert prompt.num_tokens == count_tokens(prompt.messages)
    assert 1 <= prompt.max_tokens <= max_tokens
    assert prompt.num_tokens + prompt.max_tokens <= context


@PROPERTY
@given(st.integers(0, 8), st.integers(16, 200), st.integers(1, 60))
def test_no_turn_is_dropped_that_would_have_fitted(num_rounds: int, context: int, max_tokens: int) -> None:
    turns = talk(num_rounds)
    budget = context - min(max_tokens, context // 4)
    assume(count_tokens([SYSTEM, turns[-1]]) <= budget)
    kept = fit([SYSTEM, *turns], context, max_tokens=max_tokens).messages[1:]
    one_round_more = turns[len(turns) - len(kept) - 2 :]
    assert len(kept) == len(turns) or count_tokens([SYSTEM, *one_round_more]) > budget


def test_a_question_that_cannot_fit_is_an_overflow_with_its_numbers() -> None:
    messages = [SYSTEM, *talk(2), assistant("답"), user("가" * 200)]
    with pytest.raises(ContextOverflow) as caught:
        fit(messages, 100, max_tokens=10)
    assert caught.value.num_tokens == count_tokens([SYSTEM, user("가" * 200)])
    assert caught.value.limit == 90
    assert str(caught.value.num_tokens) in str(caught.value)
    assert "90" in str(caught.value)


def test_a_question_fits_to_the_last_token_and_overflows_one_beyond() -> None:
    messages = [SYSTEM, user("가" * 40)]
    needed = count_tokens(messages)
    assert fit(messages, needed + 5, max_tokens=5).max_tokens == 5
    with pytest.raises(ContextOverflow):
        fit(messages, needed + 4, max_tokens=5)


def test_a_long_system_message_is_never_dropped_to_make_room() -> None:
    with pytest.raises(ContextOverflow):
        fit([Message("system", "가" * 400), user("질문")], 100)


def test_a_wish_for_a_long_answer_does_not_push_out_the_conversation() -> None:
    messages = [SYSTEM, *talk(3)]
    context = count_tokens(messages) * 2
    prompt = fit(messages, context, max_tokens=4096)
    assert prompt.messages == messages
    assert prompt.max_tokens == context - prompt.num_tokens


@pytest.mark.parametrize("messages", [[], [SYSTEM]])
def test_a_conversation_without_any_question_ends_with_an_error_even_when_nothing_fits(messages: list[Message]) -> None:
    num_calls = 0

    def count(_: list[Message]) -> int:
        nonlocal num_calls
        num_calls += 1
        if num_calls > 100:
            pytest.fail("counts the same prompt for ever")
        return 1000

    with pytest.raises(DureError):
        Conversation(count, 100).fit(JobPayload(messages))


def test_the_clients_own_system_message_is_used_as_it_is() -> None:
    assert fit([SYSTEM, user("질문")], 1000).messages[0] == SYSTEM


@pytest.mark.parametrize(
    "options", [{"style": "casual"}, {"personality": "warm"}, {"style": "expert", "personality": "concise"}]
)
def test_a_persona_and_the_clients_own_system_message_are_both_said(options: dict[str, str]) -> None:
    system = fit([SYSTEM, user("질문")], 2000, **options).messages[0].content
    assert system.startswith(shipped().persona(options.get("style"), options.get("personality")).system)
    assert system.endswith(SYSTEM.content)


def test_without_any_system_message_the_default_persona_speaks() -> None:
    assert fit([user("질문")], 2000).messages == [
        Message("system", shipped().persona("polite", "helpful").system),
        user("질문"),
    ]


def test_several_system_messages_become_one_in_front() -> None:
    messages = [SYSTEM, user("질문"), assistant("답"), Message("system", "이제 길게."), user("또")]
    prompt = fit(messages, 2000)
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.messages[0].content == "짧게 답하세요.\n\n이제 길게."


def test_an_empty_system_message_of_the_client_silences_the_persona() -> None:
    assert fit([Message("system", ""), user("질문")], 2000).messages[0].content == ""


def test_a_conversation_that_may_outgrow_its_context_is_left_to_the_engine() -> None:
    long = [SYSTEM, *talk(2, "질문 " * 300)]
    with pytest.raises(ContextOverflow):
        fit(long, 100)
    prompt = fit(long, 100, max_tokens=500, overflow="window")
    assert prompt.messages == [SYSTEM, long[-1]]
    assert prompt.num_tokens > 100
    assert prompt.max_tokens == 500


EXAMPLES = [user("본보기 질문"), assistant("본보기 대답")]
CLERK = Persona("당신은 안내원입니다.", EXAMPLES, "plain")


def test_a_persona_that_came_with_the_job_speaks_in_place_of_the_named_one() -> None:
    head = [Message("system", CLERK.system), *EXAMPLES]
    assert fit([user("질문")], 1000, style="clerk", personality="clerk", persona=CLERK).messages == [
        *head,
        user("질문"),
    ]
    with_own = fit([SYSTEM, user("질문")], 1000, style="polite", persona=CLERK).messages
    assert with_own == [Message("system", f"{CLERK.system}\n\n{SYSTEM.content}"), *EXAMPLES, user("질문")]


def test_examples_stay_when_turns_are_left_out() -> None:
    head = [Message("system", CLERK.system), *EXAMPLES]
    turns = talk(3)
    for num_kept in range(3):
        kept = [*head, *turns[len(turns) - 1 - 2 * num_kept :]]
        prompt = fit(turns, count_tokens(kept) + 1, style="polite", persona=CLERK)
        assert prompt.messages == kept
        assert prompt.num_tokens == count_tokens(kept)


def test_examples_that_leave_no_room_for_the_question_are_an_overflow() -> None:
    whole = [Message("system", CLERK.system), *EXAMPLES, user("지금 질문")]
    with pytest.raises(ContextOverflow) as caught:
        fit(talk(2), count_tokens(whole), style="polite", persona=CLERK)
    assert caught.value.num_tokens == count_tokens(whole)
    assert fit(talk(2), count_tokens(whole), style="polite", persona=CLERK, overflow="window").messages == whole


def test_a_personas_jamo_become_syllables_too() -> None:
    system, example = (unicodedata.normalize("NFD", text) for text in ("안내", "예"))
    persona = Persona(system, [user(example)])
    assert fit([user("질문")], 1000, persona=persona).messages[:2] == [Message("system", "안내"), user("예")]


@pytest.mark.parametrize(
    ("payload", "register"),
    [
        (JobPayload([SYSTEM, user("질문")]), None),
        (JobPayload([user("질문")], personality="warm"), None),
        (JobPayload([user("질문")], style="polite"), Register.FORMAL),
        (JobPayload([user("질문")], style="casual"), Register.POLITE),
        (JobPayload([user("질문")], style="clerk", persona=CLERK), Register.PLAIN),
        (JobPayload([user("질문")], style="clerk", persona=Persona("가")), None),
    ],
    ids=range(6),
)
def test_the_editor_keeps_to_the_register_of_the_persona(payload: JobPayload, register: Register | None) -> None:
    assert register_of(payload) is register


@pytest.mark.parametrize("names", [{"style": "dialect"}, {"personality": "clerk"}])
def test_a_name_that_came_without_its_text_is_refused(names: dict[str, str]) -> None:
    with pytest.raises(DureError, match="there is no such"):
        fit([user("질문")], 1000, **names)
