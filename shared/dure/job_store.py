"""The job's truth in Redis: every change is one Lua script, atomic and by the server's clock.

Synchronous on purpose: workers run it in their threads, the gateway in a thread pool, so there is one copy of it.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any, Literal, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dure import keys
from dure.errors import IdempotencyConflict, QueueFull, StoreError, StoreUnavailable
from dure.events import Draft, Event
from dure.job import (
    MAX_ATTEMPTS,
    SCHEMA,
    JobError,
    JobPayload,
    JobRecord,
    JobState,
    LossCause,
    Message,
    Usage,
)

# Ordered by who waits for whom: lease < a job's deadline < the broker's visibility timeout (600 s).
LEASE_S = 15.0
# Entries in one EMIT; Lua's stack takes some thousands of arguments.
_MAX_DRAFTS = 500
_DISK_WITHIN_S = 2.0  # below the client's own time-out
_MAX_TURNS = 80  # messages kept of a conversation; the context window is far smaller


class EmitReply(StrEnum):
    OK = "OK"
    CANCEL = "CANCEL"  # stop generating, then finish as cancelled
    LOST = "LOST"  # another attempt owns the job now: stop, write nothing


class NoClaim(StrEnum):
    """Why a job cannot be had."""

    GONE = "GONE"  # no such job
    FINAL = "FINAL"  # had ended before
    BUSY = "BUSY"  # another worker has it
    ALONE = "ALONE"  # its last try: claim it again when nothing else runs in this worker
    NEWER = "NEWER"  # of a newer release: left to a worker of that one
    CANCELLED = "CANCELLED"  # these three ended it just now
    QUARANTINED = "QUARANTINED"
    EXPIRED = "EXPIRED"


class Lost(StrEnum):
    """What became of a job whose attempt, or whose time in the queue, is over."""

    REQUEUED = "REQUEUED"
    CANCELLED = "CANCELLED"  # it was to be cancelled anyway
    QUARANTINED = "QUARANTINED"  # it had cost its last attempt
    EXPIRED = "EXPIRED"  # queued past its deadline
    NOTED = "NOTED"  # its lease was over before; now the cause is known
    KEPT = "KEPT"  # nothing to do
    GONE = "GONE"  # no such job


class CancelReply(StrEnum):
    CANCELLED = "CANCELLED"  # was queued
    REQUESTED = "REQUESTED"  # its worker will stop
    FINAL = "FINAL"  # had ended before
    GONE = "GONE"  # no such job


@dataclass(frozen=True)
class NewJob:
    id: str
    payload: JobPayload
    model: str
    conversation_id: str | None = None
    idempotency_key: str | None = None
    request: str = ""  # as the client sent it; the same key with another request is refused
    deadline_s: float = 300.0
    tenant: str = keys.DEFAULT_TENANT

    @property
    def conversation_key(self) -> str:
        return keys.conversation(self.tenant, self.conversation_id) if self.conversation_id else ""

    @property
    def idempotency_slot(self) -> str:
        return keys.idempotency(self.tenant, self.idempotency_key) if self.idempotency_key else ""

    def fingerprint(self) -> str:
        return hashlib.sha256(self.request.encode()).hexdigest()


@dataclass(frozen=True)
class Claim:
    """The right to run a job as one attempt, until the lease runs out."""

    job_id: str
    attempt: int
    payload_json: str
    deadline_s: float  # seconds left until the job's deadline
    conversation_key: str


@dataclass(frozen=True)
class Waiting:
    """A queued job. is_revived: a worker had begun it, and somebody may have seen half an answer."""

    id: str
    model: str
    is_revived: bool


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended. `question` and `reply` become the conversation's next two turns when done."""

    state: Literal[JobState.DONE, JobState.FAILED, JobState.CANCELLED]
    reply: str = ""
    finish_reason: str = ""
    usage: Usage = Usage()
    error: JobError | None = None
    question: str = ""


def connect(url: str, timeout_s: float, **options: Any) -> "redis.Redis":
    """A client whose every command ends within twice `timeout_s`, answered or not. Replies are str."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        health_check_interval=10,
        # One more try on a new connection: those in the pool break when the server restarts.
        retry=Retry(NoBackoff(), 1),
        **options,
    )


class JobStore:
    """submit, claim, emit, finish, cancel, expire, lose, release, retry: one script each. job.py draws the arrows.

    Every method raises StoreUnavailable when Redis is away; the call may then have happened, and repeating it is safe.
    A script is called by its own hash, so that releases with different scripts share one server. `schema` is the
    newest form of a job that this side understands.
    """

    def __init__(self, client: "redis.Redis", *, waits_for_disk: bool = False, schema: int = SCHEMA) -> None:
        """waits_for_disk: SUBMIT returns when the job is in the append-only file on disk (WAITAOF)."""
        self.redis = client
        self._waits_for_disk = waits_for_disk
        self._scripts = {name: client.register_script(_source(name, schema)) for name in _SCRIPTS}

    def submit(self, job: NewJob, *, max_queued: int) -> tuple[str, bool]:
        """Record the job as queued. Returns its id and whether it is new (else: the same request sent before).

        Raises QueueFull, IdempotencyConflict.
        """
        run = self._run_and_wait_for_disk if self._waits_for_disk else self._run
        status, detail = run(
            "submit",
            [*self._job_keys(job.id), *filter(None, [job.idempotency_slot])],
            [job.id, job.payload.to_json(), job.model, job.conversation_key, job.conversation_id or "",
             int(job.deadline_s * 1000), max_queued, job.fingerprint(), job.payload.schema],
        )  # fmt: skip
        if status == "FULL":
            raise QueueFull(int(detail))
        if status == "CONFLICT":
            raise IdempotencyConflict
        return detail, status == "QUEUED"

    def claim(
        self, job_id: str, owner: str, worker: str, lease_s: float = LEASE_S, *, is_alone: bool = False
    ) -> Claim | NoClaim:
        """Take the job for one attempt. owner is "worker:process:call"; is_alone: nothing else runs in this worker."""
        arguments = [job_id, owner, _ms(lease_s), worker, int(is_alone)]
        status, *rest = self._run("claim", self._job_keys(job_id), arguments)
        if status != "CLAIMED":
            return NoClaim(status)
        attempt, payload, deadline_ms, conversation = rest
        return Claim(job_id, int(attempt), payload, int(deadline_ms) / 1000, conversation)

    def emit(
        self, job_id: str, attempt: int, first_seq: int, drafts: list[Draft], lease_s: float = LEASE_S
    ) -> EmitReply:
        """Append text events and renew the lease; lease_s = 0 leaves it alone and only asks for the cancel flag."""
        reply = EmitReply.OK
        for start in range(0, max(1, len(drafts)), _MAX_DRAFTS):
            part = drafts[start : start + _MAX_DRAFTS]
            arguments = [job_id, attempt, _ms(lease_s), first_seq + start, *_flat(part)]
            reply = EmitReply(self._run("emit", self._job_keys(job_id), arguments))
            if reply is EmitReply.LOST:
                break
        return reply

    def finish(self, claim: Claim, outcome: Outcome, first_seq: int, drafts: list[Draft]) -> bool:
        """End the job, with the events not emitted yet. False: the attempt was lost and nothing was written."""
        error = outcome.error or JobError("", "")
        if len(drafts) > _MAX_DRAFTS:
            last = len(drafts) - _MAX_DRAFTS
            self.emit(claim.job_id, claim.attempt, first_seq, drafts[:last])
            first_seq, drafts = first_seq + last, drafts[last:]
        reply = self._run(
            "finish",
            [*self._job_keys(claim.job_id), *filter(None, [claim.conversation_key])],
            [claim.job_id, claim.attempt, outcome.state.value, outcome.reply, outcome.finish_reason,
             outcome.usage.prompt_tokens, outcome.usage.completion_tokens, error.code, error.message, _MAX_TURNS,
             _turn("user", outcome.question), _turn("assistant", outcome.reply), first_seq, *_flat(drafts)],
        )  # fmt: skip
        return str(reply) != "LOST"

    def release(self, claim: Claim) -> bool:
        """Give the job back to the queue, uncharged. False: it was no longer ours."""
        return str(self._run("release", self._job_keys(claim.job_id), [claim.job_id, claim.attempt])) == "OK"

    def cancel(self, job_id: str) -> CancelReply:
        return CancelReply(self._run("cancel", self._job_keys(job_id), [job_id]))

    def expire(self, job_id: str) -> Lost:
        """Take the job from a silent worker, or end it when it waited past its deadline; else leave it."""
        return Lost(self._run("expire", self._job_keys(job_id), [job_id]))

    def lose(self, job_id: str, process: str, cause: LossCause, rss_mib: int) -> Lost:
        """Take the job from a process that has certainly ended; `process` is "worker:process:", as its owners begin."""
        return Lost(self._run("lose", self._job_keys(job_id), [job_id, process, cause.value, rss_mib]))

    def retry(self, job_id: str, new_id: str, deadline_s: float) -> bool:
        """Ask a quarantined job again as a new one. False: it is not in quarantine."""
        arguments = [job_id, new_id, int(deadline_s * 1000)]
        return str(self._run("retry", [*self._job_keys(job_id), keys.job(new_id)], arguments)) == "OK"

    def quarantined(self) -> list[str]:
        """Ids, oldest first."""
        return self._ids(keys.JOBS_QUARANTINED, float("inf"))

    def get(self, job_id: str) -> JobRecord | None:
        raw = self._ask(lambda: self.redis.hgetall(keys.job(job_id)))
        return JobRecord.from_hash(job_id, raw) if raw else None

    def queue_position(self, job_id: str) -> int | None:
        """Number of jobs before this one, 0 for the next; None when it is not queued."""
        return cast("int | None", self._ask(lambda: self.redis.zrank(keys.JOBS_QUEUED, job_id)))

    def conversation(self, key: str) -> list[Message]:
        return [Message(**json.loads(turn)) for turn in self._ask(lambda: self.redis.lrange(key, 0, -1))]

    def events(self, job_id: str) -> list[Event]:
        """All that its stream still holds, in order."""
        entries = self._ask(lambda: self.redis.xrange(keys.events(job_id)))
        return [Event.from_entry(entry_id, fields) for entry_id, fields in entries]

    def sentences(self, job_id: str, attempt: int) -> str:
        """Text that one attempt sent for good."""
        found = self.events(job_id)
        return "".join(event.text for event in found if event.type == "sentence" and event.attempt == attempt)

    def now_s(self) -> float:
        seconds, microseconds = self._ask(self.redis.time)
        return float(seconds + microseconds / 1e6)

    def running_ids(self) -> list[str]:
        return self._ids(keys.JOBS_RUNNING, float("inf"))

    def leases_over(self) -> list[str]:
        return self._ids(keys.JOBS_RUNNING, self.now_s())

    def queued_longer_than(self, age_s: float) -> list[str]:
        return self._ids(keys.JOBS_QUEUED, self.now_s() - age_s)

    def waiting(self, age_s: float) -> list[Waiting]:
        """Queued jobs that should have a hint by now: older than age_s, or begun before by a worker that was lost."""
        old = set(self.queued_longer_than(age_s))
        job_ids = self._ids(keys.JOBS_QUEUED, float("inf"))

        def command() -> list[Any]:
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hmget(keys.job(job_id), "model", "attempt")
                return pipe.execute()

        found = [
            Waiting(job_id, model, attempt != "0")
            for job_id, (model, attempt) in zip(job_ids, self._ask(command), strict=True)
            if model is not None  # ended and gone in between
        ]
        return [job for job in found if job.is_revived or job.id in old]

    def _ids(self, zset: str, until_s: float) -> list[str]:
        until = "+inf" if until_s == float("inf") else int(until_s * 1000)
        return cast("list[str]", self._ask(lambda: self.redis.zrangebyscore(zset, "-inf", until)))

    @staticmethod
    def _job_keys(job_id: str) -> list[str]:
        return [keys.job(job_id), keys.events(job_id), keys.JOBS_QUEUED, keys.JOBS_RUNNING, keys.JOBS_QUARANTINED]

    def _run(self, name: str, script_keys: list[str], arguments: list[Any]) -> Any:
        return self._ask(lambda: self._scripts[name](keys=script_keys, args=arguments))

    def _run_and_wait_for_disk(self, name: str, script_keys: list[str], arguments: list[Any]) -> Any:
        """Raises StoreUnavailable when the disk does not follow; the call has happened, and may be repeated."""

        def command() -> Any:
            # One connection for both: WAITAOF speaks of its own connection's writes.
            with self.redis.pipeline(transaction=False) as pipe:
                self._scripts[name](keys=script_keys, args=arguments, client=pipe)
                pipe.execute_command("WAITAOF", 1, 0, _ms(_DISK_WITHIN_S))  # type: ignore[no-untyped-call]
                return pipe.execute()

        reply, (num_local, _) = self._ask(command)
        if num_local < 1:
            raise StoreUnavailable(f"Redis did not write the job to its disk within {_DISK_WITHIN_S:g} s")
        return reply

    @staticmethod
    def _ask(command: Any) -> Any:
        """The one border at which redis-py's errors become ours."""
        try:
            return command()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        except redis.ResponseError as error:
            raise StoreError(f"Redis refused a command: {error}") from error

    def purge(self, job_id: str, kind: Literal["queued", "quarantined", "ended"], settled_s: float) -> bool:
        """Cancel a queued job, or delete one that ended settled_s ago. False: it is not, or no longer, of that kind."""
        return str(self._run("purge", self._job_keys(job_id), [job_id, kind, _ms(settled_s)])) != "KEPT"


_SCRIPTS = ("submit", "claim", "emit", "finish", "release", "cancel", "expire", "lose", "retry", "purge")


def _source(name: str, schema: int) -> str:
    constants = {
        "SCHEMA": schema,
        "MAX_ATTEMPTS": MAX_ATTEMPTS,
        **{name: value for name, value in vars(keys).items() if name.startswith("KEEP_")},
    }
    line = f"local {', '.join(constants)} = {', '.join(map(str, constants.values()))}\n"
    folder = files("dure") / "scripts"
    return line + (folder / "_prelude.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _flat(drafts: list[Draft]) -> list[str]:
    return [part for draft in drafts for part in (draft.type.value, draft.text, str(draft.replaces))]


def _turn(role: str, content: str) -> str:
    return json.dumps({"role": role, "content": content}, ensure_ascii=False)
