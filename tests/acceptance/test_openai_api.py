"""The OpenAI-compatible interface, through OpenAI's own Python client."""

from collections.abc import Iterator

import openai
import pytest

from support import Stack

HISTORY = [
    {"role": "system", "content": "짧게 답합니다."},
    {"role": "user", "content": "두레가 뭐예요?"},
    {"role": "assistant", "content": "마을 모임입니다."},
    {"role": "user", "content": "언제 모였나요?"},
]


@pytest.fixture
def client(scripted_stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{scripted_stack.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_served_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]


def test_a_completion_comes_with_reason_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=HISTORY, max_tokens=40)
    choice = answer.choices[0]
    assert "언제 모였나요?" in choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 40


def test_the_alias_dure_names_the_default_model(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="dure", messages=HISTORY, max_tokens=4).model == "scripted"


def test_streamed_deltas_add_up_to_the_answer_without_streaming(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="scripted", messages=HISTORY, max_tokens=60)
    stream = client.chat.completions.create(
        model="scripted", messages=HISTORY, max_tokens=60, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.rstrip() == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 60


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="scripted", messages=HISTORY, stop="두레")
    assert answer.choices[0].finish_reason == "stop"
    assert "두레" not in answer.choices[0].message.content


def test_content_parts_and_the_developer_role_are_understood(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="scripted",
        messages=[
            {"role": "developer", "content": "짧게."},
            {"role": "user", "content": [{"type": "text", "text": "조각 질문"}]},
        ],
        max_tokens=20,
    )
    assert "조각 질문" in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"messages": []}, openai.UnprocessableEntityError, "messages"),
        ({"messages": [{"role": "assistant", "content": "네"}]}, openai.UnprocessableEntityError, "messages"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"temperature": 5}, openai.UnprocessableEntityError, "temperature"),
        ({"n": 2}, openai.UnprocessableEntityError, "n"),
    ],
)
def test_bad_requests_raise_the_clients_own_errors(
    client: openai.OpenAI, change: dict[str, object], error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "scripted", "messages": HISTORY, **change})  # type: ignore[call-overload]
    assert caught.value.param == param
    assert caught.value.body["remedy"]  # type: ignore[index]


def test_an_error_in_the_middle_of_a_stream_is_raised(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "가" * 10_000}]
    with pytest.raises(openai.APIError, match=r"길|long"):
        list(client.chat.completions.create(model="scripted", messages=long, stream=True))


def test_leaving_a_stream_cancels_its_job(client: openai.OpenAI, scripted_stack: Stack) -> None:
    stream = client.chat.completions.create(model="scripted", messages=HISTORY, max_tokens=2000, stream=True)
    job_id = next(iter(stream)).id.removeprefix("chatcmpl-")
    stream.close()
    scripted_stack.wait_for_state(job_id, "cancelled")
