import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.job import SCHEMA, JobPayload, JobRecord, JobState, Message, PayloadError, Persona, Sampling, Usage
from dure.job_store import NewJob

PROPERTY = settings(deadline=None, max_examples=150, derandomize=True)
QUESTION = Message("user", "두레가 뭐예요? 😀")

texts = st.one_of(
    st.text(),
    st.text(alphabet="가각힣ㄱㅏ한글 \n\"'\\{}😀👩‍👩‍👧\u1112\u1161\u11ab\u2028\x00\ufffd"),
)
floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(st.none(), floats)
payloads = st.builds(
    JobPayload,
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1),
    style=st.one_of(st.none(), texts),
    personality=st.one_of(st.none(), texts),
    max_tokens=st.integers(1, 4096),
    stop=st.lists(texts, max_size=8),
    sampling=st.builds(
        Sampling,
        numbers,
        numbers,
        st.one_of(st.none(), st.integers()),
        numbers,
        numbers,
        st.one_of(st.none(), st.integers()),
        numbers,
        numbers,
        st.one_of(st.none(), st.integers()),
        st.one_of(st.none(), st.dictionaries(st.integers(), floats)),
        st.one_of(st.none(), st.lists(texts)),
    ),
    persona=st.one_of(
        st.none(),
        st.builds(
            Persona,
            texts,
            st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), texts), max_size=2),
            st.sampled_from([None, "formal", "polite", "plain"]),
        ),
    ),
)


def raw_payload(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(JobPayload([QUESTION]).to_json())
    return raw | changes


@PROPERTY
@given(payloads)
def test_a_payload_comes_back_from_json_as_it_was(payload: JobPayload) -> None:
    text = payload.to_json()
    assert JobPayload.from_json(text) == payload
    assert JobPayload.from_json(text).to_json() == text


def test_korean_stays_readable_in_a_payload() -> None:
    assert "두레가 뭐예요? 😀" in JobPayload([QUESTION]).to_json()


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99, 10**30])
def test_a_newer_schema_is_refused_with_the_advice_to_update(schema: int) -> None:
    with pytest.raises(PayloadError, match=f"schema {schema}.*knows {SCHEMA}.*update"):
        JobPayload.from_json(json.dumps(raw_payload(schema=schema)))


def test_a_newer_schema_is_named_as_such_although_its_other_fields_are_strange() -> None:
    with pytest.raises(PayloadError, match="update"):
        JobPayload.from_json(json.dumps({"schema": SCHEMA + 1, "turns": [["질문", "답"]]}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "두레",
        "null",
        "[]",
        "{}",
        "1",
        '"글"',
        "{",
        '{"schema":1',
        '{"schema":1}',
        "NaN",
        "1" * 5000,
        "[" * 100_000,
        '{"schema":' + "[" * 100_000,
        "\ud800",
    ],
    ids=range(15),
)
def test_what_is_no_payload_at_all_is_a_payload_error(text: str) -> None:
    with pytest.raises(PayloadError):
        JobPayload.from_json(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": None},
        {"schema": "1"},
        {"schema": []},
        {"messages": None},
        {"messages": 5},
        {"messages": "질문"},
        {"messages": ["질문"]},
        {"messages": [None]},
        {"messages": [{}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": "질문", "name": "철수"}]},
        {"sampling": None},
        {"sampling": "뜨겁게"},
        {"sampling": {"temperatur": 1}},
        {"no_such_field": 1},
    ],
    ids=str,
)
def test_a_payload_of_the_wrong_shape_is_a_payload_error(changes: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match="cannot be read"):
        JobPayload.from_json(json.dumps(raw_payload(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"messages": {}},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": ["질문"]}]},
        {"messages": [{"role": "tool", "content": "질문"}]},
        {"max_tokens": "많이"},
        {"max_tokens": None},
        {"stop": "끝"},
        {"stop": [1]},
        {"style": 7},
        {"sampling": {"temperature": "뜨겁게"}},
    ],
    ids=str,
)
def test_a_payload_with_values_of_the_wrong_kind_is_a_payload_error(changes: dict[str, Any]) -> None:
    with pytest.raises(PayloadError):
        JobPayload.from_json(json.dumps(raw_payload(**changes)))


@PROPERTY
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda part: st.lists(part) | st.dictionaries(texts, part),
    )
)
def test_any_json_that_is_no_payload_gives_a_payload_error_and_nothing_else(value: Any) -> None:
    with pytest.raises(PayloadError):
        JobPayload.from_json(json.dumps(value))


@PROPERTY
@given(payloads, st.data())
def test_a_payload_that_broke_off_gives_a_payload_error(payload: JobPayload, data: st.DataObject) -> None:
    text = payload.to_json()
    with pytest.raises(PayloadError):
        JobPayload.from_json(text[: data.draw(st.integers(0, len(text) - 1))])


def test_the_error_about_a_payload_does_not_repeat_the_question() -> None:
    with pytest.raises(PayloadError) as caught:
        JobPayload.from_json(json.dumps(raw_payload(messages=[{"role": "user", "text": "비밀 이야기"}])))
    assert "비밀" not in str(caught.value)


def test_a_payload_from_an_older_client_gets_todays_defaults() -> None:
    raw = {"schema": 1, "messages": [{"role": "user", "content": "질문"}], "sampling": {}}
    assert JobPayload.from_json(json.dumps(raw)) == JobPayload([Message("user", "질문")])


OLD_FIELDS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"]


def test_a_job_that_uses_nothing_new_is_written_as_older_workers_read_it() -> None:
    raw = raw_payload()
    assert raw["schema"] == 1
    assert list(raw["sampling"]) == OLD_FIELDS


@pytest.mark.parametrize(
    "new",
    [
        {"dry_multiplier": 0.8},
        {"dry_base": 1.75},
        {"dry_allowed_length": 2},
        {"logit_bias": {7: -100.0}},
        {"logit_bias": {}},
        {"scripts": ["hangul", "latin"]},
    ],
    ids=str,
)
def test_a_job_with_newer_sampling_is_left_to_workers_that_know_it(new: dict[str, Any]) -> None:
    payload = JobPayload([QUESTION], sampling=Sampling(**new))
    raw = json.loads(payload.to_json())
    assert payload.schema == raw["schema"] == 2
    assert sorted(raw["sampling"]) == sorted([*OLD_FIELDS, *new])
    assert JobPayload.from_json(payload.to_json()) == payload


def test_a_job_that_may_outgrow_its_slot_is_left_to_workers_that_know_that() -> None:
    payload = JobPayload([QUESTION], overflow="window")
    assert payload.schema == 2
    assert JobPayload.from_json(payload.to_json()) == payload
    assert "overflow" not in raw_payload()
    with pytest.raises(PayloadError, match="cannot be read"):
        JobPayload.from_json(json.dumps(raw_payload(schema=2, overflow="forget")))


@pytest.mark.parametrize(
    "new",
    [
        {"logit_bias": {"일": 1}},
        {"logit_bias": {"1.5": 1}},
        {"logit_bias": {"1": "1"}},
        {"logit_bias": [1]},
        {"scripts": "hangul"},
        {"scripts": [1]},
        {"dry_multiplier": "0.8"},
        {"dry_allowed_length": 1.5},
    ],
    ids=str,
)
def test_newer_sampling_of_the_wrong_kind_is_a_payload_error(new: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match="cannot be read"):
        JobPayload.from_json(json.dumps(raw_payload(schema=2, sampling=new)))


def test_payloads_do_not_share_their_default_lists() -> None:
    first, second = JobPayload([QUESTION]), JobPayload([QUESTION])
    first.stop.append("끝")
    assert second.stop == []


@pytest.mark.parametrize(
    ("state", "is_final"),
    [("queued", False), ("running", False), ("done", True), ("failed", True), ("cancelled", True)],
)
def test_done_failed_and_cancelled_are_the_final_states(state: str, is_final: bool) -> None:
    assert JobState(state).is_final is is_final


def test_a_job_that_nobody_took_yet_has_no_times_no_answer_and_no_error() -> None:
    job = JobRecord.from_hash("j1", {"state": "queued", "model": "m", "attempt": "0", "created": "1700000000500"})
    assert job.state is JobState.QUEUED
    assert job.created_s == 1_700_000_000.5
    assert (job.started_s, job.first_token_s, job.finished_s) == (None, None, None)
    assert (job.reply, job.finish_reason, job.error, job.owner, job.conversation_id) == (None,) * 5
    assert job.usage == Usage(0, 0)
    assert not job.is_cancel_requested
    assert set(job.timings().values()) == {None}


FULL = {
    "state": "done",
    "model": "m",
    "attempt": "2",
    "cancel": "1",
    "created": "1000000",
    "started": "1001250",
    "first_token": "1002000",
    "finished": "1004000",
    "owner": "일꾼:1",
    "conversation_id": "c1",
    "reply": "두레는 모임입니다.",
    "finish_reason": "stop",
    "prompt_tokens": "30",
    "completion_tokens": "21",
    "error_code": "",
    "error_message": "",
}


def test_a_full_hash_is_read_field_by_field() -> None:
    assert JobRecord.from_hash("j1", FULL) == JobRecord(
        id="j1",
        state=JobState.DONE,
        model="m",
        attempt=2,
        is_cancel_requested=True,
        created_s=1000.0,
        started_s=1001.25,
        first_token_s=1002.0,
        finished_s=1004.0,
        owner="일꾼:1",
        conversation_id="c1",
        reply="두레는 모임입니다.",
        finish_reason="stop",
        usage=Usage(30, 21),
        error=None,
    )


@pytest.mark.parametrize("field", ["started", "first_token", "finished", "owner", "conversation_id", "finish_reason"])
def test_an_empty_field_of_the_hash_reads_like_a_missing_one(field: str) -> None:
    missing = {name: value for name, value in FULL.items() if name != field}
    assert JobRecord.from_hash("j1", FULL | {field: ""}) == JobRecord.from_hash("j1", missing)


def test_an_empty_answer_is_still_an_answer() -> None:
    assert JobRecord.from_hash("j1", FULL | {"reply": ""}).reply == ""


def test_a_failed_job_says_why() -> None:
    job = JobRecord.from_hash("j1", FULL | {"state": "failed", "error_code": "deadline", "error_message": "너무 늦음"})
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("deadline", "너무 늦음")


def test_a_state_that_this_release_does_not_know_is_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="paused"):
        JobRecord.from_hash("j1", FULL | {"state": "paused"})


def test_timings_count_from_submission_and_speed_counts_only_decoding() -> None:
    assert JobRecord.from_hash("j1", FULL).timings() == {
        "queued_s": 1.25,
        "first_token_s": 2.0,
        "total_s": 4.0,
        "tokens_per_s": 10.0,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"completion_tokens": "0"},
        {"completion_tokens": "1"},
        {"first_token": "1004000"},
        {"first_token": ""},
        {"finished": ""},
    ],
    ids=str,
)
def test_speed_is_unknown_rather_than_wrong_where_nothing_was_decoded(changes: dict[str, str]) -> None:
    assert JobRecord.from_hash("j1", FULL | changes).timings()["tokens_per_s"] is None


def test_a_job_cancelled_in_the_queue_has_only_a_total_time() -> None:
    job = JobRecord.from_hash("j1", FULL | {"state": "cancelled", "started": "", "first_token": ""})
    assert job.timings() == {"queued_s": None, "first_token_s": None, "total_s": 4.0, "tokens_per_s": None}


def test_usage_adds_up() -> None:
    assert Usage(30, 21).to_dict() == {"prompt_tokens": 30, "completion_tokens": 21, "total_tokens": 51}


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        JobRecord.from_hash("j1", FULL).state = JobState.FAILED  # type: ignore[misc]


NEW = NewJob("j1", JobPayload([QUESTION]), "m", "c1", "k1", request='{"message":"두레가 뭐예요? 😀"}')


def test_a_repeated_request_keeps_its_fingerprint_although_its_conversation_grew_meanwhile() -> None:
    grown = JobPayload([QUESTION, Message("assistant", "모임입니다."), QUESTION])
    assert replace(NEW, id="j2", payload=grown, deadline_s=1).fingerprint() == NEW.fingerprint()


@pytest.mark.parametrize(
    "request_text", ["", '{"message":"두레가 뭐예요? 😁"}', '{"message":"두레가 뭐예요? 😀","style":"casual"}']
)
def test_another_request_has_another_fingerprint(request_text: str) -> None:
    assert replace(NEW, request=request_text).fingerprint() != NEW.fingerprint()


def test_a_job_without_conversation_or_key_takes_no_place_in_redis_for_them() -> None:
    bare = NewJob("j1", JobPayload([QUESTION]), "m")
    assert (bare.conversation_key, bare.idempotency_slot) == ("", "")
    assert NEW.conversation_key
    assert NEW.idempotency_slot
    assert NEW.conversation_key != NEW.idempotency_slot


def test_tenants_share_neither_conversations_nor_keys() -> None:
    other = replace(NEW, tenant="이웃")
    assert other.conversation_key != NEW.conversation_key
    assert other.idempotency_slot != NEW.idempotency_slot


def test_chosen_edits_need_a_worker_that_knows_them_and_none_chosen_do_not() -> None:
    payload = JobPayload([Message("user", "질문")], edits=["josa"])
    assert payload.schema == 3
    assert JobPayload.from_json(payload.to_json()) == payload
    without = JobPayload([Message("user", "질문")])
    assert without.schema == 1
    assert "edits" not in json.loads(without.to_json())
    assert JobPayload([Message("user", "질문")], edits=[]).schema == 3


def test_a_persona_needs_a_worker_that_knows_it_and_names_alone_do_not() -> None:
    payload = JobPayload([QUESTION], "clerk", "clerk", persona=Persona("안내원입니다.", [QUESTION], "plain"))
    assert payload.schema == 4
    assert JobPayload.from_json(payload.to_json()) == payload
    named = JobPayload([QUESTION], "casual", "warm")
    assert named.schema == 1
    assert "persona" not in json.loads(named.to_json())


@pytest.mark.parametrize(
    "persona",
    [
        "안내원",
        {},
        {"system": None},
        {"system": "안내", "register": "written"},
        {"system": "안내", "examples": [["질문", "답"]]},
        {"system": "안내", "examples": [{"role": "tool", "content": "결과"}]},
        {"system": "안내", "title": "안내원"},
    ],
    ids=str,
)
def test_a_persona_of_the_wrong_kind_is_a_payload_error(persona: Any) -> None:
    with pytest.raises(PayloadError, match="cannot be read"):
        JobPayload.from_json(json.dumps(raw_payload(schema=4, persona=persona)))
