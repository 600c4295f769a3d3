"""Jobs as clients see them: where they stand, how they ended, and the Problem that says why there is no answer."""

from typing import Annotated, Any

from fastapi import Depends

from dure.job import JobRecord, JobState
from dure_gateway.problems import Problem, language_of
from dure_gateway.texts import Text

# Failures of which a client can do something, by the job's error code: status, text and, where it is the cause, field.
_FAILURES: dict[str, tuple[int, Text, str | None]] = {
    "context_overflow": (422, Text.CONTEXT_OVERFLOW, "message"),
    "expired": (504, Text.JOB_EXPIRED, None),
    "deadline": (504, Text.JOB_LATE, None),
}


Language = Annotated[str, Depends(language_of)]


def require_answer(job: JobRecord | None) -> JobRecord:
    """Raises Problem unless the job was answered."""
    if job is None:
        raise Problem(404, Text.NO_SUCH_JOB, "job_id")
    if job.state is JobState.DONE:
        return job
    if job.state is JobState.CANCELLED:
        raise Problem(409, Text.JOB_CANCELLED)
    raise _failure(job)


def job_error(job: JobRecord, language: str) -> dict[str, Any] | None:
    """Why a job failed, as an error answer would say it; `code` is the job's own. None where it did not fail."""
    if job.error is None:
        return None
    return _failure(job).describe(language) | {"code": job.error.code}


def job_answer(job: JobRecord, queue_position: int | None, language: str) -> dict[str, Any]:
    """A job as `GET /v1/jobs/{id}` shows it."""
    answer: dict[str, Any] = {
        "job_id": job.id,
        "status": job.state.value,
        "model": job.model,
        "conversation_id": job.conversation_id,
        "queue_position": queue_position,
        "attempt": job.attempt,
        "created_at": job.created_s,
        "finished_at": job.finished_s,
        "links": {"self": f"/v1/jobs/{job.id}", "events": f"/v1/jobs/{job.id}/events"},
    }
    if job.state.is_final:
        answer |= {
            "reply": job.reply,
            "finish_reason": job.finish_reason,
            "usage": job.usage.to_dict(),
            "timings": job.timings(),
            "error": job_error(job, language),
        }
    return answer


def chat_answer(job: JobRecord, style: str | None) -> dict[str, Any]:
    """A finished job as `POST /api/chat` answers it."""
    return {
        "reply": job.reply or "",
        "job_id": job.id,
        "conversation_id": job.conversation_id,
        "style": style,
        "finish_reason": job.finish_reason if job.state is JobState.DONE else job.state.value,
        "usage": job.usage.to_dict(),
        "timings": job.timings(),
    }


def _failure(job: JobRecord) -> Problem:
    code = job.error.code if job.error else "unknown"
    if known := _FAILURES.get(code):
        return Problem(*known)
    if job.error and code == "bad_request":
        # Only the worker knows its model: its tokens, for one.
        return Problem(422, Text.INVALID, values={"reason": job.error.message})
    return Problem(502, Text.JOB_FAILED, values={"reason": code, "job_id": job.id})
