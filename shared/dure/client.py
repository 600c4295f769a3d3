"""A typed client of the gateway, for threads (`Client`) and for asyncio (`AsyncClient`).

    with dure.Client() as client:
        print(client.chat("안녕하세요!", style="casual").reply)

Requests and answers are described once, in `ChatOptions` and `_read_*`; the two clients only differ in how they wait.
"""

import json
import re
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict, Unpack

import httpx

from dure.errors import ClientError
from dure.job import Overflow
from dure.writing import Script

DEFAULT_URL = "http://127.0.0.1:8000"
# An answer may wait in the queue for minutes; the gateway's own deadline ends it.
_TIMEOUT = httpx.Timeout(600, connect=5)


@dataclass(frozen=True)
class ChatReply:
    """An answer. Times in seconds; a time is None where the job did not get so far."""

    reply: str
    job_id: str
    conversation_id: str
    style: str
    finish_reason: str | None
    usage: dict[str, int]
    timings: dict[str, float | None]


@dataclass(frozen=True)
class StreamEvent:
    """One event of a streaming answer.

    type is accepted, queued, running, start, restarted, token, sentence or final. `text` is set for token (a draft) and
    sentence (final text, in place of the next `replaces` code points of the draft); `reply` for final. After
    `restarted` all text before it is void; what stays of it follows.
    """

    type: str
    text: str = ""
    attempt: int = 0
    queue_position: int | None = None
    job_id: str = ""
    reply: ChatReply | None = None
    replaces: int = 0


@dataclass(frozen=True)
class Job:
    """A job as /v1/jobs shows it; `reply` and `error` once it has ended."""

    job_id: str
    status: str
    model: str
    conversation_id: str | None = None
    queue_position: int | None = None
    attempt: int = 0
    reply: str | None = None
    error: dict[str, str] | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


class ChatOptions(TypedDict, total=False):
    """Fields of `POST /api/chat` beside the message; the gateway's defaults stand in for what is left out."""

    style: str
    personality: str
    conversation_id: str | None
    model: str | None
    max_tokens: int
    stop: list[str]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    logit_bias: dict[int, float]
    scripts: list[Script | str]
    overflow: Overflow
    keep: bool


class Client:
    """Blocking client. Every call raises ClientError for an error answer, httpx.TransportError when nobody answers."""

    def __init__(self, url: str = DEFAULT_URL, *, language: str = "ko") -> None:
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT, headers={"Accept-Language": language})

    def chat(self, message: str, **options: Unpack[ChatOptions]) -> ChatReply:
        return _read_reply(_checked(self._http.post("/api/chat", json=_body(message, options))))

    def stream(self, message: str, **options: Unpack[ChatOptions]) -> Generator[StreamEvent]:
        """Yield events up to the final one. Closing the generator early cancels the job."""
        body = _body(message, options) | {"stream": True}
        with self._http.stream("POST", "/api/chat", json=body) as response:
            if not response.is_success:
                response.read()
                _checked(response)
            reader = _SseReader()
            for chunk in response.iter_text():
                yield from reader.feed(chunk)

    def submit(self, message: str, *, idempotency_key: str = "", **options: Unpack[ChatOptions]) -> Job:
        body, headers = _body(message, options), _key(idempotency_key)
        return _read_job(_checked(self._http.post("/v1/jobs", json=body, headers=headers)))

    def job(self, job_id: str) -> Job:
        return _read_job(_checked(self._http.get(f"/v1/jobs/{job_id}")))

    def cancel(self, job_id: str) -> Job:
        return _read_job(_checked(self._http.delete(f"/v1/jobs/{job_id}")))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio."""

    def __init__(self, url: str = DEFAULT_URL, *, language: str = "ko") -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, headers={"Accept-Language": language})

    async def chat(self, message: str, **options: Unpack[ChatOptions]) -> ChatReply:
        return _read_reply(_checked(await self._http.post("/api/chat", json=_body(message, options))))

    async def stream(self, message: str, **options: Unpack[ChatOptions]) -> AsyncGenerator[StreamEvent]:
        """Yield events up to the final one. Closing the generator early cancels the job."""
        body = _body(message, options) | {"stream": True}
        async with self._http.stream("POST", "/api/chat", json=body) as response:
            if not response.is_success:
                await response.aread()
                _checked(response)
            reader = _SseReader()
            async for chunk in response.aiter_text():
                for event in reader.feed(chunk):
                    yield event

    async def submit(self, message: str, *, idempotency_key: str = "", **options: Unpack[ChatOptions]) -> Job:
        body, headers = _body(message, options), _key(idempotency_key)
        return _read_job(_checked(await self._http.post("/v1/jobs", json=body, headers=headers)))

    async def job(self, job_id: str) -> Job:
        return _read_job(_checked(await self._http.get(f"/v1/jobs/{job_id}")))

    async def cancel(self, job_id: str) -> Job:
        return _read_job(_checked(await self._http.delete(f"/v1/jobs/{job_id}")))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


# A CR at the very end may be half of a CRLF, and waits for what follows.
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")


class _SseReader:
    """A text/event-stream into events (WHATWG HTML, 9.2). Only CR, LF and both together end a line."""

    def __init__(self) -> None:
        self._rest = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: str) -> Iterator[StreamEvent]:
        """Yield the events that are complete now. Raises ClientError at a final event with an error."""
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        yield from filter(None, map(self._line, lines))

    def _line(self, line: str) -> StreamEvent | None:
        if not line:
            name, data = self._name, "\n".join(self._data)
            self._name, self._data = "", []
            return _read_event(name, json.loads(data)) if data else None
        key, _, value = line.partition(":")
        if key == "event":
            self._name = value.strip()
        elif key == "data":
            self._data.append(value.removeprefix(" "))
        return None


def _body(message: str, options: ChatOptions) -> dict[str, Any]:
    return {"message": message} | {name: value for name, value in options.items() if value is not None}


def _key(idempotency_key: str) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}


def _checked(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object. Raises ClientError for an error, and for anything that is not dure's."""
    try:
        answer: dict[str, Any] = response.json()
        if response.is_success and isinstance(answer, dict):
            return answer
        error = _error(answer["error"], response.status_code)
    except (ValueError, KeyError, TypeError):
        error = _not_dure(response.status_code)
    raise error


def _error(error: dict[str, Any], status: int) -> ClientError:
    where = f"{error['field']}: " if error["field"] else ""
    return ClientError(f"{where}{error['message']} {error['remedy']}", status=status, code=error["code"])


def _not_dure(status: int) -> ClientError:
    text = f"HTTP {status} from something that is not dure's gateway: check the address"
    return ClientError(text, status=status, code="not_dure")


def _read_event(name: str, data: dict[str, Any]) -> StreamEvent:
    if name != "final":
        return StreamEvent(
            name,
            data.get("text", ""),
            data.get("attempt", 0),
            data.get("queue_position"),
            data.get("job_id", ""),
            replaces=data.get("replaces", 0),
        )
    if "error" in data:
        raise _error(data["error"], httpx.codes.OK)
    return StreamEvent("final", job_id=data["job_id"], reply=_read_reply(data))


def _read_reply(data: dict[str, Any]) -> ChatReply:
    try:
        return ChatReply(**{name: data[name] for name in ChatReply.__dataclass_fields__})
    except KeyError:
        raise _not_dure(httpx.codes.OK) from None


def _read_job(data: dict[str, Any]) -> Job:
    try:
        return Job(**{name: data[name] for name in Job.__dataclass_fields__ if name in data}, raw=data)
    except TypeError:
        raise _not_dure(httpx.codes.OK) from None
