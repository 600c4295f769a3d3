"""Runner, outbox, store and scripted engine together, without Celery: a hint is a call of `run`."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest
import redis

from dure import job_views, keys
from dure.errors import EngineError
from dure.events import Draft, EventType
from dure.job import JobPayload, JobRecord, Message, Persona, Sampling
from dure.job_store import JobStore, Lost, connect
from dure.worker_registry import WorkerRegistry
from dure_worker import runner
from dure_worker.engines import GenerateRequest, Token
from dure_worker.engines.scripted import ScriptedEngine
from dure_worker.lifecycle import Lifecycle
from dure_worker.outbox import Delivery, Outbox
from dure_worker.runner import Runner
from support import Valkey, assert_ended_once, events, new_job, payload, wait_for


class Rig:
    """A worker's parts over one engine."""

    def __init__(
        self, client: redis.Redis, engine: ScriptedEngine, grace_s: float = 60, passes: Sequence[str] = ()
    ) -> None:
        self.is_tight = False
        self.store = JobStore(client)
        self.lifecycle = Lifecycle("box", engine.info, WorkerRegistry(client), grace_s)
        self.outbox = Outbox(self.store, lease_s=15)
        self.runner = Runner(self.store, engine, self.outbox, self.lifecycle, 15, lambda: self.is_tight, passes)

    def close(self) -> None:
        self.outbox.stop()
        self.lifecycle.close()


@pytest.fixture
def rig(client: redis.Redis) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(engine: ScriptedEngine | None = None, **options: Any) -> Rig:
        rigs.append(Rig(client, engine or ScriptedEngine(), **options))
        return rigs[-1]

    yield make
    for made in rigs:
        made.close()


def ended(store: JobStore, job_id: str, state: str) -> JobRecord:
    assert_ended_once(store, job_id, state)
    job = store.get(job_id)
    assert job is not None
    return job


def run_in_thread(rig: Rig, job_id: str) -> threading.Thread:
    thread = threading.Thread(target=rig.runner.run, args=(job_id,))
    thread.start()
    return thread


def test_a_job_is_answered_with_drafts_and_sentences(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=60)), max_queued=10)
    rig().runner.run("a")
    job = ended(store, "a", "done")
    found = events(store, "a")
    sentences = "".join(event.text for event in found if event.type == "sentence")
    assert job.reply == sentences.rstrip()
    assert job.reply
    assert job.reply.endswith(".")
    assert "".join(event.text for event in found if event.type == "token").startswith(job.reply)
    assert job.usage.completion_tokens == 60


def test_the_torn_last_sentence_is_cut_from_the_reply(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=25)), max_queued=10)
    rig().runner.run("a")
    job = ended(store, "a", "done")
    assert job.finish_reason == "length"
    assert job.reply == "“두레가 뭐예요?”라고 물으셨습니다."


def test_a_single_torn_sentence_comes_to_its_end(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=3)), max_queued=10)
    rig().runner.run("a")
    job = ended(store, "a", "done")
    assert job.finish_reason == "length"
    assert job.reply == "“두레가 뭐예요?”라고 물으셨습니다."
    assert job.usage.completion_tokens > 3


def test_where_the_clients_own_words_rule_its_limit_is_strict(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=JobPayload([Message("user", "두레가 뭐예요?")], max_tokens=5)), max_queued=10)
    rig().runner.run("a")
    job = ended(store, "a", "done")
    assert job.usage.completion_tokens == 5
    assert job.reply
    assert not job.reply.endswith(".")


def test_what_is_held_too_long_comes_in_parts_that_make_up_the_answer(
    rig: Callable[..., Rig], store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rig()
    for name, hold_s in (("whole", 1e9), ("parted", 0.0)):
        monkeypatch.setattr(runner, "_HOLD_S", hold_s)
        store.submit(new_job(name, payload=payload(max_tokens=200)), max_queued=10)
        made.runner.run(name)
    whole, parted = ([each for each in events(store, name) if each.type == "sentence"] for name in ("whole", "parted"))
    assert len(parted) > len(whole)
    assert "".join(each.text for each in parted) == "".join(each.text for each in whole)
    assert sum(each.replaces for each in parted) == sum(each.replaces for each in whole)
    assert ended(store, "parted", "done").reply == ended(store, "whole", "done").reply


class LoopingEngine(ScriptedEngine):
    """Says the same for ever, and counts how often."""

    num_said = 0

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        while True:
            self.num_said += 1
            yield Token("밭을 갑니다. ")


def test_an_answer_that_goes_round_in_circles_is_ended(
    rig: Callable[..., Rig], client: redis.Redis, store: JobStore
) -> None:
    engine = LoopingEngine()
    store.submit(new_job("a", payload=payload(max_tokens=4000)), max_queued=10)
    made = rig(engine, passes=["repetition"])
    made.runner.run("a")
    job = ended(store, "a", "done")
    assert job.reply == "밭을 갑니다. 밭을 갑니다."
    assert job.finish_reason == "stop"
    assert job.usage.completion_tokens == engine.num_said == 4
    assert made.lifecycle.info().edits == {"repetition": 1}


def test_a_request_chooses_among_the_workers_edits(rig: Callable[..., Rig], store: JobStore) -> None:
    class Misspelling(ScriptedEngine):
        def generate(self, request: GenerateRequest) -> Generator[Token]:
            yield Token("몇일 걸립니다 .", "stop")

    made = rig(Misspelling(), passes=["misspellings", "punctuation"])
    for job_id, edits, reply in (
        ("all", None, "며칠 걸립니다."),
        ("none", [], "몇일 걸립니다 ."),
        ("one", ["misspellings", "josa"], "며칠 걸립니다 ."),
    ):
        store.submit(new_job(job_id, payload=payload(edits=edits)), max_queued=10)
        made.runner.run(job_id)
        assert ended(store, job_id, "done").reply == reply


def test_foreign_letters_are_kept_out_unless_the_conversation_is_about_them(
    rig: Callable[..., Rig], store: JobStore
) -> None:
    asked: list[GenerateRequest] = []

    class Listening(ScriptedEngine):
        def generate(self, request: GenerateRequest) -> Generator[Token]:
            asked.append(request)
            yield Token("네.", "stop")

    made = rig(Listening(), passes=["foreign"])
    own = Sampling(scripts=["hangul"])
    questions = [
        payload("두레가 뭐예요?"), payload("漢字로 써 주세요."), payload("일본어로 인사해 주세요."),
        payload("두레가 뭐예요?", sampling=own), payload("두레가 뭐예요?", edits=[]),
    ]  # fmt: skip
    for number, question in enumerate(questions):
        store.submit(new_job(str(number), payload=question), max_queued=10)
        made.runner.run(str(number))
    guarded, *others = [request.sampling.scripts for request in asked]
    assert guarded is not None
    assert {"hangul", "latin"} <= set(guarded)
    assert not {"han", "hiragana", "katakana"} & set(guarded)
    assert others == [None, None, ["hangul"], None]


def test_a_persona_that_came_with_its_job_is_said_to_the_engine(rig: Callable[..., Rig], store: JobStore) -> None:
    asked: list[GenerateRequest] = []

    class Listening(ScriptedEngine):
        def generate(self, request: GenerateRequest) -> Generator[Token]:
            asked.append(request)
            yield Token("네.", "stop")

    examples = [Message("user", "등본은요?"), Message("assistant", "3번 창구입니다.")]
    question = payload("인감은요?", persona=Persona("안내원입니다.", examples, "formal"))
    store.submit(new_job("a", payload=question), max_queued=10)
    rig(Listening()).runner.run("a")
    assert ended(store, "a", "done").reply == "네."
    assert asked[0].messages == [Message("system", "안내원입니다."), *examples, Message("user", "인감은요?")]


def test_a_sentence_says_how_much_of_the_draft_it_replaces(rig: Callable[..., Rig], store: JobStore) -> None:
    class Misspelling(ScriptedEngine):
        def generate(self, request: GenerateRequest) -> Generator[Token]:
            yield Token("몇일이나 걸립")
            yield Token("니까 ? 네")
            yield Token(".", "stop")

    store.submit(new_job("a"), max_queued=10)
    rig(Misspelling(), passes=["misspellings", "punctuation"]).runner.run("a")
    sentences = [event for event in events(store, "a") if event.type == "sentence"]
    assert [(each.text, each.replaces) for each in sentences] == [("며칠이나 걸립니까? ", 12), ("네.", 2)]
    assert job_views.edited(events(store, "a")) == [("몇일이나 걸립니까 ?", "며칠이나 걸립니까?")]


def test_fifty_duplicate_hints_give_one_answer(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a"), max_queued=10)
    made = rig(ScriptedEngine(token_s=0.001))
    threads = [run_in_thread(made, "a") for _ in range(50)]
    for thread in threads:
        thread.join()
    made.runner.run("a")
    assert ended(store, "a", "done").attempt == 1


def test_a_prompt_that_cannot_fit_fails_with_the_reason(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload("가" * 2000)), max_queued=10)
    rig(ScriptedEngine(context=256)).runner.run("a")
    job = ended(store, "a", "failed")
    assert job.error is not None
    assert job.error.code == "context_overflow"
    assert "가가" not in job.error.message


def test_without_memory_long_prompts_are_given_back_uncharged_and_short_ones_answered(
    rig: Callable[..., Rig], store: JobStore
) -> None:
    """Proved: fails without the look at `is_tight` (the long one is answered), and with a charged release."""
    made = rig(ScriptedEngine(context=2048))
    made.is_tight = True
    store.submit(new_job("long", payload=payload("가" * 2000)), max_queued=10)
    store.submit(new_job("short"), max_queued=10)
    for _ in range(5):
        made.runner.run("long")
    made.runner.run("short")
    ended(store, "short", "done")
    waiting = store.get("long")
    assert waiting is not None
    assert waiting.state == "queued"
    made.is_tight = False
    made.runner.run("long")
    assert not ended(store, "long", "done").lost


def test_an_unreadable_payload_fails_the_job_and_the_worker_goes_on(rig: Callable[..., Rig], store: JobStore) -> None:
    made = rig()
    for job_id, junk in (("a", "{"), ("b", '{"schema": 99}')):
        store.submit(new_job(job_id), max_queued=10)
        store.redis.hset(keys.job(job_id), "payload", junk)
        made.runner.run(job_id)
        job = ended(store, job_id, "failed")
        assert job.error is not None
        assert job.error.code == "bad_payload"
    store.submit(new_job("c"), max_queued=10)
    made.runner.run("c")
    ended(store, "c", "done")


class BrokenEngine(ScriptedEngine):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        yield Token("반")
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("the kernel broke"), "engine_failed"), (KeyError("a defect"), "internal")]
)
def test_an_engine_that_breaks_fails_the_job_once(
    rig: Callable[..., Rig], store: JobStore, error: Exception, code: str
) -> None:
    store.submit(new_job("a"), max_queued=10)
    rig(BrokenEngine(error)).runner.run("a")
    job = ended(store, "a", "failed")
    assert job.error is not None
    assert job.error.code == code


def test_cancel_stops_a_running_answer_and_keeps_its_beginning(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=4000)), max_queued=10)
    thread = run_in_thread(rig(ScriptedEngine(context=8192, token_s=0.01)), "a")
    wait_for(lambda: any(event.type == "sentence" for event in events(store, "a")), "a first sentence")
    store.cancel("a")
    thread.join()
    job = ended(store, "a", "cancelled")
    assert job.reply
    assert job.reply.startswith("“두레가 뭐예요?”라고")


def test_a_second_attempt_goes_on_from_the_sentences_already_sent(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=40)), max_queued=10)
    first = store.claim("a", "dead", "box")
    assert first is not None
    sent = "“두레가 뭐예요?”라고 물으셨습니다. "
    store.emit("a", 1, 1, [Draft(EventType.TOKEN, sent), Draft(EventType.SENTENCE, sent)])
    store.redis.hset(keys.job("a"), "lease_until", 1)
    rig().runner.run("a")
    job = ended(store, "a", "done")
    assert job.attempt == 2
    assert job.reply
    assert job.reply.startswith(sent)
    assert job.reply.count("물으셨습니다") == 1
    assert job.reply != sent.strip()


class NotingEngine(ScriptedEngine):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[GenerateRequest] = []

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        self.asked.append(request)
        return super().generate(request)


def test_a_job_that_was_begun_before_is_more_urgent_to_the_engine(rig: Callable[..., Rig], store: JobStore) -> None:
    engine = NotingEngine()
    made = rig(engine)
    store.submit(new_job("new", payload=payload()), max_queued=10)
    store.submit(new_job("begun", payload=payload()), max_queued=10)
    store.claim("begun", "dead:1:x", "dead", 0.001)
    wait_for(lambda: store.expire("begun") is Lost.REQUEUED, "the end of the lease")
    made.runner.run("new")
    made.runner.run("begun")
    assert [request.priority for request in engine.asked] == [keys.PRIORITY_NORMAL, keys.PRIORITY_URGENT]


def test_a_job_lost_to_another_attempt_stops_its_engine_and_writes_nothing(
    rig: Callable[..., Rig], store: JobStore
) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=4000)), max_queued=10)
    thread = run_in_thread(rig(ScriptedEngine(context=8192, token_s=0.01)), "a")
    wait_for(lambda: any(event.text for event in events(store, "a")), "text")
    store.redis.hset(keys.job("a"), "lease_until", 1)
    taken = store.claim("a", "other", "elsewhere")
    thread.join()
    assert taken is not None
    assert {event.attempt for event in events(store, "a") if event.text} == {1}
    job = store.get("a")
    assert job is not None
    assert (job.state, job.owner) == ("running", "other")


def test_a_stopping_worker_gives_its_job_back_uncharged(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=4000)), max_queued=10)
    made = rig(ScriptedEngine(context=8192, token_s=0.01), grace_s=0)
    thread = run_in_thread(made, "a")
    wait_for(lambda: any(event.text for event in events(store, "a")), "text")
    made.lifecycle.begin_stop()
    thread.join()
    job = store.get("a")
    assert job is not None
    assert job.state == "queued"
    assert store.redis.hget(keys.job("a"), "charged") == "0"


def test_a_stopping_worker_takes_no_new_job(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a"), max_queued=10)
    made = rig()
    made.lifecycle.begin_stop()
    made.runner.run("a")
    assert store.queue_position("a") == 0


def test_a_job_over_its_deadline_fails_while_running(rig: Callable[..., Rig], store: JobStore) -> None:
    store.submit(new_job("a", payload=payload(max_tokens=4000), deadline_s=0.3), max_queued=10)
    rig(ScriptedEngine(context=8192, token_s=0.01)).runner.run("a")
    job = ended(store, "a", "failed")
    assert job.error is not None
    assert job.error.code == "deadline"


def test_text_waits_while_redis_is_away_and_arrives_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = Valkey(tmp_path_factory.mktemp("outage"))
    server.start()
    client = connect(server.url, 1)
    rig = Rig(client, ScriptedEngine(token_s=0.01))
    try:
        rig.store.submit(new_job("a", payload=payload(max_tokens=200)), max_queued=10)
        thread = run_in_thread(rig, "a")
        wait_for(lambda: any(event.text for event in events(rig.store, "a")), "text")
        server.stop()
        server.start()
        thread.join()
        job = ended(rig.store, "a", "done")
        tokens = "".join(event.text for event in events(rig.store, "a") if event.type == "token")
        assert job.reply
        assert tokens.startswith(job.reply)
    finally:
        rig.close()
        client.close()
        server.stop()


def test_tokens_that_leave_together_are_one_event_but_a_tried_one_never_grows(store: JobStore) -> None:
    store.submit(new_job("a"), max_queued=10)
    claimed = store.claim("a", "w1", "box")
    assert claimed is not None
    delivery = Delivery(claimed, lambda _: None, deadline=0)
    for text in ("하나", "둘"):
        delivery.append(Draft(EventType.TOKEN, text))
    assert [draft.text for draft in delivery.pending] == ["하나둘"]
    delivery.num_tried = 1
    for text in ("셋", "넷"):
        delivery.append(Draft(EventType.TOKEN, text))
    delivery.append(Draft(EventType.SENTENCE, "하나둘셋넷"))
    delivery.append(Draft(EventType.TOKEN, "다섯"))
    assert [draft.text for draft in delivery.pending] == ["하나둘", "셋넷", "하나둘셋넷", "다섯"]
