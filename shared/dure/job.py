"""The job: what a client asked for, where it stands, and how it ended.

                    ┌──────────── d ────────────┐
                    v                           │
    submit ──a──> queued ──b──> running ──c──> done | failed | cancelled
                    │                                    ^
                    └──────────────── e ─────────────────┘

a  SUBMIT  a gateway accepted it            c  FINISH  its worker ended it
b  CLAIM   a worker took it (attempt + 1)   d  EXPIRE  its lease ran out; LOSE: its worker's supervisor saw it die;
                                               RELEASE: its worker gave it back, uncharged
e  CANCEL while queued; EXPIRE past the deadline
EXPIRE and LOSE end a job that has cost MAX_ATTEMPTS attempts: failed, and put into quarantine.
A final state never changes.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter

from dure.errors import DureError

# Of payload and hash; a worker leaves jobs of a newer one to newer workers instead of guessing.
# 2: Sampling has DRY, logit_bias and scripts. A job without them is still written as 1, for workers that know no more.
# 3: edits. 4: persona.
SCHEMA = 4
MAX_ATTEMPTS = 3

Role = Literal["system", "user", "assistant"]
Overflow = Literal["refuse", "window"]
RegisterName = Literal["formal", "polite", "plain"]  # 합쇼체, 해요체, 해체


class JobState(StrEnum):
    QUEUED = "queued"  # waits for a worker
    RUNNING = "running"  # one worker holds its lease
    DONE = "done"  # answered
    FAILED = "failed"  # ended without an answer; `error` says why
    CANCELLED = "cancelled"  # ended because somebody asked

    @property
    def is_final(self) -> bool:
        return self in {JobState.DONE, JobState.FAILED, JobState.CANCELLED}


class PayloadError(DureError):
    """A job's payload cannot be read by this release."""


# What another release or program wrote is read by its types, and with no field that this release does not know.
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Message:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    role: Role
    content: str


@dataclass(frozen=True)
class Persona:
    """How an answer speaks.

    system      its text; a client's own system message comes behind it
    examples    turns of user and assistant, put before the conversation
    register    what the Korean editor keeps the answer to. None: nothing
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    system: str
    examples: list[Message] = field(default_factory=list)
    register: RegisterName | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. None leaves a value to the worker's default.

    dry_multiplier   above 0: "Don't Repeat Yourself". A token that would make a repeated run of n tokens longer loses
                     dry_multiplier * dry_base ** (n - dry_allowed_length) of its logit, shorter runs nothing
    logit_bias       added to the logits of these token ids of the served model, -100 to 100. -100: never
    scripts          the letters of the answer come from these writing systems only (`dure.writing.Script`). Digits,
                     punctuation, symbols, emoji and white space are always allowed
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    logit_bias: dict[int, float] | None = None
    scripts: list[str] | None = None

    @property
    def schema(self) -> int:
        """The oldest that can say this."""
        return 2 if any(getattr(self, name) is not None for name in SINCE_SCHEMA_2) else 1


SINCE_SCHEMA_2 = ("dry_multiplier", "dry_base", "dry_allowed_length", "logit_bias", "scripts")


@dataclass(frozen=True)
class JobPayload:
    """What a worker needs to answer, complete in itself.

    style and personality are None where the client's own system message rules alone. persona: what they say; None: the
    worker has it by their names. overflow: what happens when prompt and answer outgrow the worker's context; None is
    `refuse`. edits: passes of the Korean editor (`dure.edits.Pass`) that may run, of those that the worker runs; None:
    all of them. schema: 0 means the oldest that can say the rest.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    messages: Annotated[list[Message], Field(min_length=1)]
    style: str | None = None
    personality: str | None = None
    max_tokens: int = 256
    stop: list[str] = field(default_factory=list)
    sampling: Sampling = Sampling()
    overflow: Overflow | None = None
    edits: list[str] | None = None
    persona: Persona | None = None
    schema: int = 0

    def __post_init__(self) -> None:
        own = 1 if self.overflow is None else 2
        own = own if self.edits is None else 3
        own = own if self.persona is None else 4
        object.__setattr__(self, "schema", max(self.schema, self.sampling.schema, own))

    def to_json(self) -> str:
        raw = asdict(self)
        for name in ("overflow", "edits", "persona"):
            if raw[name] is None:
                del raw[name]
        raw["sampling"] = {
            name: value
            for name, value in raw["sampling"].items()
            if value is not None or name not in SINCE_SCHEMA_2  # older workers refuse fields that they do not know
        }
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "JobPayload":
        """Raise PayloadError for anything this release does not understand."""
        try:
            schema = json.loads(text)["schema"]
            if schema > SCHEMA:
                raise PayloadError(
                    f"the job has schema {schema}, this worker knows {SCHEMA}: update this worker's dure"
                )
            return _PAYLOAD.validate_json(text)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            # Not the error's own text: it quotes the prompt.
            raise PayloadError(f"the job's payload cannot be read: {type(error).__name__}") from None


_PAYLOAD = TypeAdapter(JobPayload)


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "total_tokens": self.prompt_tokens + self.completion_tokens}


@dataclass(frozen=True)
class JobError:
    """Why a job failed. `code` is stable, `message` is for people and names the remedy."""

    code: str
    message: str


class LossCause(StrEnum):
    SILENT = "silent"  # its lease ran out, and nobody saw why: machine off, network cut, process frozen
    MEMORY = "memory"  # its worker was killed for its memory, by the supervisor or the kernel
    HUNG = "hung"  # its worker no longer advanced and was killed by the supervisor
    CRASHED = "crashed"  # its worker's process ended by itself
    KILLED = "killed"  # somebody killed its worker's process

    @classmethod
    def _missing_(cls, value: object) -> "LossCause":
        return cls.SILENT  # a newer release's word


@dataclass(frozen=True)
class LostAttempt:
    """An attempt that ended with its worker. rss_mib: the worker's last known resident memory, 0 where unknown."""

    attempt: int
    cause: LossCause
    rss_mib: int
    at_s: float
    worker: str

    @classmethod
    def from_field(cls, attempt: int, text: str) -> Self:
        cause, rss_mib, at_ms, owner = text.split(" ", 3)
        return cls(attempt, LossCause(cause), int(rss_mib), int(at_ms) / 1000, owner.split(":")[0])

    def __str__(self) -> str:
        memory = f" at {self.rss_mib} MiB" if self.rss_mib else ""
        return f"{self.cause.value}{memory} on {self.worker}"


@dataclass(frozen=True)
class JobRecord:
    """A job as it stands in Redis. Times are Unix seconds by the server's clock, None where not reached."""

    id: str
    state: JobState
    model: str
    attempt: int
    is_cancel_requested: bool
    created_s: float
    started_s: float | None
    first_token_s: float | None
    finished_s: float | None
    owner: str | None
    conversation_id: str | None
    reply: str | None
    finish_reason: str | None
    usage: Usage
    error: JobError | None
    lost: tuple[LostAttempt, ...] = ()  # oldest first
    retried_as: str | None = None  # the job that asks a quarantined one again

    @classmethod
    def from_hash(cls, job_id: str, raw: dict[str, str]) -> Self:
        def seconds(name: str) -> float | None:
            return int(raw[name]) / 1000 if raw.get(name) else None

        lost = sorted(name for name in raw if name.startswith("lost:"))
        history = tuple(LostAttempt.from_field(int(name.removeprefix("lost:")), raw[name]) for name in lost)
        return cls(
            id=job_id,
            state=JobState(raw["state"]),
            model=raw["model"],
            attempt=int(raw["attempt"]),
            is_cancel_requested=raw.get("cancel") == "1",
            created_s=int(raw["created"]) / 1000,
            started_s=seconds("started"),
            first_token_s=seconds("first_token"),
            finished_s=seconds("finished"),
            owner=raw.get("owner") or None,
            conversation_id=raw.get("conversation_id") or None,
            reply=raw.get("reply"),
            finish_reason=raw.get("finish_reason") or None,
            usage=Usage(int(raw.get("prompt_tokens", 0)), int(raw.get("completion_tokens", 0))),
            error=_error(raw, history),
            lost=history,
            retried_as=raw.get("retried_as"),
        )

    def timings(self) -> dict[str, float | None]:
        """Seconds spent queued, until the first token, and in all; tokens per second while decoding."""
        end, first = self.finished_s, self.first_token_s
        decode_s = end - first if end and first else 0.0
        num_decoded = self.usage.completion_tokens - 1  # the first token is the prompt's work
        return {
            "queued_s": _since(self.created_s, self.started_s),
            "first_token_s": _since(self.created_s, first),
            "total_s": _since(self.created_s, end),
            "tokens_per_s": round(num_decoded / decode_s, 2) if decode_s > 0 and num_decoded > 0 else None,
        }


def _error(raw: dict[str, str], history: tuple[LostAttempt, ...]) -> JobError | None:
    code = raw.get("error_code")
    if code == "max_attempts":
        # Made here and not in Redis: a supervisor may tell a cause after the job has ended.
        causes = "; ".join(map(str, history))
        return JobError(code, f"the job ended its worker {len(history)} times and will not be tried again: {causes}")
    return JobError(code, raw.get("error_message", "")) if code else None


def _since(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else round(end_s - start_s, 3)
