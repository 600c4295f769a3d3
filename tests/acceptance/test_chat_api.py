"""The gateway's own interface, through Redis and Celery to a scripted worker."""

from typing import Any

import httpx
import pytest

from support import Stack, assert_ended_once, sse

QUESTION = "안녕하세요! 오늘 날씨가 어때요?"


@pytest.fixture
def http(scripted_stack: Stack) -> httpx.Client:
    return scripted_stack.http


def test_the_founding_documents_request_is_answered_with_its_fields(http: httpx.Client) -> None:
    body = {"message": QUESTION, "style": "casual", "personality": "helpful", "max_tokens": 40}
    answer = http.post("/api/chat", json=body)
    assert answer.status_code == 200
    data = answer.json()
    assert set(data) >= {"reply", "job_id", "conversation_id", "style", "usage", "timings"}
    assert QUESTION in data["reply"]
    assert data["style"] == "casual"
    assert data["usage"]["completion_tokens"] == 40
    assert data["usage"]["total_tokens"] == data["usage"]["prompt_tokens"] + 40
    assert 0 <= data["timings"]["queued_s"] <= data["timings"]["first_token_s"] <= data["timings"]["total_s"]


def test_the_page_answers_on_the_web_port_and_the_api_port(scripted_stack: Stack) -> None:
    for url in (scripted_stack.url, scripted_stack.web_url):
        page = httpx.get(url)
        assert page.status_code == 200
        assert "두레" in page.text
        assert httpx.get(f"{url}/readyz").json()["ready"]
        assert httpx.get(f"{url}/docs").status_code == 200


def test_a_stream_ends_with_the_answer_that_its_sentences_add_up_to(http: httpx.Client) -> None:
    body = {"message": QUESTION, "stream": True, "max_tokens": 60}
    with http.stream("POST", "/api/chat", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = sse(response.iter_lines())
    names = [name for name, _ in found]
    assert names[0] == "accepted"
    assert names.count("final") == 1
    assert names[-1] == "final"
    reply = found[-1][1]["reply"]
    assert "".join(data["text"] for name, data in found if name == "sentence").rstrip() == reply
    assert [data["seq"] for name, data in found if name in {"token", "sentence"}] == list(
        range(1, names.count("token") + names.count("sentence") + 1)
    )


def test_a_conversation_is_kept_and_given_to_the_worker(http: httpx.Client) -> None:
    first = http.post("/api/chat", json={"message": "첫째 질문", "max_tokens": 20}).json()
    second = http.post(
        "/api/chat",
        json={"message": "둘째 질문", "max_tokens": 20, "conversation_id": first["conversation_id"]},
    ).json()
    alone = http.post("/api/chat", json={"message": "둘째 질문", "max_tokens": 20}).json()
    assert second["conversation_id"] == first["conversation_id"] != alone["conversation_id"]
    assert second["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]


def test_a_submitted_job_says_where_it_stands_and_can_be_followed(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", json={"message": QUESTION, "max_tokens": 30})
    assert answer.status_code == 202
    job = answer.json()
    assert job["status"] in {"queued", "running"}
    assert answer.headers["location"] == job["links"]["self"]
    with http.stream("GET", job["links"]["events"]) as response:
        found = sse(response.iter_lines())
    assert found[-1][0] == "final"
    shown = http.get(job["links"]["self"]).json()
    assert shown["status"] == "done"
    assert shown["reply"] == found[-1][1]["reply"]
    assert shown["queue_position"] is None


def test_events_resume_behind_the_last_event_id(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", json={"message": QUESTION, "max_tokens": 30}).json()
    lines: list[str] = []
    with http.stream("GET", job["links"]["events"]) as response:
        for line in response.iter_lines():
            lines.append(line)
            if sum(text.startswith("event: token") for text in lines) == 2 and not line:
                break
    last_id = [line.removeprefix("id:").strip() for line in lines if line.startswith("id:")][-1]
    with http.stream("GET", job["links"]["events"], headers={"Last-Event-ID": last_id}) as response:
        rest = sse(response.iter_lines())
    before = [data["seq"] for name, data in sse(lines) if name in {"token", "sentence"}]
    after = [data["seq"] for name, data in rest if name in {"token", "sentence"}]
    assert before + after == list(range(1, len(before) + len(after) + 1))
    assert rest[-1][0] == "final"


def test_an_ended_jobs_events_can_still_be_read(http: httpx.Client) -> None:
    job_id = http.post("/api/chat", json={"message": QUESTION, "max_tokens": 10}).json()["job_id"]
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        found = sse(response.iter_lines())
    assert (found[0][0], found[-1][0]) == ("start", "final")


def test_delete_cancels_a_running_job(scripted_stack: Stack) -> None:
    job_id = scripted_stack.submit(QUESTION, max_tokens=2000)
    scripted_stack.wait_for_text(job_id)
    answer = scripted_stack.http.delete(f"/v1/jobs/{job_id}")
    assert answer.status_code == 202
    ended = scripted_stack.wait_for_state(job_id, "cancelled")
    assert ended["usage"]["completion_tokens"] < 2000
    assert_ended_once(scripted_stack.store, job_id, "cancelled")
    assert scripted_stack.http.delete(f"/v1/jobs/{job_id}").status_code == 200


def test_a_client_that_leaves_a_stream_cancels_its_job(scripted_stack: Stack) -> None:
    body = {"message": QUESTION, "max_tokens": 2000, "stream": True}
    with scripted_stack.http.stream("POST", "/api/chat", json=body) as response:
        lines = [line for _, line in zip(range(2), response.iter_lines(), strict=False)]
    ((_, accepted),) = sse(lines)
    scripted_stack.wait_for_state(accepted["job_id"], "cancelled")


def test_a_client_that_does_not_wait_for_its_answer_cancels_its_job(scripted_stack: Stack) -> None:
    known = jobs(scripted_stack)
    with pytest.raises(httpx.ReadTimeout):
        scripted_stack.http.post("/api/chat", json={"message": QUESTION, "max_tokens": 2000}, timeout=3)
    (job_id,) = jobs(scripted_stack) - known
    scripted_stack.wait_for_state(job_id, "cancelled")


def jobs(stack: Stack) -> set[str]:
    return {key.removeprefix("job:") for key in stack.store.redis.scan_iter("job:*", _type="hash")}


def test_the_same_idempotency_key_gives_the_same_job(http: httpx.Client) -> None:
    body, headers = {"message": QUESTION, "max_tokens": 5}, {"Idempotency-Key": "k-1"}
    first, again = (http.post("/v1/jobs", json=body, headers=headers).json() for _ in range(2))
    assert first["job_id"] == again["job_id"]
    other = http.post("/v1/jobs", json={**body, "message": "다른 질문"}, headers=headers)
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_conflict"


BAD_REQUESTS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "missing", "message"),
    ({"message": ""}, "too_short", "message"),
    ({"message": "   "}, "invalid", "message"),
    ({"message": 3}, "wrong_type", "message"),
    ({"message": "가" * 64_001}, "too_long", "message"),
    ({"message": "네", "style": "rude"}, "not_a_choice", "style"),
    ({"message": "네", "style": 5}, "wrong_type", "style"),
    ({"message": "네", "personality": ""}, "not_a_choice", "personality"),
    ({"message": "네", "max_tokens": 0}, "out_of_range", "max_tokens"),
    ({"message": "네", "temperature": 9}, "out_of_range", "temperature"),
    ({"message": "네", "mesage": "오타"}, "unknown_field", "mesage"),
    ({"message": "네", "conversation_id": "a/b"}, "invalid", "conversation_id"),
    ({"message": "네", "model": "gpt-9"}, "model_not_found", "model"),
    ({"message": "네", "stop": ["a"] * 9}, "too_long", "stop"),
]


@pytest.mark.parametrize(("body", "code", "field"), BAD_REQUESTS)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/jobs"])
def test_a_bad_request_is_refused_with_field_reason_and_remedy_and_enqueues_nothing(
    scripted_stack: Stack, path: str, body: dict[str, Any], code: str, field: str
) -> None:
    before = jobs(scripted_stack)
    for language, is_korean in (("ko-KR,ko;q=0.9,en;q=0.5", True), ("en-US", False)):
        answer = scripted_stack.http.post(path, json=body, headers={"Accept-Language": language})
        assert 400 <= answer.status_code < 500
        error = answer.json()["error"]
        assert (error["code"], error["field"]) == (code, field)
        assert error["remedy"]
        assert any("가" <= letter <= "힣" for letter in error["message"]) is is_korean
    assert jobs(scripted_stack) == before


def test_broken_json_is_a_400(http: httpx.Client) -> None:
    answer = http.post("/api/chat", content=b'{"message": ', headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "json_invalid"


def test_bytes_that_are_not_utf8_are_a_400(http: httpx.Client) -> None:
    answer = http.post(
        "/api/chat", content='{"message": "안녕"}'.encode("euc-kr"), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}
    assert answer.json()["error"]["remedy"]


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_over_the_limit_is_a_413(http: httpx.Client, is_announced: bool) -> None:
    big = b'{"message": "' + b"a" * (257 * 1024) + b'"}'
    content = big if is_announced else iter([big[:1000], big[1000:]])
    answer = http.post("/api/chat", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_unknown_jobs_paths_and_methods_answer_in_the_same_shape(http: httpx.Client) -> None:
    for method, path, status, code in (
        ("GET", "/v1/jobs/nothing", 404, "job_not_found"),
        ("DELETE", "/v1/jobs/nothing", 404, "job_not_found"),
        ("GET", "/v1/jobs/nothing/events", 404, "job_not_found"),
        ("GET", "/v1/nowhere", 404, "path_not_found"),
        ("GET", "/api/chat", 405, "method_not_allowed"),
    ):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path


def test_an_unreadable_last_event_id_is_refused(http: httpx.Client) -> None:
    job_id = http.post("/api/chat", json={"message": QUESTION, "max_tokens": 3}).json()["job_id"]
    answer = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "abc"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "last_event_id_invalid")


def test_a_question_too_long_for_the_model_is_the_clients_error(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json={"message": "가" * 10_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "context_overflow")


def test_logs_carry_no_prompt(scripted_stack: Stack) -> None:
    marker = "비밀스러운질문표식"
    scripted_stack.http.post("/api/chat", json={"message": marker, "max_tokens": 20})
    scripted_stack.http.post("/api/chat", json={"message": marker, "style": "rude"})
    for name in ("gateway", "box"):
        text = scripted_stack.log(name).read_text("utf-8")
        assert marker not in text
        assert marker.encode("unicode_escape").decode() not in text
