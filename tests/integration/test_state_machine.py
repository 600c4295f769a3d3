"""A model check: random calls of the real scripts beside a model of the job in Python, which predicts every reply.

Lost replies are calls made twice; a worker with a wrong clock is one that acts by any claim it ever had, at any time;
duplicate messages are claims of any job. Time passes by moving every time in Redis back. The real reconciler runs in
between, also where it cannot publish. At the end time passes, one healthy worker comes, and every job must end.

Proved to fail: EMIT without the attempt; FINISH or CANCEL without the state; CLAIM without BUSY or ALONE; EXPIRE
without the lease; LOSE of another process' job; RELEASE that charges; repeated events written twice; a requeued job
left among the running; and some thirty more.

`STATE_MACHINE_SEARCHES=500 pytest --timeout 0 tests/integration/test_state_machine.py` looks longer.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kombu.exceptions import OperationalError

from dure import catalog, keys, reconciler
from dure.errors import IdempotencyConflict, QueueFull
from dure.events import Draft, Event, EventType
from dure.job import MAX_ATTEMPTS, SCHEMA, JobError, JobRecord, JobState, LossCause
from dure.job_store import CancelReply, Claim, EmitReply, JobStore, Lost, NewJob, NoClaim, Outcome
from dure.reconciler import Reconciler
from dure.worker_registry import WorkerInfo, WorkerRegistry
from support import new_job, payload

T = TypeVar("T")

# The model's clock counts ticks, and everything happens on whole ones while leases and deadlines end between them: the
# real time that a run takes is nothing beside half a tick, so no reply depends on the machine's speed.
TICK_S = 1000.0
LEASE = 1.5
SOON, FAR = 2.5, 9999.5  # deadlines

MAX_JOBS = 6  # few, so that the same one is met often
MODEL_QUEUE, LIVE_QUEUE, DEAD_QUEUE = (
    keys.model_queue(catalog.SCRIPTED),
    keys.worker_queue("live"),
    keys.worker_queue("dead"),
)
CONVERSATION = "c"
READ_QUEUES = (*keys.queue_keys(MODEL_QUEUE), *keys.queue_keys(LIVE_QUEUE))


# ── The model ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Caller:
    """A worker's call: who claims, and what it knows."""

    owner: str
    is_alone: bool = False
    schema: int = SCHEMA

    @property
    def worker(self) -> str:
        return self.owner.split(":")[0]


@dataclass
class Job:
    """What must be true of a job. Each method is one script: it changes the model and predicts the reply."""

    new: NewJob
    created: int
    deadline: float
    state: JobState = JobState.QUEUED
    attempt: int = 0
    charged: int = 0
    owner: str | None = None
    lease_end: float = 0.0
    is_cancelled: bool = False
    is_declined: bool = False
    num_sent: int = 0
    stream: list[Event] = field(default_factory=list)
    lost: dict[int, tuple[LossCause, int, str]] = field(default_factory=dict)
    finished: int = 0
    reply: str | None = None
    error: str | None = None
    retried_as: str | None = None

    def is_run_by(self, claim: Claim) -> bool:
        return self.state is JobState.RUNNING and self.attempt == claim.attempt

    @property
    def is_quarantined(self) -> bool:
        return self.error == "max_attempts" and self.retried_as is None

    def claim(self, caller: Caller, now: int) -> Claim | NoClaim:
        return self._why_not(caller, now) or self._taken(caller, now)

    def emit(self, claim: Claim, drafts: list[Event], lease: float, now: int) -> EmitReply:
        if not self.is_run_by(claim):
            return EmitReply.LOST
        self._append(drafts)
        if lease:
            self.lease_end = now + lease
        return EmitReply.CANCEL if self.is_cancelled else EmitReply.OK

    def finish(self, claim: Claim, outcome: Outcome, drafts: list[Event], now: int) -> bool:
        if not self.is_run_by(claim):
            # True is this call repeated, and (with nothing written) a job that ended otherwise after its last attempt.
            return self.state.is_final and self.attempt == claim.attempt
        self._append(drafts)
        self._end(outcome.state, now, outcome.error.code if outcome.error else None)
        self.reply = outcome.reply
        return True

    def release(self, claim: Claim, now: int) -> bool:
        if not self.is_run_by(claim):
            return False
        if self.is_cancelled:
            self._end(JobState.CANCELLED, now)
        else:
            self._requeue()
            self.charged -= 1
        return True

    def cancel(self, now: int) -> CancelReply:
        if self.state.is_final:
            return CancelReply.FINAL
        self.is_cancelled = True
        if self.state is JobState.RUNNING:
            return CancelReply.REQUESTED
        self._end(JobState.CANCELLED, now)
        return CancelReply.CANCELLED

    def expire(self, now: int) -> Lost:
        if self.state is JobState.RUNNING and self.lease_end < now:
            return self._lose(LossCause.SILENT, 0, now)
        if self.state is JobState.QUEUED and self.deadline < now:
            self._end(JobState.FAILED, now, "no_new_worker" if self.is_declined else "expired")
            return Lost.EXPIRED
        return Lost.KEPT

    def lose(self, process: str, cause: LossCause, rss_mib: int, now: int) -> Lost:
        if self.state is JobState.RUNNING and str(self.owner).startswith(process):
            return self._lose(cause, rss_mib, now)
        for attempt, (known, _, owner) in sorted(self.lost.items()):
            if known is LossCause.SILENT and owner.startswith(process):
                self.lost[attempt] = (cause, rss_mib, owner)
                return Lost.NOTED
        return Lost.KEPT

    def purge(self, kind: str, settled: float, now: int) -> bool:
        """Whether it is of that kind. A queued one is then cancelled; the others are deleted, by the machine."""
        if kind == "queued":
            return self.state is JobState.QUEUED and self.cancel(now) is CancelReply.CANCELLED
        has_settled = self.state.is_final and self.finished <= now - settled
        return has_settled and self.is_quarantined == (kind == "quarantined")

    def is_due(self, now: int) -> bool:
        """Queued so long, or begun before, that its hint must exist."""
        return self.state is JobState.QUEUED and (self.attempt > 0 or self.created < now)

    def _why_not(self, caller: Caller, now: int) -> NoClaim | None:
        if self.state.is_final:
            return NoClaim.FINAL
        if self.state is JobState.RUNNING:
            if now < self.lease_end:
                return NoClaim.BUSY if caller.owner != self.owner else None
            fate = self._lose(LossCause.SILENT, 0, now)
            if fate is not Lost.REQUEUED:
                return NoClaim(fate.value)
        return self._why_not_from_queue(caller, now)

    def _why_not_from_queue(self, caller: Caller, now: int) -> NoClaim | None:
        if self.expire(now) is Lost.EXPIRED:
            return NoClaim.EXPIRED
        if self.new.payload.schema > caller.schema:
            self.is_declined = True
            return NoClaim.NEWER
        return NoClaim.ALONE if self.charged == MAX_ATTEMPTS - 1 and not caller.is_alone else None

    def _taken(self, caller: Caller, now: int) -> Claim:
        if self.state is JobState.QUEUED:
            self.state, self.owner, self.lease_end = JobState.RUNNING, caller.owner, now + LEASE
            self.attempt, self.charged, self.num_sent = self.attempt + 1, self.charged + 1, 0
            kind = EventType.START if self.attempt == 1 else EventType.RESTARTED
            self.stream.append(Event("", kind, self.attempt, worker=caller.worker))
        left = math.floor(self.deadline - now)
        return Claim(self.new.id, self.attempt, self.new.payload.to_json(), left, self.new.conversation_key)

    def _append(self, drafts: list[Event]) -> None:
        self.stream += [draft for draft in drafts if draft.seq > self.num_sent]
        self.num_sent = max([self.num_sent, *(draft.seq for draft in drafts)])

    def _lose(self, cause: LossCause, rss_mib: int, now: int) -> Lost:
        self.lost[self.attempt] = (cause, rss_mib, str(self.owner))
        if self.is_cancelled:
            self._end(JobState.CANCELLED, now)
            return Lost.CANCELLED
        if self.charged < MAX_ATTEMPTS:
            self._requeue()
            return Lost.REQUEUED
        self._end(JobState.FAILED, now, "max_attempts")
        return Lost.QUARANTINED

    def _requeue(self) -> None:
        self.state, self.owner = JobState.QUEUED, None

    def _end(self, state: JobState, now: int, error: str | None = None) -> None:
        self.state, self.finished, self.error = state, now, error
        self.stream.append(Event("", EventType.FINAL, self.attempt, state=state.value))


class Gone(Job):
    """No such job: it never was, or has been deleted."""

    def claim(self, *_: Any) -> NoClaim:
        return NoClaim.GONE

    def emit(self, *_: Any) -> EmitReply:
        return EmitReply.LOST

    def finish(self, *_: Any) -> bool:
        return False

    def release(self, *_: Any) -> bool:
        return False

    def cancel(self, *_: Any) -> CancelReply:
        return CancelReply.GONE

    def expire(self, *_: Any) -> Lost:
        return Lost.GONE

    def lose(self, *_: Any) -> Lost:
        return Lost.GONE

    def purge(self, *_: Any) -> bool:
        return True


NEVER = "never"  # the id of a job that nobody submitted
GONE = Gone(new_job(NEVER), 0, 0.0)


# ── What must hold after every step, whatever the model says ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Seen:
    """One job as it lies in Redis."""

    record: JobRecord
    raw: dict[str, str]
    stream: list[Event]
    ttl_s: tuple[int, int]  # of hash and stream; -1: none, -2: no such key
    places: tuple[float | None, ...]  # its scores among the queued, the running, the quarantined

    @classmethod
    def read_all(cls, store: JobStore, job_ids: list[str]) -> "list[Seen | None]":
        with store.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                name, stream = keys.job(job_id), keys.events(job_id)
                pipe.hgetall(name).xrange(stream).ttl(name).ttl(stream)
                for places in (keys.JOBS_QUEUED, keys.JOBS_RUNNING, keys.JOBS_QUARANTINED):
                    pipe.zscore(places, job_id)
            replies = iter(pipe.execute())
        return [cls._from(job_id, *islice(replies, 7)) for job_id in job_ids]

    @classmethod
    def _from(cls, job_id: str, raw: Any, entries: Any, ttl_s: int, stream_ttl_s: int, *places: Any) -> "Seen | None":
        if not raw:
            assert (entries, *places) == ([], None, None, None), "something is left of a job that is gone"
            return None
        stream = [replace(Event.from_entry(*entry), id="") for entry in entries]
        return cls(JobRecord.from_hash(job_id, raw), raw, stream, (ttl_s, stream_ttl_s), places)


def one_final_event_and_it_is_the_last(seen: Seen) -> None:
    finals = [event.state for event in seen.stream if event.type is EventType.FINAL]
    assert finals == ([seen.record.state] if seen.record.state.is_final else [])
    assert not finals or seen.stream[-1].type is EventType.FINAL


def no_event_of_an_attempt_after_the_start_of_a_newer_one(seen: Seen) -> None:
    attempts = [event.attempt for event in seen.stream]
    assert attempts == sorted(attempts)


def every_attempt_begins_once_and_counts_without_gaps(seen: Seen) -> None:
    for attempt in range(1, seen.record.attempt + 1):
        begin, *rest = [event for event in seen.stream if event.attempt == attempt and event.type != EventType.FINAL]
        assert begin.type is (EventType.START if attempt == 1 else EventType.RESTARTED)
        assert [event.seq for event in rest] == list(range(1, len(rest) + 1))


def its_place_is_that_of_its_state(seen: Seen) -> None:
    queued, running, quarantined = seen.places
    assert queued == (int(seen.raw["created"]) if seen.record.state is JobState.QUEUED else None)
    assert running == (int(seen.raw["lease_until"]) if seen.record.state is JobState.RUNNING else None)
    is_poison = seen.raw.get("error_code") == "max_attempts" and seen.record.retried_as is None
    assert (quarantined is not None) == is_poison


def only_ended_jobs_expire(seen: Seen) -> None:
    if not seen.record.state.is_final:
        assert max(seen.ttl_s) == -1
    else:
        is_poison = seen.raw.get("error_code") == "max_attempts"
        longest = (keys.KEEP_QUARANTINED_S if is_poison else keys.KEEP_JOB_S, keys.KEEP_EVENTS_S)
        assert all(limit / 2 < ttl <= limit for ttl, limit in zip(seen.ttl_s, longest, strict=True))


def charged_are_the_attempts_lost_and_the_one_that_was_not(seen: Seen) -> None:
    charged, num_lost = int(seen.raw["charged"]), len(seen.record.lost)
    assert num_lost <= charged <= MAX_ATTEMPTS
    if seen.record.state is JobState.QUEUED:
        assert charged == num_lost < MAX_ATTEMPTS
    elif seen.record.state is JobState.RUNNING:
        assert charged == num_lost + 1
    elif seen.raw.get("error_code") == "max_attempts":
        assert charged == num_lost == MAX_ATTEMPTS


def what_is_to_be_cancelled_does_not_wait(seen: Seen) -> None:
    assert not (seen.record.is_cancel_requested and seen.record.state is JobState.QUEUED)


ALWAYS: tuple[Callable[[Seen], None], ...] = (
    one_final_event_and_it_is_the_last,
    no_event_of_an_attempt_after_the_start_of_a_newer_one,
    every_attempt_begins_once_and_counts_without_gaps,
    its_place_is_that_of_its_state,
    only_ended_jobs_expire,
    charged_are_the_attempts_lost_and_the_one_that_was_not,
    what_is_to_be_cancelled_does_not_wait,
)


def as_the_model_says(seen: Seen, job: Job) -> None:
    record = seen.record
    assert (record.state, record.attempt, int(seen.raw["charged"])) == (job.state, job.attempt, job.charged)
    assert (record.is_cancel_requested, record.owner, record.reply) == (job.is_cancelled, job.owner, job.reply)
    assert (seen.raw.get("error_code") or None, record.retried_as) == (job.error, job.retried_as)
    lost = {lost.attempt: (lost.cause, lost.rss_mib, lost.worker) for lost in record.lost}
    assert lost == {
        number: (cause, rss_mib, owner.split(":")[0]) for number, (cause, rss_mib, owner) in job.lost.items()
    }
    assert seen.stream == job.stream


class Past:
    """What was seen of a job before."""

    def __init__(self) -> None:
        self.attempt = 0
        self.cancelled_in: int | None = None
        self.end: tuple[Any, ...] | None = None

    def compare(self, seen: Seen) -> None:
        record = seen.record
        assert record.attempt >= self.attempt
        self.attempt = record.attempt
        if record.is_cancel_requested and self.cancelled_in is None:
            self.cancelled_in = record.attempt
        assert self.cancelled_in in {None, record.attempt}, "a cancelled job began another attempt"
        end = (record.state, record.reply, record.finish_reason, record.usage, seen.raw.get("error_code"), *seen.stream)
        assert self.end in {None, end}, "a final state changed"
        self.end = end if record.state.is_final else None


# ── The machine ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Held:
    """A claim in its worker's hands, whether or not it is still worth anything."""

    def __init__(self, claim: Claim, caller: Caller) -> None:
        self.claim = claim
        self.caller = caller
        self.num_sent = 0  # as the worker counts

    def __repr__(self) -> str:
        return f"<{self.claim.job_id} attempt {self.claim.attempt} by {self.caller.owner}>"

    def drafts(self, num_again: int, num_new: int) -> list[Event]:
        """The next text events, behind some that were sent before: their reply was lost."""
        first, last = max(1, self.num_sent + 1 - num_again), self.num_sent + num_new
        self.num_sent = last
        return [self._draft(seq) for seq in range(first, last + 1)]

    def _draft(self, seq: int) -> Event:
        kind = EventType.SENTENCE if seq % 2 == 0 else EventType.TOKEN
        return Event("", kind, self.claim.attempt, seq, f"{self.caller.owner} {seq}")


# Jobs and claims that still count are drawn more often than the rest.
JOB_IDS = st.runner().flatmap(lambda machine: st.sampled_from(machine.job_ids()))
CLAIMS = st.runner().flatmap(lambda machine: st.sampled_from(machine.claims()))
HINT_QUEUES = st.sampled_from([MODEL_QUEUE, LIVE_QUEUE, DEAD_QUEUE])
PROCESSES = st.sampled_from(["box:1:", "box:11:", "mill:1:"])  # as owners begin; one is almost another's beginning
SCHEMAS = st.sampled_from([SCHEMA, SCHEMA, SCHEMA + 1])
CAUSES = st.sampled_from([cause for cause in LossCause if cause is not LossCause.SILENT])
NUM_DRAFTS = st.integers(0, 3)
TWICE = st.booleans()

there_are_claims = precondition(lambda machine: machine.held)
there_are_hints = precondition(lambda machine: machine.hints.total() > 0)


class JobsMachine(RuleBasedStateMachine):
    """Rules call the store and the model. `stores`: one that knows today's schema, and one of a newer release."""

    stores: tuple[JobStore, JobStore]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.stores[0]
        self.redis: redis.Redis = self.store.redis
        self.redis.flushall()
        WorkerRegistry(self.redis).announce(WorkerInfo("live", catalog.SCRIPTED, "scripted", 4, 2048, 1))
        self.redis.persist(keys.worker("live"))
        self.reconciler = Reconciler(self.store, self._publish)
        self.now = 0
        self.num_calls = 0  # makes ids, owners and replies differ
        self.model: dict[str, Job] = {}
        self.past: dict[str, Past] = {}
        self.held: list[Held] = []
        self.first_requests: dict[str, tuple[str, str]] = {}
        self.turns: list[str] = []  # of the one conversation
        self.hints: Counter[str] = Counter()  # in queues that somebody reads
        self.published: list[tuple[str, str, int]] = []
        self.fault = ""
        self.is_sound = False

    def job_ids(self) -> list[str]:
        lively = [job.new.id for job in self._present() if not job.state.is_final or job.is_quarantined]
        return lively * 3 + [*self.model, NEVER]

    def claims(self) -> list[Held]:
        return [held for held in self.held if self._job(held.claim.job_id).is_run_by(held.claim)] * 2 + self.held

    @initialize()
    def four_jobs_and_a_worker(self) -> None:
        """In every run, because in many of them hypothesis leaves out the rules that would make these."""
        first = self._new_job(FAR, key="k")
        for new in (first, self._new_job(FAR), self._new_job(FAR, SCHEMA + 1), self._new_job(SOON)):
            self._submit(new)
        self._claim(first.id, Caller(self._owner("box:11:")))

    # Gateways

    @precondition(lambda machine: len(machine.model) < MAX_JOBS)
    @rule(
        key=st.sampled_from([None, "k"]), request=st.sampled_from(["", "other"]),
        conversation=st.sampled_from([CONVERSATION, None]), schema=SCHEMAS, deadline=st.sampled_from([FAR, SOON]),
        max_queued=st.sampled_from([9, 9, 1]), queue=st.none() | HINT_QUEUES, is_twice=TWICE,
    )  # fmt: skip
    def submit(self, key, request, conversation, schema, deadline, max_queued, queue, is_twice) -> None:
        new = self._new_job(deadline, schema, conversation, key, request)
        reply = self._submit(new, max_queued, is_twice)
        if queue and isinstance(reply, tuple):
            self._send(reply[0], queue)

    @rule(job_id=JOB_IDS)
    def submit_the_same_again(self, job_id: str) -> None:
        if job_id in self.model and not isinstance(self.model[job_id], Gone):
            self._submit(self.model[job_id].new)

    @rule(job_id=JOB_IDS, is_twice=TWICE)
    def cancel(self, job_id: str, is_twice: bool) -> None:
        self._ask(lambda: self.store.cancel(job_id), lambda: self._job(job_id).cancel(self.now), is_twice)

    @rule(job_id=JOB_IDS, is_twice=TWICE)
    def expire(self, job_id: str, is_twice: bool) -> None:
        replies = self._ask(lambda: self.store.expire(job_id), lambda: self._job(job_id).expire(self.now), is_twice)
        assert set(replies[1:]) <= {Lost.KEPT, Lost.EXPIRED, Lost.GONE}

    @rule(
        fault=st.sampled_from(["", "publish fails", "publish fails after sending"]), num_reconcilers=st.integers(1, 2)
    )
    def reconcile(self, fault: str, num_reconcilers: int) -> None:
        for _ in range(num_reconcilers):
            self._reconcile(fault)

    # Workers

    @rule(job_id=JOB_IDS, process=PROCESSES, is_alone=st.booleans(), schema=SCHEMAS, is_twice=TWICE)
    def claim(self, job_id: str, process: str, is_alone: bool, schema: int, is_twice: bool) -> None:
        self._claim(job_id, Caller(self._owner(process), is_alone, schema), is_twice)

    @there_are_claims
    @rule(held=CLAIMS)
    def claim_again_by_the_same_owner(self, held: Held) -> None:
        self._claim(held.claim.job_id, held.caller)

    @there_are_hints
    @rule(process=PROCESSES, schema=SCHEMAS)
    def follow_a_hint(self, process: str, schema: int) -> None:
        self._follow_hint(process, schema)

    @there_are_claims
    @rule(held=CLAIMS, num_again=NUM_DRAFTS, num_new=NUM_DRAFTS, lease=st.sampled_from([0.0, LEASE]), is_twice=TWICE)
    def emit(self, held: Held, num_again: int, num_new: int, lease: float, is_twice: bool) -> None:
        self._emit(held, held.drafts(num_again, num_new), lease, is_twice)

    @there_are_claims
    @rule(
        held=CLAIMS, state=st.sampled_from([JobState.DONE, JobState.FAILED, JobState.CANCELLED]),
        num_again=NUM_DRAFTS, num_new=NUM_DRAFTS, is_twice=TWICE,
    )  # fmt: skip
    def finish(self, held: Held, state: JobState, num_again: int, num_new: int, is_twice: bool) -> None:
        self._finish(held, state, held.drafts(num_again, num_new), is_twice)

    @there_are_claims
    @rule(held=CLAIMS, is_twice=TWICE)
    def release(self, held: Held, is_twice: bool) -> None:
        claim = held.claim
        self._ask(
            lambda: self.store.release(claim), lambda: self._job(claim.job_id).release(claim, self.now), is_twice
        )  # fmt: skip

    @rule(job_id=JOB_IDS, process=PROCESSES, num_times=st.integers(1, MAX_ATTEMPTS))
    def take_alone_and_fall_silent(self, job_id: str, process: str, num_times: int) -> None:
        """By chance alone, hardly a job would come near its last attempt."""
        for _ in range(num_times):
            self._claim(job_id, Caller(self._owner(process), is_alone=True))
            self._let_pass(2)

    # Supervisors and operators

    @rule(job_id=JOB_IDS, process=PROCESSES, cause=CAUSES, rss_mib=st.sampled_from([0, 900]), is_twice=TWICE)
    def lose(self, job_id: str, process: str, cause: LossCause, rss_mib: int, is_twice: bool) -> None:
        replies = self._ask(
            lambda: self.store.lose(job_id, process, cause, rss_mib),
            lambda: self._job(job_id).lose(process, cause, rss_mib, self.now),
            is_twice,
        )
        assert set(replies[1:]) <= {Lost.KEPT, Lost.NOTED, Lost.GONE}

    @precondition(lambda machine: any(job.error == "max_attempts" for job in machine.model.values()))
    @rule(job_id=JOB_IDS, is_twice=TWICE)
    def retry(self, job_id: str, is_twice: bool) -> None:
        new_id = self._new_id()
        replies = self._ask(
            lambda: self.store.retry(job_id, new_id, FAR * TICK_S), lambda: self._retried(job_id, new_id), is_twice
        )  # fmt: skip
        assert len(set(replies)) == 1

    @rule(
        job_id=JOB_IDS, kind=st.sampled_from(["queued", "quarantined", "ended"]),
        settled=st.sampled_from([0, 0.5, 1.5]), is_twice=TWICE,
    )  # fmt: skip
    def purge(self, job_id: str, kind: Any, settled: float, is_twice: bool) -> None:
        self._ask(
            lambda: self.store.purge(job_id, kind, settled * TICK_S),
            lambda: self._purged(job_id, kind, settled),
            is_twice,
        )

    # The world

    @rule(num_ticks=st.integers(1, 3))
    def let_time_pass(self, num_ticks: int) -> None:
        self._let_pass(num_ticks)

    @rule(job_id=JOB_IDS, queue=HINT_QUEUES)
    def a_hint_comes_twice(self, job_id: str, queue: str) -> None:
        self._send(job_id, queue)

    @there_are_hints
    @rule()
    def a_hint_gets_lost(self) -> None:
        self._take_hint()

    @invariant()
    def every_job_is_as_it_must_be(self) -> None:
        self.is_sound = False
        expected = {**self.model, NEVER: GONE}
        for (job_id, job), seen in zip(expected.items(), Seen.read_all(self.store, [*expected]), strict=True):
            assert (seen is None) == isinstance(job, Gone)
            if seen is not None:
                for must_hold in ALWAYS:
                    must_hold(seen)
                self.past[job_id].compare(seen)
                as_the_model_says(seen, job)
        turns = self.store.conversation(keys.conversation(keys.DEFAULT_TENANT, CONVERSATION))
        assert [turn.content for turn in turns] == self.turns
        self._check_that_one_claim_at_most_may_write()
        self.is_sound = True

    def teardown(self) -> None:
        """Time passes, leases run out, and one healthy worker of the newest release comes: every job must end."""
        if not self.is_sound:
            return  # a step has failed; what comes of it proves nothing
        was_open = [job for job in self._present() if not job.state.is_final]
        self._let_pass(2)
        self._reconcile("")
        while self.hints.total() > 0:
            self._answer(self._follow_hint("live:1:", SCHEMA + 1))
        self.every_job_is_as_it_must_be()
        for job in was_open:
            is_excused = job.is_cancelled or job.deadline < self.now or job.charged == MAX_ATTEMPTS
            assert job.state is JobState.DONE or (job.state.is_final and is_excused)

    # Calls and their predictions

    def _ask(self, call: Callable[[], T], predict: Callable[[], T], is_twice: bool = False) -> list[T]:
        """Replies, each as predicted. Twice: the same call again, as after a lost reply."""
        self.is_sound = False
        replies = []
        for _ in range(1 + is_twice):
            replies.append(call())
            assert replies[-1] == predict()
        return replies

    def _submit(self, new: NewJob, max_queued: int = 9, is_twice: bool = False) -> Any:
        def call() -> Any:
            try:
                return self.store.submit(new, max_queued=max_queued)
            except (QueueFull, IdempotencyConflict) as error:
                return type(error)

        first, *again = self._ask(call, lambda: self._submitted(new, max_queued), is_twice)
        assert again in ([], [(first[0], False)] if isinstance(first, tuple) else [first])
        return first

    def _claim(self, job_id: str, caller: Caller, is_twice: bool = False) -> Held | NoClaim:
        store = self.stores[caller.schema - SCHEMA]

        def call() -> Claim | NoClaim:
            claim = store.claim(job_id, caller.owner, caller.worker, LEASE * TICK_S, is_alone=caller.is_alone)
            return replace(claim, deadline_s=claim.deadline_s // TICK_S) if isinstance(claim, Claim) else claim

        first, *again = self._ask(call, lambda: self._job(job_id).claim(caller, self.now), is_twice)
        if isinstance(first, NoClaim):
            return first
        assert again in ([], [first])
        self.held.append(Held(first, caller))
        return self.held[-1]

    def _follow_hint(self, process: str, schema: int) -> Held | NoClaim:
        """As a worker does it."""
        job_id, caller = self._take_hint(), Caller(self._owner(process), schema=schema)
        held = self._claim(job_id, caller)
        return self._claim(job_id, replace(caller, is_alone=True)) if held is NoClaim.ALONE else held

    def _answer(self, held: Held | NoClaim) -> None:
        if isinstance(held, Held):
            self._emit(held, held.drafts(0, 2), LEASE)
            self._finish(held, JobState.DONE, held.drafts(0, 1))

    def _emit(self, held: Held, drafts: list[Event], lease: float, is_twice: bool = False) -> None:
        claim, first_seq = held.claim, drafts[0].seq if drafts else held.num_sent + 1
        replies = self._ask(
            lambda: self.store.emit(claim.job_id, claim.attempt, first_seq, _as_drafts(drafts), lease * TICK_S),
            lambda: self._job(claim.job_id).emit(claim, drafts, lease, self.now),
            is_twice,
        )
        assert len(set(replies)) == 1

    def _finish(self, held: Held, state: Any, drafts: list[Event], is_twice: bool = False) -> None:
        claim, first_seq = held.claim, drafts[0].seq if drafts else held.num_sent + 1
        error = JobError("engine", "") if state is JobState.FAILED else None
        outcome = Outcome(state, f"reply {self._number()}", "stop", error=error, question="?")
        replies = self._ask(
            lambda: self.store.finish(claim, outcome, first_seq, _as_drafts(drafts)),
            lambda: self._finished(claim, outcome, drafts),
            is_twice,
        )
        assert len(set(replies)) == 1

    def _submitted(self, new: NewJob, max_queued: int) -> Any:
        first_id, request = self.first_requests.get(new.idempotency_key or "", ("", ""))
        if first_id:
            return (first_id, False) if request == new.request else IdempotencyConflict
        if new.id in self.model:
            return new.id, False
        if sum(job.state is JobState.QUEUED for job in self._present()) >= max_queued:
            return QueueFull
        if new.idempotency_key:
            self.first_requests[new.idempotency_key] = (new.id, new.request)
        self._record(Job(new, self.now, self.now + new.deadline_s / TICK_S))
        return new.id, True

    def _finished(self, claim: Claim, outcome: Outcome, drafts: list[Event]) -> bool:
        job = self._job(claim.job_id)
        if outcome.state is JobState.DONE and claim.conversation_key and job.is_run_by(claim):
            self.turns += [outcome.question, outcome.reply]
        return job.finish(claim, outcome, drafts, self.now)

    def _retried(self, job_id: str, new_id: str) -> bool:
        job = self._job(job_id)
        if job.is_quarantined:
            job.retried_as = new_id
            self._record(Job(replace(job.new, id=new_id, idempotency_key=None), self.now, self.now + FAR))
        return job.retried_as == new_id

    def _purged(self, job_id: str, kind: str, settled: float) -> bool:
        is_purged = self._job(job_id).purge(kind, settled, self.now)
        if is_purged and kind != "queued" and job_id in self.model:
            self.model[job_id] = GONE
        return is_purged

    def _reconcile(self, fault: str) -> None:
        due = self._reconciled()
        self.fault, self.published, self.is_sound = fault, [], False
        if fault and due:
            with pytest.raises(OperationalError):
                self.reconciler.run_once()
            assert len(self.published) == (fault == "publish fails after sending")
            assert set(self.published) <= set(due)
        else:
            assert self.reconciler.run_once() == len(due)
            assert sorted(self.published) == sorted(due)

    def _reconciled(self) -> list[tuple[str, str, int]]:
        """Hints that the reconciler must send."""
        over = [job for job in self._present() if job.state is JobState.RUNNING and job.lease_end < self.now]
        old = [job for job in self._present() if job.state is JobState.QUEUED and job.created < self.now]
        for job in [*over, *old]:
            job.expire(self.now)
        due = [job for job in self._present() if job.is_due(self.now) and not self.hints[job.new.id]]
        priorities = {True: keys.PRIORITY_URGENT, False: keys.PRIORITY_NORMAL}
        return [(job.new.id, MODEL_QUEUE, priorities[job.attempt > 0]) for job in due]

    # Hints: real entries in the real lists, because the reconciler looks there

    def _publish(self, job_id: str, queue: str, priority: int) -> None:
        if self.fault == "publish fails":
            raise OperationalError
        self._send(job_id, queue, priority)
        self.published.append((job_id, queue, priority))
        if self.fault:
            raise OperationalError

    def _send(self, job_id: str, queue: str, priority: int = keys.PRIORITY_NORMAL) -> None:
        name = keys.queue_keys(queue)[keys.PRIORITY_STEPS.index(priority)]
        self.redis.lpush(name, json.dumps({"headers": {"id": job_id}}))
        self.hints[job_id] += queue != DEAD_QUEUE

    def _take_hint(self) -> str:
        raw = next(raw for name in READ_QUEUES if (raw := self.redis.rpop(name)))
        job_id: str = json.loads(raw)["headers"]["id"]
        self.hints[job_id] -= 1
        return job_id

    # The rest

    def _number(self) -> int:
        self.num_calls += 1
        return self.num_calls

    def _owner(self, process: str) -> str:
        return f"{process}{self._number()}"

    def _new_job(
        self, deadline: float, schema: int = SCHEMA, conversation: str | None = CONVERSATION, key: str | None = None,
        request: str = "",
    ) -> NewJob:  # fmt: skip
        return new_job(
            self._new_id(), payload=payload(schema=schema), conversation_id=conversation,
            idempotency_key=key, request=request, deadline_s=deadline * TICK_S,
        )  # fmt: skip

    def _new_id(self) -> str:
        # In the order of making, also for Redis: jobs of the same millisecond are sorted by id.
        return f"j{self._number():03}"

    def _job(self, job_id: str) -> Job:
        return self.model.get(job_id, GONE)

    def _present(self) -> list[Job]:
        return [job for job in self.model.values() if not isinstance(job, Gone)]

    def _record(self, job: Job) -> None:
        self.model[job.new.id], self.past[job.new.id] = job, Past()

    def _let_pass(self, num_ticks: int) -> None:
        """Every time in Redis moves into the past; the server's own clock cannot be set."""
        self.now += num_ticks
        back = -num_ticks * int(TICK_S * 1000)
        with self.redis.pipeline() as pipe:
            for job in self._present():
                name = keys.job(job.new.id)
                pipe.hincrby(name, "created", back).hincrby(name, "deadline", back)
                if job.state is JobState.QUEUED:
                    pipe.zincrby(keys.JOBS_QUEUED, back, job.new.id)
                elif job.state is JobState.RUNNING:
                    pipe.hincrby(name, "lease_until", back).zincrby(keys.JOBS_RUNNING, back, job.new.id)
                else:
                    pipe.hincrby(name, "finished", back)
            pipe.execute()

    def _check_that_one_claim_at_most_may_write(self) -> None:
        """Asked with an EMIT that writes nothing and renews nothing."""
        for claim in {(held.claim.job_id, held.claim.attempt): held.claim for held in self.held}.values():
            may_write = self.store.emit(claim.job_id, claim.attempt, 1, [], lease_s=0) is not EmitReply.LOST
            assert may_write == self._job(claim.job_id).is_run_by(claim)


def _as_drafts(drafts: list[Event]) -> list[Draft]:
    return [Draft(draft.type, draft.text) for draft in drafts]


@pytest.fixture
def machine(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> type[JobsMachine]:
    monkeypatch.setattr(reconciler, "HINT_LOST_AFTER_S", TICK_S / 2)

    class Machine(JobsMachine):
        stores = (JobStore(client), JobStore(client, schema=SCHEMA + 1))

    return Machine


def test_the_scripts_do_what_the_model_says(machine: type[JobsMachine]) -> None:
    chosen = settings(
        # Many short searches: after ten runs hypothesis tries variants of them rather than new ones.
        max_examples=10,
        stateful_step_count=40,
        derandomize=True,
        deadline=None,
        print_blob=True,
        # Each step asks a server, on whatever machine: how long that takes says nothing about the test.
        suppress_health_check=[HealthCheck.too_slow],
    )
    for number in range(int(os.environ.get("STATE_MACHINE_SEARCHES", "12"))):
        run_state_machine_as_test(seed(number)(machine), settings=chosen)
