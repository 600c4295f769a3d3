import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from dure.job import Message, Sampling
from dure.persona import shipped
from dure.writing import Script
from dure_gateway import problems
from dure_gateway.schemas import ChatRequest, CompletionRequest, StreamingChatRequest

QUESTION = {"role": "user", "content": "두레가 뭐예요?"}


def refused_at(cls: type[ChatRequest | CompletionRequest], body: Any) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        cls.model_validate(body)
    return {".".join(map(str, error["loc"][:2])) for error in caught.value.errors()}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"message": ""}, "message"),
        ({"message": " \n\t　"}, "message"),
        ({"message": None}, "message"),
        ({"message": 5}, "message"),
        ({"message": ["질문"]}, "message"),
        ({"message": "가" * 64_001}, "message"),
        ({"message": "\ud800"}, "message"),
        ({"style": 5}, "style"),
        ({"personality": None}, "personality"),
        ({"conversation_id": ""}, "conversation_id"),
        ({"conversation_id": "대화"}, "conversation_id"),
        ({"conversation_id": "a:b"}, "conversation_id"),
        ({"conversation_id": "a\n"}, "conversation_id"),
        ({"conversation_id": "a" * 65}, "conversation_id"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 4097}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": float("inf")}, "max_tokens"),
        ({"stop": "끝"}, "stop"),
        ({"stop": ["끝", ""]}, "stop.1"),
        ({"stop": ["끝" * 101]}, "stop.0"),
        ({"stop": ["끝"] * 9}, "stop"),
        ({"stop": [None]}, "stop.0"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"min_p": float("inf")}, "min_p"),
        ({"repetition_penalty": 0.4}, "repetition_penalty"),
        ({"repetition_penalty": 2.1}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"dry_multiplier": -0.1}, "dry_multiplier"),
        ({"dry_multiplier": float("nan")}, "dry_multiplier"),
        ({"dry_base": 0.9}, "dry_base"),
        ({"dry_allowed_length": 0}, "dry_allowed_length"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias.5"),
        ({"logit_bias": {"5": None}}, "logit_bias.5"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5"),
        ({"logit_bias": {"오": 1}}, "logit_bias.오"),
        ({"logit_bias": {"5.5": 1}}, "logit_bias.5.5"),
        ({"logit_bias": {str(number): 1 for number in range(1025)}}, "logit_bias"),
        ({"scripts": "hangul"}, "scripts"),
        ({"scripts": []}, "scripts"),
        ({"scripts": ["hangul", "Hangul"]}, "scripts.1"),
        ({"scripts": ["klingon"]}, "scripts.0"),
        ({"edits": "josa"}, "edits"),
        ({"edits": ["grammar"]}, "edits.0"),
        ({"model": 5}, "model"),
        ({"stile": "polite"}, "stile"),
        ({"stream": True}, "stream"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_question_is_refused_at_the_field_that_is_wrong(changes: dict[str, Any], field: str) -> None:
    assert refused_at(ChatRequest, {"message": "질문"} | changes) == {field}


@pytest.mark.parametrize("name", ["\ud800", "모델\udfff"])
def test_a_model_name_that_cannot_be_written_as_text_is_refused(name: str) -> None:
    assert refused_at(ChatRequest, {"message": "질문", "model": name}) == {"model"}
    assert refused_at(CompletionRequest, {"messages": [QUESTION], "model": name}) == {"model"}


def test_a_question_without_a_message_is_refused_at_message() -> None:
    assert refused_at(ChatRequest, {}) == {"message"}


def test_a_streaming_question_may_say_so_and_is_as_strict_otherwise() -> None:
    assert StreamingChatRequest.model_validate({"message": "질문", "stream": True}).stream
    assert refused_at(StreamingChatRequest, {"message": "질문", "straem": True}) == {"straem"}


@pytest.mark.parametrize(
    "changes",
    [
        {"message": "가" * 64_000},
        {"max_tokens": 4096},
        {"stop": ["끝" * 100] * 8},
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1},
        {"seed": 2**31 - 1},
        {"dry_multiplier": 0, "dry_base": 1, "dry_allowed_length": 1},
        {"logit_bias": {str(number): -100 for number in range(1024)}},
        {"scripts": [script.value for script in Script]},
        {"conversation_id": "A-z_0" * 12},
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_at_its_limit_is_taken(changes: dict[str, Any]) -> None:
    assert ChatRequest.model_validate({"message": "질문"} | changes)


def test_a_question_becomes_a_payload_behind_its_history() -> None:
    body = {"message": "또요?", "style": "casual", "personality": "warm", "stop": ["끝"], "temperature": 0.0, "seed": 0}
    history = [Message("user", "질문"), Message("assistant", "답")]
    payload = ChatRequest.model_validate(body).payload(history, 77)
    assert payload.messages == [*history, Message("user", "또요?")]
    assert (payload.style, payload.personality, payload.stop) == ("casual", "warm", ["끝"])
    assert payload.max_tokens == 77
    assert payload.sampling == Sampling(temperature=0.0, seed=0)
    assert json.loads(payload.to_json())["style"] == "casual"


def test_a_questions_own_length_wins_over_the_gateways() -> None:
    assert ChatRequest.model_validate({"message": "질문", "max_tokens": 5}).payload([], 77).max_tokens == 5


def test_every_sampling_value_reaches_its_own_place() -> None:
    body = {
        "message": "질문",
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "repetition_penalty": 1.5,
        "seed": 6,
        "dry_multiplier": 0.7,
        "dry_base": 1.8,
        "dry_allowed_length": 9,
        "logit_bias": {"10": -11, "12": 13.5},
        "scripts": ["hangul", "latin", "hangul"],
    }
    assert ChatRequest.model_validate(body).payload([], 1).sampling == Sampling(
        0.1, 0.2, 3, 0.4, 1.5, 6, 0.7, 1.8, 9, {10: -11.0, 12: 13.5}, ["hangul", "latin"]
    )


def test_a_request_that_is_repeated_to_a_newer_gateway_is_still_the_same() -> None:
    body = {"message": "질문", "seed": 3}
    sent = ChatRequest.model_validate(body).as_sent()
    assert "dry" not in sent
    assert "logit_bias" not in sent
    assert ChatRequest.model_validate(body | {"scripts": None}).as_sent() == sent
    assert ChatRequest.model_validate(body | {"scripts": ["hangul"]}).as_sent() != sent
    assert ChatRequest.model_validate(body | {"edits": None}).as_sent() == sent
    assert ChatRequest.model_validate(body | {"edits": []}).as_sent() != sent


def test_a_style_that_nobody_named_counts_as_earlier_gateways_wrote_it() -> None:
    sent = ChatRequest.model_validate({"message": "질문"}).as_sent()
    assert sent == (
        '{"max_tokens":null,"stop":[],"temperature":null,"top_p":null,"top_k":null,"min_p":null,'
        '"repetition_penalty":null,"seed":null,"message":"질문","style":"polite","personality":"helpful",'
        '"conversation_id":null,"model":null}'
    )
    assert ChatRequest.model_validate({"message": "질문", "style": "polite"}).as_sent() == sent
    assert ChatRequest.model_validate({"message": "질문", "style": "casual"}).as_sent() != sent


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "질문"}, "messages"),
        ({"messages": [QUESTION] * 201}, "messages"),
        ({"messages": ["질문"]}, "messages.0"),
        ({"messages": [QUESTION, {"role": "user"}]}, "messages.1"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "가" * 64_001}]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "결과"}, QUESTION]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0"),
        ({"messages": [QUESTION, {"role": "assistant", "content": "답"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "짧게"}]}, "messages"),
        ({"messages": [{"role": "developer", "content": "짧게"}]}, "messages"),
        ({"stream": "때때로"}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 4097}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"logit_bias": {"5": -101}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"style": 5}, "style"),
        ({"personality": ["warm"]}, "personality"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_completion_is_refused_at_the_field_that_is_wrong(changes: dict[str, Any], field: str) -> None:
    assert {
        name[: len(field)] for name in refused_at(CompletionRequest, {"model": "m", "messages": [QUESTION]} | changes)
    } == {field}


@pytest.mark.parametrize("stop", ["", [""], ["끝"] * 9, "끝" * 101, 5, {"끝": 1}], ids=lambda value: str(value)[:20])
def test_a_bad_stop_of_a_completion_is_refused(stop: Any) -> None:
    body = {"model": "m", "messages": [QUESTION], "stop": stop}
    assert all(name.startswith("stop") for name in refused_at(CompletionRequest, body))


@pytest.mark.parametrize("text", ["", "  \n"])
def test_content_parts_without_any_text_are_refused_like_empty_content(text: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
    assert refused_at(CompletionRequest, body) == {"messages.0"}


def test_content_parts_that_cannot_be_written_as_text_are_refused() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "가\ud800"}]}]}
    assert refused_at(CompletionRequest, body) == {"messages.0"}


def complete(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "messages": [QUESTION]} | fields)


def test_unknown_fields_of_a_completion_are_ignored() -> None:
    message = QUESTION | {"name": "철수", "refusal": None}
    body = complete(
        messages=[message], user="철수", metadata={"a": "b"}, tools=[], logprobs=None, parallel_tool_calls=True
    )
    assert body.payload(9) == complete().payload(9)


def test_content_parts_are_joined_line_by_line() -> None:
    parts = [{"type": "text", "text": "두레가"}, {"type": "text", "text": "뭐예요?"}]
    assert complete(messages=[{"role": "user", "content": parts}]).payload(9).messages == [
        Message("user", "두레가\n뭐예요?")
    ]


def test_the_developer_role_is_the_system_role() -> None:
    messages = [{"role": "developer", "content": "짧게"}, QUESTION]
    assert complete(messages=messages).payload(9).messages[0] == Message("system", "짧게")


@pytest.mark.parametrize(("stop", "wanted"), [("끝", ["끝"]), (["끝", "마침"], ["끝", "마침"]), ([], []), (None, [])])
def test_stop_may_be_one_string_a_list_or_nothing(stop: Any, wanted: list[str]) -> None:
    assert complete(stop=stop).payload(9).stop == wanted


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, 99),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 5),
        ({"max_tokens": None, "max_completion_tokens": None}, 99),
    ],
)
def test_max_completion_tokens_wins_over_max_tokens_and_both_over_the_default(
    fields: dict[str, Any], wanted: int
) -> None:
    assert complete(**fields).payload(99).max_tokens == wanted


def test_a_completion_without_style_leaves_the_messages_alone() -> None:
    payload = complete(temperature=0.0, top_p=0.5, seed=3).payload(9)
    assert (payload.style, payload.personality) == (None, None)
    assert payload.sampling == Sampling(temperature=0.0, top_p=0.5, seed=3)


def test_logit_bias_of_a_completion_has_token_ids_as_text_like_openais() -> None:
    payload = complete(logit_bias={"5": -100, "70": 1.5}).payload(9)
    assert payload.sampling == Sampling(logit_bias={5: -100.0, 70: 1.5})
    assert payload.schema == 2
    assert complete(logit_bias=None).payload(9).schema == 1


def test_a_completions_style_travels_as_plain_text() -> None:
    payload = complete(style="expert", personality="concise").payload(9)
    raw = json.loads(payload.to_json())
    assert (raw["style"], raw["personality"]) == ("expert", "concise")


@pytest.fixture
def server() -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.post("/chat")
    async def chat(body: ChatRequest) -> None:
        shipped().resolved(body.payload([], 9))

    @app.post("/complete")
    async def complete(body: CompletionRequest) -> None:
        shipped().resolved(body.payload(9))

    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "changes", "field"),
    [
        ("/chat", {"stop": ["끝", 5]}, "stop.1"),
        ("/chat", {"style": "반말"}, "style"),
        ("/chat", {"logit_bias": {"5": 101}}, "logit_bias.5"),
        ("/chat", {"logit_bias": {"오": 1}}, "logit_bias"),
        ("/chat", {"scripts": ["klingon"]}, "scripts.0"),
        ("/complete", {"style": "반말"}, "style"),
        ("/complete", {"personality": ""}, "personality"),
        ("/complete", {"stop": 5}, "stop"),
        ("/complete", {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ("/complete", {"messages": [{"role": "assistant", "content": "답"}]}, "messages"),
    ],
    ids=str,
)
def test_the_answer_names_the_field_as_the_client_wrote_it(
    server: TestClient, path: str, changes: dict[str, Any], field: str
) -> None:
    body = {"message": "질문"} if path == "/chat" else {"model": "m", "messages": [QUESTION]}
    answer = server.post(path, json=body | changes)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "json_invalid"),
        ('{"message": "질문'.encode(), 400, "json_invalid"),
        (b"", 422, "missing"),
        (b"[]", 422, "wrong_type"),
        (b"5", 422, "wrong_type"),
        (b'{"message": "\xff"}', 400, "refused"),
    ],
    ids=str,
)
def test_a_body_that_is_no_object_gets_an_error_of_our_form(
    server: TestClient, content: bytes, status: int, code: str
) -> None:
    answer = server.post(
        "/chat", content=content, headers={"Content-Type": "application/json", "Accept-Language": "ko"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"code", "message", "field", "remedy", "type", "param"}


@pytest.mark.parametrize(("path", "method", "status"), [("/없음", "GET", 404), ("/chat", "GET", 405)])
def test_a_wrong_address_or_method_gets_an_error_of_our_form(
    server: TestClient, path: str, method: str, status: int
) -> None:
    answer = server.request(method, path, headers={"Accept-Language": "ko"})
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]
