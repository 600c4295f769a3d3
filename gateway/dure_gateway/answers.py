"""A job's end, as an HTTP status: an answer, or the Problem that says why there is none."""

from dure.job import JobRecord, JobState
from dure_gateway.problems import Problem
from dure_gateway.texts import Text

_LATE = {"expired", "deadline"}


def require_answer(job: JobRecord | None) -> JobRecord:
    """Raises Problem unless the job was answered."""
    if job is None:
        raise Problem(404, Text.NO_SUCH_JOB, "job_id")
    if job.state is JobState.DONE:
        return job
    if job.state is JobState.CANCELLED:
        raise Problem(409, Text.JOB_CANCELLED)
    raise failure(job)


def failure(job: JobRecord) -> Problem:
    code = job.error.code if job.error else "unknown"
    if code == "context_overflow":
        return Problem(422, Text.CONTEXT_OVERFLOW, "message")
    status = 504 if code in _LATE else 502
    return Problem(status, Text.JOB_FAILED, values={"reason": code, "job_id": job.id})
