"""POST /api/chat: one question, one answer, with the conversation kept here."""

import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Request
from sse_starlette import ServerSentEvent

from dure import keys
from dure.events import Event, EventType
from dure.job import JobState
from dure.job_store import NewJob
from dure_gateway import sse
from dure_gateway.answers import Language, chat_answer, job_error, require_answer
from dure_gateway.problems import Problem
from dure_gateway.schemas import ChatRequest, StreamingChatRequest
from dure_gateway.services import Services, services
from dure_gateway.texts import Text

router = APIRouter(tags=["chat"])

_LONGEST_IDEMPOTENCY_KEY = 200

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key")]


@router.post("/api/chat")
async def chat(
    body: StreamingChatRequest,
    request: Request,
    shared: Annotated[Services, Depends(services)],
    language: Language,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Answer one message. A client that leaves before the end cancels its job, unless `keep` is true."""
    job = await prepare(shared, body, idempotency_key)
    ticket = await shared.admit(job)
    style = job.payload.style
    if body.stream:
        return sse.response(_stream(shared, ticket.job_id, style, language, keep=body.keep))
    return await shared.answer(
        request, ticket.job_id, body.keep, lambda ended: chat_answer(require_answer(ended), style)
    )


async def prepare(shared: Services, body: ChatRequest, idempotency_key: str | None) -> NewJob:
    """The job for a question: model and persona chosen, conversation so far put before it."""
    if idempotency_key is not None and not _is_key(idempotency_key):
        raise Problem(422, Text.BAD_IDEMPOTENCY_KEY, "Idempotency-Key")
    model = await to_thread.run_sync(shared.router.choose_model, body.model)
    conversation_id = body.conversation_id or uuid.uuid4().hex
    key = keys.conversation(keys.DEFAULT_TENANT, conversation_id)
    history = await to_thread.run_sync(shared.store.conversation, key) if body.conversation_id else []
    return NewJob(
        id=uuid.uuid4().hex,
        payload=shared.personas.resolved(body.payload(history, shared.settings.max_tokens)),
        model=model,
        conversation_id=conversation_id,
        idempotency_key=idempotency_key,
        # Not the payload: its history grows when the first of two same requests is answered in between.
        request=body.as_sent(),
        deadline_s=shared.settings.deadline_s,
    )


def _is_key(value: str) -> bool:
    return 0 < len(value) <= _LONGEST_IDEMPOTENCY_KEY and value.isascii() and value.isprintable()


async def _stream(
    shared: Services, job_id: str, style: str | None, language: str, *, keep: bool
) -> AsyncGenerator[ServerSentEvent]:
    is_ended = False
    try:
        yield sse.named("accepted", {"job_id": job_id})
        async for item in shared.events.follow(job_id):
            if not isinstance(item, Event):
                yield sse.queued_event(item, await shared.position(item))
            elif item.type is EventType.FINAL:
                is_ended = True
                yield await _final(shared, job_id, style, language, item)
            else:
                yield sse.text_event(item)
    finally:
        if not is_ended and not keep:
            shared.cancel_soon(job_id)


async def _final(shared: Services, job_id: str, style: str | None, language: str, event: Event) -> ServerSentEvent:
    """The answer as without streaming; a failed job carries the same error object as an HTTP answer would."""
    job = await shared.job(job_id)
    answer = chat_answer(job, style) | {"status": job.state.value}
    if job.state is JobState.FAILED:
        answer["error"] = job_error(job, language)
    return sse.named("final", answer, event.id)
