"""Server-sent events in our own form and in OpenAI's."""

import json
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent

from dure.events import Event, EventType
from dure.job import JobRecord

# Proxies drop silent connections after about a minute.
_PING_S = 15


def response(events: Any) -> EventSourceResponse:
    return EventSourceResponse(events, ping=_PING_S, headers={"X-Accel-Buffering": "no"})


def text_event(event: Event) -> ServerSentEvent:
    """A start, restarted, token or sentence event; its id is what Last-Event-ID takes."""
    data: dict[str, Any] = {"attempt": event.attempt}
    if event.type in {EventType.START, EventType.RESTARTED}:
        data["worker"] = event.worker
    else:
        data |= {"seq": event.seq, "text": event.text}
    if event.type is EventType.SENTENCE:
        data["replaces"] = event.replaces
    return named(event.type.value, data, event.id)


def queued_event(job: JobRecord, position: int | None) -> ServerSentEvent:
    return named(job.state.value, {"queue_position": position})


def named(name: str, data: dict[str, Any], event_id: str | None = None) -> ServerSentEvent:
    return ServerSentEvent(data=_json(data), event=name, id=event_id)


def data_only(data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=_json(data))


def _json(data: dict[str, Any]) -> str:
    # Many clients split lines at U+2028 and its like too, which raw JSON may hold; escaped, these never end a line.
    text = json.dumps(data, ensure_ascii=False)
    return text.translate({0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"})
