import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from dure.client import AsyncClient, ChatReply, Client, Job, StreamEvent, _SseReader
from dure.errors import ClientError

REPLY = {
    "reply": "두레는 모임입니다.",
    "job_id": "j1",
    "conversation_id": "c1",
    "style": "polite",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    "timings": {"queued_s": 0.1, "first_token_s": None, "total_s": 1.0, "tokens_per_s": None},
}
JOB = {"job_id": "j1", "status": "queued", "model": "m", "queue_position": 0, "links": {"self": "/v1/jobs/j1"}}
ERROR = {"code": "queue_full", "message": "작업이 많습니다.", "field": None, "remedy": "잠시 뒤에 보내 주세요."}


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    kind: str = "application/json"


@dataclass
class Gateway:
    """A web server that records what it is asked, and answers what a test gave it."""

    url: str = ""
    answer: Answer = field(default_factory=Answer)
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)

    def say(self, data: Any, status: int = 200) -> None:
        self.answer = Answer(status, json.dumps(data, ensure_ascii=False).encode())

    def stream(self, text: str) -> None:
        self.answer = Answer(body=text.encode(), kind="text/event-stream; charset=utf-8")


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.asked.append((self.command, self.path, headers, json.loads(content) if content else None))
            self.send_response(state.answer.status)
            self.send_header("Content-Type", state.answer.kind)
            self.send_header("Content-Length", str(len(state.answer.body)))
            self.end_headers()
            self.wfile.write(state.answer.body)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


Call = Callable[..., Any]


def call_blocking(url: str, name: str, *arguments: Any, **options: Any) -> Any:
    with Client(url) as client:
        result = getattr(client, name)(*arguments, **options)
        return list(result) if inspect.isgenerator(result) else result


def call_async(url: str, name: str, *arguments: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(url) as client:
            result = getattr(client, name)(*arguments, **options)
            return [event async for event in result] if inspect.isasyncgen(result) else await result

    return asyncio.run(run())


@pytest.fixture(params=[call_blocking, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Call:
    """One call by either client; streams are read to their end."""
    found: Call = request.param
    return found


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def feed(*lines: str) -> list[StreamEvent]:
    reader = _SseReader()
    return [event for line in lines for event in reader.feed(f"{line}\n")]


def test_an_event_is_complete_at_its_empty_line_and_not_before() -> None:
    reader = _SseReader()
    assert list(reader.feed("event: token\n")) == []
    assert list(reader.feed('data: {"attempt": 1, "text": "두"}\n')) == []
    assert list(reader.feed("\n")) == [StreamEvent("token", text="두", attempt=1)]
    assert list(reader.feed("\n")) == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_chunking_and_any_line_end_give_the_same_events(end: str) -> None:
    text = end.join(
        [
            "event: token",
            'data: {"attempt": 1, "text": "두\u2028레"}',
            "",
            "event: start",
            'data: {"attempt": 2}',
            "",
            "",
        ]
    )
    whole = list(_SseReader().feed(text + "\n"))
    reader = _SseReader()
    assert [event for letter in text + "\n" for event in reader.feed(letter)] == whole
    assert [event.type for event in whole] == ["token", "start"]


def test_data_over_several_lines_is_one_event() -> None:
    assert feed("event: sentence", 'data: {"attempt": 2,', "data:", 'data:"text": "두레: 모임"}', "") == [
        StreamEvent("sentence", text="두레: 모임", attempt=2)
    ]


def test_pings_ids_and_unknown_fields_are_passed_over() -> None:
    lines = [
        ": ping - 2026-01-01",
        "",
        "id: 1-0",
        "retry: 5",
        ":",
        "event:start",
        ": 중간",
        'data:{"attempt":1}',
        "무엇",
        "",
    ]
    assert feed(*lines) == [StreamEvent("start", attempt=1)]


def test_the_name_of_an_event_does_not_stick_to_the_next_one() -> None:
    assert feed("event: start", 'data: {"attempt": 1}', "", 'data: {"text": "두"}', "")[1].type != "start"


def test_a_name_without_data_is_no_event() -> None:
    assert feed("event: token", "", "") == []


def test_a_final_event_carries_the_answer() -> None:
    assert feed("event: final", f"data: {json.dumps(REPLY | {'status': 'done'})}", "") == [
        StreamEvent("final", job_id="j1", reply=ChatReply(**REPLY))  # type: ignore[arg-type]
    ]


def test_a_final_event_with_an_error_is_raised_with_its_code() -> None:
    data = REPLY | {"status": "failed", "error": ERROR | {"code": "deadline"}}
    with pytest.raises(ClientError, match="작업이 많습니다") as caught:
        feed("event: final", f"data: {json.dumps(data)}", "")
    assert caught.value.code == "deadline"


def test_a_stream_is_read_to_its_final_event(gateway: Gateway, call: Call) -> None:
    gateway.stream(
        event("accepted", {"job_id": "j1"})
        + ": ping\n\n"
        + event("queued", {"queue_position": 3})
        + event("start", {"attempt": 1, "worker": "일꾼"})
        + event("token", {"attempt": 1, "seq": 1, "text": "두레\n"})
        + event("final", REPLY)
    )
    events = call(gateway.url, "stream", "안녕")
    assert [e.type for e in events] == ["accepted", "queued", "start", "token", "final"]
    assert events[0].job_id == "j1"
    assert events[1].queue_position == 3
    assert events[3].text == "두레\n"
    assert events[4].reply == ChatReply(**REPLY)  # type: ignore[arg-type]


def test_a_stream_may_use_carriage_returns(gateway: Gateway, call: Call) -> None:
    gateway.stream(event("token", {"attempt": 1, "text": "두레"}).replace("\n", "\r\n"))
    assert call(gateway.url, "stream", "안녕") == [StreamEvent("token", "두레", 1)]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_inside_a_text_does_not_tear_its_event(gateway: Gateway, call: Call, separator: str) -> None:
    gateway.stream(event("token", {"attempt": 1, "text": f"두{separator}레"}))
    assert call(gateway.url, "stream", "안녕") == [StreamEvent("token", f"두{separator}레", 1)]


def test_a_stream_that_ends_in_an_error_raises_it_after_its_events(gateway: Gateway) -> None:
    gateway.stream(event("token", {"attempt": 1, "text": "두"}) + event("final", REPLY | {"error": ERROR}))
    with Client(gateway.url) as client:
        events = client.stream("안녕")
        assert next(events).text == "두"
        with pytest.raises(ClientError) as caught:
            next(events)
    assert caught.value.code == "queue_full"


CALLS = [
    ("chat", "안녕"),
    ("stream", "안녕"),
    ("submit", "안녕"),
    ("job", "j1"),
    ("cancel", "j1"),
]


@pytest.mark.parametrize(("name", "argument"), CALLS)
def test_an_error_answer_is_raised_with_message_remedy_status_and_code(
    gateway: Gateway, call: Call, name: str, argument: str
) -> None:
    gateway.say({"error": ERROR}, 429)
    with pytest.raises(ClientError) as caught:
        call(gateway.url, name, argument)
    assert str(caught.value) == "작업이 많습니다. 잠시 뒤에 보내 주세요."
    assert (caught.value.status, caught.value.code) == (429, "queue_full")


def test_an_error_about_a_field_names_it_first(gateway: Gateway, call: Call) -> None:
    gateway.say({"error": ERROR | {"field": "stop.1"}}, 422)
    with pytest.raises(ClientError, match=r"^stop\.1: 작업이"):
        call(gateway.url, "chat", "안녕")


@pytest.mark.parametrize(("name", "argument"), CALLS)
@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, "<html>없음</html>".encode(), "text/html; charset=utf-8"),
        Answer(502, b""),
        Answer(500, b"\xff\xfe\xfa"),
        Answer(404, b'{"detail": "Not Found"}'),
        Answer(404, b'["error"]'),
        Answer(404, b"null"),
        Answer(302, b""),
    ],
    ids=range(7),
)
def test_an_error_of_another_kind_of_server_says_to_check_the_address(
    gateway: Gateway, call: Call, answer: Answer, name: str, argument: str
) -> None:
    gateway.answer = answer
    with pytest.raises(ClientError, match="check the address") as caught:
        call(gateway.url, name, argument)
    assert (caught.value.status, caught.value.code) == (answer.status, "not_dure")


@pytest.mark.parametrize(
    "error",
    ["model not found", ["틀림"], {"message": "Invalid API key", "type": "invalid_request_error"}, {}, None],
    ids=str,
)
def test_an_error_answer_that_is_not_of_our_form_says_to_check_the_address(
    gateway: Gateway, call: Call, error: Any
) -> None:
    gateway.say({"error": error}, 404)
    with pytest.raises(ClientError) as caught:
        call(gateway.url, "chat", "안녕")
    assert caught.value.code == "not_dure"


@pytest.mark.parametrize(("name", "argument"), [("chat", "안녕"), ("job", "j1")])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"status": "ok"}'])
def test_a_success_of_another_kind_of_server_says_to_check_the_address(
    gateway: Gateway, call: Call, body: bytes, name: str, argument: str
) -> None:
    gateway.answer = Answer(200, body, "text/html")
    with pytest.raises(ClientError) as caught:
        call(gateway.url, name, argument)
    assert caught.value.code == "not_dure"


def test_nobody_there_is_a_transport_error(gateway: Gateway, call: Call) -> None:
    with pytest.raises(httpx.TransportError):
        call("http://127.0.0.1:1", "chat", "안녕")


ASKED = [
    ("chat", ("안녕",), {}, REPLY),
    ("chat", ("안녕",), {"style": "casual", "personality": "clerk"}, REPLY),
    ("chat", ("안녕",), {"conversation_id": None, "model": None, "seed": 0, "temperature": 0.0, "stop": []}, REPLY),
    ("stream", ("또 안녕",), {"style": "expert", "max_tokens": 5}, REPLY),
    ("submit", ("나중에",), {"conversation_id": "c1"}, JOB),
    ("submit", ("나중에",), {"idempotency_key": "k-1", "stop": ["끝"]}, JOB),
    ("job", ("j1",), {}, JOB),
    ("cancel", ("j1",), {}, JOB),
]


@pytest.mark.parametrize(("name", "arguments", "options", "answer"), ASKED, ids=range(len(ASKED)))
def test_both_clients_ask_the_same(
    gateway: Gateway, name: str, arguments: tuple[str], options: dict[str, Any], answer: Any
) -> None:
    gateway.say(answer)
    results = [
        call_blocking(gateway.url, name, *arguments, **options),
        call_async(gateway.url, name, *arguments, **options),
    ]
    assert results[0] == results[1]
    (_, _, first_headers, _), (_, _, second_headers, _) = gateway.asked
    assert gateway.asked[0][:2] == gateway.asked[1][:2]
    assert gateway.asked[0][3] == gateway.asked[1][3]
    compared = ("accept-language", "content-type", "idempotency-key")
    assert [first_headers.get(name) for name in compared] == [second_headers.get(name) for name in compared]


def test_a_question_is_sent_with_what_was_named_and_nothing_else(gateway: Gateway, call: Call) -> None:
    gateway.say(REPLY)
    call(gateway.url, "chat", "안녕", style="casual", temperature=0.0, model=None)
    method, path, headers, body = gateway.asked[0]
    assert (method, path) == ("POST", "/api/chat")
    assert body == {"message": "안녕", "style": "casual", "temperature": 0.0}
    assert headers["accept-language"] == "ko"


def test_a_stream_is_asked_for_as_one(gateway: Gateway, call: Call) -> None:
    call(gateway.url, "stream", "안녕")
    assert gateway.asked[0][3] == {"message": "안녕", "stream": True}


@pytest.mark.parametrize(
    ("options", "sent"), [({}, None), ({"idempotency_key": ""}, None), ({"idempotency_key": "k-1"}, "k-1")]
)
def test_an_idempotency_key_is_sent_only_when_given(
    gateway: Gateway, call: Call, options: dict[str, str], sent: str | None
) -> None:
    gateway.say(JOB, 202)
    call(gateway.url, "submit", "안녕", **options)
    _, path, headers, body = gateway.asked[0]
    assert path == "/v1/jobs"
    assert headers.get("idempotency-key") == sent
    assert body == {"message": "안녕"}


def test_a_job_is_read_with_what_this_release_does_not_know_left_aside(gateway: Gateway, call: Call) -> None:
    gateway.say(JOB | {"새것": 1})
    job = call(gateway.url, "job", "j1")
    assert job == Job("j1", "queued", "m", queue_position=0, raw=JOB | {"새것": 1})
    assert [asked[:2] for asked in gateway.asked] == [("GET", "/v1/jobs/j1")]
    call(gateway.url, "cancel", "j1")
    assert gateway.asked[1][:2] == ("DELETE", "/v1/jobs/j1")


def test_an_answer_with_more_than_this_release_knows_is_still_read(gateway: Gateway, call: Call) -> None:
    gateway.say(REPLY | {"새것": 1})
    assert call(gateway.url, "chat", "안녕").reply == "두레는 모임입니다."
