import pytest

from dure.job import JobRecord
from dure_gateway.answers import chat_answer, job_answer, job_error, require_answer
from dure_gateway.problems import Problem


def record(**changes: str) -> JobRecord:
    raw = {"state": "queued", "model": "m", "attempt": "0", "created": "1000", "conversation_id": "c1"}
    return JobRecord.from_hash("j1", raw | changes)


def failed(code: str) -> JobRecord:
    return record(state="failed", finished="2000", error_code=code, error_message="안에서 쓰는 말")


def test_an_unfinished_job_shows_no_answer_yet() -> None:
    answer = job_answer(record(state="running", reply="반만"), None, "ko")
    assert not {"reply", "error", "usage", "timings"} & set(answer)
    assert answer["links"] == {"self": "/v1/jobs/j1", "events": "/v1/jobs/j1/events"}


def test_a_failed_job_shows_its_error_and_an_answered_one_none() -> None:
    error = job_answer(failed("deadline"), None, "ko")["error"]
    assert error["code"] == "deadline"
    assert {"message", "remedy"} <= set(error)
    assert job_answer(record(state="done", finished="2000", reply="답"), None, "ko")["error"] is None


@pytest.mark.parametrize("code", ["deadline", "expired", "internal", "context_overflow", "새 까닭"])
def test_a_failure_is_told_in_the_readers_language_with_the_jobs_own_code(code: str) -> None:
    korean, english = job_error(failed(code), "ko"), job_error(failed(code), "en")
    assert korean is not None
    assert english is not None
    assert korean["code"] == english["code"] == code
    assert korean["message"] != english["message"]


@pytest.mark.parametrize("language", ["ko", "en"])
def test_what_only_the_worker_could_refuse_is_told_with_its_reason(language: str) -> None:
    error = job_error(failed("bad_request"), language)
    assert error is not None
    assert "안에서 쓰는 말" in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_cancelled_answer_says_so_as_its_finish_reason() -> None:
    answer = chat_answer(record(state="cancelled", finished="2000"), "casual")
    assert (answer["finish_reason"], answer["reply"], answer["style"]) == ("cancelled", "", "casual")


@pytest.mark.parametrize(
    ("job", "status"),
    [
        (None, 404),
        (record(state="cancelled", finished="2000"), 409),
        (failed("context_overflow"), 422),
        (failed("deadline"), 504),
        (failed("expired"), 504),
        (failed("bad_request"), 422),
        (failed("internal"), 502),
        (record(state="failed", finished="2000"), 502),
    ],
    ids=range(8),
)
def test_a_job_without_an_answer_has_the_status_of_its_end(job: JobRecord | None, status: int) -> None:
    with pytest.raises(Problem) as caught:
        require_answer(job)
    assert caught.value.status == status


def test_an_answered_job_is_given_on() -> None:
    job = record(state="done", finished="2000", reply="")
    assert require_answer(job) is job
