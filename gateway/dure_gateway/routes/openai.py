"""/v1/chat/completions and /v1/models, as OpenAI's clients expect them.

Source: OpenAI API reference, "Chat completions" and "Models". Streams carry edited sentences, so that the joined deltas
equal the answer without streaming.
"""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from sse_starlette import ServerSentEvent

from dure.events import Event, EventType
from dure.job import JobRecord, JobState
from dure.job_store import NewJob
from dure_gateway import sse
from dure_gateway.answers import Language, job_error, require_answer
from dure_gateway.schemas import CompletionRequest
from dure_gateway.services import Services, services

router = APIRouter(prefix="/v1", tags=["OpenAI compatible"])

Shared = Annotated[Services, Depends(services)]


@router.get("/models")
async def models(shared: Shared) -> dict[str, Any]:
    names = await to_thread.run_sync(shared.router.models)
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "dure"} for name in names],
    }


@router.post("/chat/completions")
async def complete(body: CompletionRequest, request: Request, shared: Shared, language: Language) -> Any:
    """Answer a conversation that the client keeps. A client that leaves cancels its job, unless `keep` is true."""
    model = await to_thread.run_sync(shared.router.choose_model, body.model)
    payload = shared.personas.resolved(body.payload(shared.settings.max_tokens))
    job = NewJob(uuid.uuid4().hex, payload, model, deadline_s=shared.settings.deadline_s)
    await shared.admit(job)
    if body.stream:
        return sse.response(_stream(shared, job, body, language))
    return await shared.answer(request, job.id, body.keep, lambda ended: _completion(require_answer(ended)))


def _completion(job: JobRecord) -> dict[str, Any]:
    message = {"role": "assistant", "content": job.reply or "", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": job.finish_reason}
    return _frame(job.id, job.model, "chat.completion") | {"choices": [choice], "usage": job.usage.to_dict()}


async def _stream(
    shared: Services, job: NewJob, body: CompletionRequest, language: str
) -> AsyncGenerator[ServerSentEvent]:
    frame = _frame(job.id, job.model, "chat.completion.chunk")
    is_ended = False
    try:
        yield sse.data_only(frame | {"choices": [_choice({"role": "assistant", "content": ""})]})
        said = Said()
        async for item in shared.events.follow(job.id):
            if not isinstance(item, Event):
                continue
            if news := said.take(item):
                yield sse.data_only(frame | {"choices": [_choice({"content": news})]})
            if item.type is EventType.FINAL:
                is_ended = True
                async for chunk in _ending(shared, job.id, frame, body.stream_options.include_usage, language):
                    yield chunk
    finally:
        if not is_ended and not body.keep:
            shared.cancel_soon(job.id)


async def _ending(
    shared: Services, job_id: str, frame: dict[str, Any], include_usage: bool, language: str
) -> AsyncGenerator[ServerSentEvent]:
    ended = await shared.job(job_id)
    if ended.state is JobState.FAILED:
        # A status can no longer be sent; OpenAI's clients raise on a chunk with an error.
        yield sse.data_only({"error": job_error(ended, language)})
        return
    yield sse.data_only(frame | {"choices": [_choice({}, ended.finish_reason or "stop")]})
    if include_usage:
        yield sse.data_only(frame | {"choices": [], "usage": ended.usage.to_dict()})
    yield ServerSentEvent(data="[DONE]")


class Said:
    """Text already sent to a client that cannot take anything back. A second attempt adds only what goes beyond it."""

    def __init__(self) -> None:
        self._sent = ""
        self._text = ""

    def take(self, event: Event) -> str:
        if event.type in {EventType.START, EventType.RESTARTED}:
            self._text = ""
        elif event.type is EventType.SENTENCE:
            self._text += event.text
        if not self._text.startswith(self._sent):
            return ""
        news = self._text[len(self._sent) :]
        self._sent += news
        return news


def _frame(job_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{job_id}", "object": kind, "created": int(time.time()), "model": model}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
