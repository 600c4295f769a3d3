"""The whole road with real weights: the 0.5B answers through Redis and Celery, in the engine that `auto` takes."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.cpu import Cpu
from dure.worker_registry import WorkerRegistry
from support import Stack, assert_ended_once, events

pytestmark = pytest.mark.weights
QUESTION = "안녕하세요! 오늘 날씨가 어때요?"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("real")
    with Stack(folder) as stack:
        stack.environ |= {
            "DURE_HOME": str(small_model.parents[2]),
            "DURE_MODEL": small_model.parent.name,
            "DURE_WORKER_ENGINE": "auto",
            "DURE_WORKER_SLOTS": "2",
            "DURE_WORKER_CONTEXT": "512",
        }
        stack.model = small_model.parent.name
        stack.worker = stack.start_worker("real")
        yield stack


def ask(stack: Stack, message: str, **fields: object) -> dict[str, object]:
    answer = stack.http.post("/api/chat", json={"message": message, "model": stack.model, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def num_hangul(text: str) -> int:
    return sum("가" <= letter <= "힣" for letter in text)


def test_the_founding_documents_question_gets_a_korean_answer(stack: Stack) -> None:
    data = ask(stack, QUESTION, style="casual", personality="helpful", max_tokens=64, seed=1)
    reply = str(data["reply"])
    assert num_hangul(reply) >= 5
    assert "\ufffd" not in reply
    assert unicodedata.is_normalized("NFC", reply)
    assert_ended_once(stack.store, str(data["job_id"]), "done")
    assert {event.worker for event in events(stack.store, str(data["job_id"])) if event.worker} == {"real"}


def test_the_engine_that_was_taken_is_announced_and_its_reason_logged_once(stack: Stack) -> None:
    [worker] = [each for each in WorkerRegistry(stack.store.redis).live() if each.name == "real"]
    lines = [
        json.loads(line) for line in stack.log("real").read_text("utf-8").splitlines() if '"worker.engine"' in line
    ]
    assert [line["engine"] for line in lines] == [worker.engine]
    assert lines[0]["reason"]
    if not Cpu.here().flags & {"avx512_vnni", "avx_vnni"}:
        assert worker.engine == "llama"


def test_a_conversation_longer_than_the_context_goes_on(stack: Stack) -> None:
    conversation = None
    for number in range(6):
        data = ask(
            stack,
            f"{number}번째 이야기입니다. " + "두레는 마을 사람들이 힘을 모아 농사일을 하던 모임입니다. " * 5,
            max_tokens=32,
            conversation_id=conversation,
        )
        conversation = data["conversation_id"]
        assert data["reply"]


def test_a_question_over_the_context_is_refused_clearly(stack: Stack) -> None:
    answer = stack.http.post("/api/chat", json={"message": "긴 질문입니다. " * 500, "model": stack.model})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "context_overflow")


def test_cancel_stops_the_real_engine(stack: Stack) -> None:
    job_id = stack.submit("1부터 300까지 차례로 모두 써 주세요.", max_tokens=400, model=stack.model)
    stack.wait_for_text(job_id)
    stack.http.delete(f"/v1/jobs/{job_id}")
    job = stack.wait_for_state(job_id, "cancelled", "done")
    assert job["status"] == "cancelled"
    assert_ended_once(stack.store, job_id, "cancelled")


def test_a_worker_killed_in_the_middle_goes_on_with_the_same_answer(stack: Stack) -> None:
    question = "김치찌개 끓이는 법을 자세히 알려 주세요."
    job_ids = [stack.submit(question, max_tokens=160, model=stack.model) for _ in range(2)]
    for job_id in job_ids:
        stack.wait_for_text(job_id)
    stack.worker.kill()
    stack.start_worker("second")
    for job_id in job_ids:
        assert stack.wait_for_state(job_id, "done", "failed")["status"] == "done"
        assert_ended_once(stack.store, job_id, "done")
