import string
from typing import Any

import pytest
from pydantic import ValidationError

from dure_gateway.schemas import ChatRequest, CompletionRequest
from dure_gateway.texts import Text, choose_language, validation_text

SECRET = "비밀이야기"


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("text", Text)
def test_every_text_asks_for_the_same_values_in_both_languages(text: Text) -> None:
    _, *said = text.value
    korean_message, korean_remedy, english_message, english_remedy = map(placeholders, said)
    assert korean_message == english_message
    assert korean_remedy == english_remedy


@pytest.mark.parametrize("text", Text)
def test_every_text_renders_with_its_values_in_both_languages(text: Text) -> None:
    names = set().union(*map(placeholders, text.value[1:]))
    values = {name: f"<{name}>" for name in names}
    korean, english = text.render("ko", values), text.render("en", values)
    for part in (*korean, *english):
        assert part.strip()
        assert "{" not in part or '{"role": "user"}' in part
    assert any("가" <= letter <= "힣" for letter in korean[0])
    assert any("가" <= letter <= "힣" for letter in korean[1])
    assert not any("가" <= letter <= "힣" for letter in "".join(english))
    assert all(value in "".join(korean) for value in values.values())


def test_codes_are_unique_and_stable_names() -> None:
    codes = [text.code for text in Text]
    assert len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)


def test_what_was_perhaps_meant_is_asked_before_the_remedy() -> None:
    values = {"expected": "polite, casual", "near": "casual"}
    assert Text.NOT_A_CHOICE.render("ko", values)[1].startswith("혹시 ‘casual’인가요? 다음 가운데")
    assert Text.NOT_A_CHOICE.render("en", values)[1] == "Did you mean 'casual'? Send one of: polite, casual"
    assert Text.NOT_A_CHOICE.render("en", values | {"near": None})[1] == "Send one of: polite, casual"


def test_a_value_with_braces_is_shown_as_it_is() -> None:
    message, _ = Text.NO_SUCH_PATH.render("ko", {"path": "/{path}/{0}"})
    assert message.startswith("/{path}/{0}")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ko", "ko"),
        ("ko-KR", "ko"),
        ("KO-kr", "ko"),
        ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", "ko"),
        ("ko-KR;q=0.1,en;q=0.9", "en"),
        ("en;q=0.1, ko;q=0.9", "ko"),
        ("en ;q=0.1 , ko ; q=0.9", "ko"),
        ("en;Q=0.1,ko;Q=0.9", "ko"),
        ("ja,ko;q=0.5,en;q=0.4", "ko"),
        ("ja,fr;q=0.9", "en"),
        ("ko,en", "ko"),
        ("en,ko", "en"),
        ("en;q=0", "en"),
        ("ko;q=0", "en"),
        ("en;q=0,ko;q=0.001", "ko"),
        ("", "en"),
        (",,;,", "en"),
        ("*", "en"),
        ("ko;q=많이", "en"),
        ("ko;q=많이,en;q=x,ko-KR;q=0.2", "ko"),
        ("ko;q=", "en"),
        ("ko;q=nan", "en"),
        ("kok,kor", "en"),
        ("한국어", "en"),
        ("ko\x00", "en"),
    ],
)
def test_the_language_follows_the_header_and_is_english_where_neither_is_asked_for(header: str, language: str) -> None:
    assert choose_language(header) == language


HIDDEN: list[Any] = [
    SECRET,
    [SECRET],
    {SECRET: SECRET},
    [[SECRET]],
    {"text": SECRET},
    [{"type": "text", "text": [SECRET]}],
]
LONG = SECRET * 13_000
FIELDS = [
    "message", "style", "personality", "conversation_id", "max_tokens", "stop", "temperature", "top_p", "top_k",
    "min_p", "repetition_penalty", "seed", "model",
]  # fmt: skip


def refusals(cls: type[ChatRequest | CompletionRequest], body: Any) -> list[Any]:
    try:
        cls.model_validate(body)
    except ValidationError as error:
        return [one | {"loc": ("body", *one["loc"])} for one in error.errors()]
    return []


def assert_secret_is_kept(errors: list[Any]) -> None:
    for error in errors:
        text, values = validation_text(error)
        for language in ("ko", "en"):
            assert SECRET not in " ".join(text.render(language, values))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [*HIDDEN, LONG, [LONG], f"\ud800{SECRET}"], ids=range(9))
def test_the_words_about_a_bad_question_never_repeat_it(field: str, value: Any) -> None:
    errors = refusals(ChatRequest, {"message": SECRET} | {field: value})
    assert errors or isinstance(value, str) or field == "stop"
    assert_secret_is_kept(errors)


@pytest.mark.parametrize(
    "body",
    [
        SECRET,
        [SECRET],
        None,
        {"messages": SECRET},
        {"message": SECRET, SECRET: SECRET},
        {"message": SECRET, "stop": [SECRET] * 9},
        {"message": SECRET, "stop": {SECRET: 1}},
    ],
    ids=str,
)
def test_the_words_about_a_body_of_the_wrong_shape_never_repeat_it(body: Any) -> None:
    errors = refusals(ChatRequest, body)
    assert errors
    assert_secret_is_kept(errors)


@pytest.mark.parametrize("value", HIDDEN, ids=range(len(HIDDEN)))
@pytest.mark.parametrize("field", ["role", "content"])
def test_the_words_about_a_bad_conversation_never_repeat_it(field: str, value: Any) -> None:
    message = {"role": "user", "content": SECRET} | {field: value}
    last = {"role": "assistant", "content": SECRET}
    errors = refusals(CompletionRequest, {"model": SECRET, "n": SECRET, "messages": [message, last]})
    assert errors
    assert_secret_is_kept(errors)
    errors = refusals(CompletionRequest, {"model": SECRET, "messages": [last]})
    assert errors
    assert_secret_is_kept(errors)


@pytest.mark.parametrize(
    ("body", "text", "said"),
    [
        ({}, Text.MISSING, ""),
        ({"message": ""}, Text.TOO_SHORT, "1"),
        ({"message": "가" * 64_001}, Text.TOO_LONG, "64000"),
        ({"message": 5}, Text.WRONG_TYPE, "text"),
        ({"message": "가", "stile": "polite"}, Text.UNKNOWN_FIELD, "/docs"),
        ({"message": "가", "scripts": ["한글"]}, Text.NOT_A_CHOICE, "'hangul', 'latin'"),
        ({"message": "가", "temperature": 2.5}, Text.OUT_OF_RANGE, "≤ 2"),
        ({"message": "가", "top_p": 0}, Text.OUT_OF_RANGE, "> 0"),
        ({"message": "가", "max_tokens": 0}, Text.OUT_OF_RANGE, "≥ 1"),
        ({"message": "가", "max_tokens": 1.5}, Text.WRONG_TYPE, "integer"),
        ({"message": "가", "max_tokens": "많이"}, Text.WRONG_TYPE, "integer"),
        ({"message": "가", "min_p": "조금"}, Text.WRONG_TYPE, "number"),
        ({"message": "가", "stop": ["가"] * 9}, Text.TOO_LONG, "8"),
        ({"message": "가", "stop": "끝"}, Text.WRONG_TYPE, "list"),
    ],
    ids=str,
)
def test_the_remedy_says_what_would_be_taken(body: dict[str, Any], text: Text, said: str) -> None:
    found, values = validation_text(refusals(ChatRequest, body)[0])
    assert found is text
    for language in ("ko", "en"):
        assert said in " ".join(found.render(language, values))
