"""A typed client of the gateway, for threads (`Client`) and for asyncio (`AsyncClient`).

    with dure.Client() as client:
        print(client.chat("안녕하세요!", style="casual").reply)

Requests and answers are described once, in `ChatOptions` and `_read_*`; the two clients only differ in how they wait.
"""

import json
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict, Unpack

import httpx

from dure.errors import ClientError
from dure.persona import Personality, Style

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

    type is accepted, queued, running, start, token, sentence or final. `text` is set for token (a draft) and sentence
    (final text); `reply` for final. After a `start` with attempt > 1 all text before it is void.
    """

    type: str
    text: str = ""
    attempt: int = 0
    queue_position: int | None = None
    job_id: str = ""
    reply: ChatReply | None = None


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

    style: Style | str
    personality: Personality | str
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
            if response.is_error:
                response.read()
                _checked(response)
            reader = _SseReader()
            yield from filter(None, map(reader.feed, response.iter_lines()))

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
            if response.is_error:
                await response.aread()
                _checked(response)
            reader = _SseReader()
            async for line in response.aiter_lines():
                if event := reader.feed(line):
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


class _SseReader:
    """Lines of a text/event-stream into events (WHATWG HTML, 9.2)."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> StreamEvent | None:
        """Return the event that an empty line completes. Raises ClientError for a final event with an error."""
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
    if response.is_success:
        answer: dict[str, Any] = response.json()
        return answer
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        text = f"HTTP {response.status_code} from something that is not dure's gateway: check the address"
        raise ClientError(text, status=response.status_code, code="not_dure") from None
    raise _error(error, response.status_code)


def _error(error: dict[str, Any], status: int) -> ClientError:
    where = f"{error['field']}: " if error.get("field") else ""
    return ClientError(f"{where}{error['message']} {error['remedy']}", status=status, code=error["code"])


def _read_event(name: str, data: dict[str, Any]) -> StreamEvent:
    if name != "final":
        return StreamEvent(
            name,
            data.get("text", ""),
            data.get("attempt", 0),
            data.get("queue_position"),
            data.get("job_id", ""),
        )
    if "error" in data:
        raise _error(data["error"], 200)
    return StreamEvent("final", job_id=data["job_id"], reply=_read_reply(data))


def _read_reply(data: dict[str, Any]) -> ChatReply:
    return ChatReply(**{name: data[name] for name in ChatReply.__dataclass_fields__})


def _read_job(data: dict[str, Any]) -> Job:
    known = {name: data[name] for name in Job.__dataclass_fields__ if name in data}
    return Job(**known, raw=data)
