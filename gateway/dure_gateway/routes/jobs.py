"""/v1/jobs: submit now, read the answer when it is there."""

import re
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Response
from sse_starlette import ServerSentEvent

from dure.events import Event, EventType
from dure.job_store import CancelReply
from dure_gateway import sse
from dure_gateway.answers import Language, job_answer
from dure_gateway.problems import Problem
from dure_gateway.routes.chat import IdempotencyKey, prepare
from dure_gateway.schemas import ChatRequest
from dure_gateway.services import Services, services
from dure_gateway.texts import Text

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Shared = Annotated[Services, Depends(services)]


@router.post("", status_code=202)
async def submit(
    body: ChatRequest,
    response: Response,
    shared: Shared,
    language: Language,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Accept a question. It is recorded before this answers, and will be answered however long workers are away."""
    ticket = await shared.admit(await prepare(shared, body, idempotency_key))
    job = await shared.job(ticket.job_id)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job_answer(job, await shared.position(job), language)


@router.get("/{job_id}")
async def show(job_id: str, shared: Shared, language: Language) -> dict[str, Any]:
    job = await shared.job(job_id)
    return job_answer(job, await shared.position(job), language)


@router.get("/{job_id}/events")
async def events(
    job_id: str,
    shared: Shared,
    language: Language,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Any:
    """Server-sent events: queued, start, token, sentence, final. Leaving cancels nothing; Last-Event-ID resumes."""
    if last_event_id is not None and not re.fullmatch(r"\d{1,20}-\d{1,20}", last_event_id):
        raise Problem(422, Text.BAD_EVENT_ID, "Last-Event-ID")
    await shared.job(job_id)
    return sse.response(_follow(shared, job_id, last_event_id or "0", language))


@router.delete("/{job_id}")
async def cancel(job_id: str, response: Response, shared: Shared, language: Language) -> dict[str, Any]:
    """Cancel. 200: it has ended (perhaps before); 202: its worker is stopping it."""
    reply = await to_thread.run_sync(shared.store.cancel, job_id)
    if reply is CancelReply.GONE:
        raise Problem(404, Text.NO_SUCH_JOB, "job_id")
    response.status_code = 202 if reply is CancelReply.REQUESTED else 200
    job = await shared.job(job_id)
    return job_answer(job, await shared.position(job), language)


async def _follow(shared: Services, job_id: str, after: str, language: str) -> AsyncGenerator[ServerSentEvent]:
    async for item in shared.events.follow(job_id, after):
        if not isinstance(item, Event):
            yield sse.queued_event(item, await shared.position(item))
        elif item.type is EventType.FINAL:
            yield sse.named("final", job_answer(await shared.job(job_id), None, language), item.id)
        else:
            yield sse.text_event(item)
