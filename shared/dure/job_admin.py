"""What operators ask about jobs and do with them. Nothing here reads a prompt or an answer unless told to."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Self, cast

from dure import keys
from dure.errors import DureError, SettingsError
from dure.job import JobPayload, JobRecord, JobState, Message

if TYPE_CHECKING:
    from dure.job_store import JobStore

# Somebody may still be reading an answer that ended just now; gateways wait for an absent Redis as long.
SETTLED_S = 60.0
_BATCH = 500
_FIELDS = ("state", "model", "attempt", "charged", "created", "finished", "owner", "error_code")


class NoSuchJob(DureError):
    def __init__(self, job_ids: list[str]) -> None:
        names = ", ".join(map(repr, job_ids))
        super().__init__(
            f"no job is called {names} (ended ones are kept for 24 h, quarantined ones for 7 days): "
            "`dure jobs list --state all` shows those that are there"
        )


class NotQuarantined(DureError):
    pass


class Selection(StrEnum):
    OPEN = "open"  # queued or running
    QUEUED = "queued"
    RUNNING = "running"
    QUARANTINED = "quarantined"
    DONE = "done"
    FAILED = "failed"  # the quarantined ones too
    CANCELLED = "cancelled"
    ALL = "all"

    @property
    def needs_scan(self) -> bool:
        """Ended jobs stand in no set of ids: their hashes are looked for."""
        return self in {Selection.ALL, Selection.DONE, Selection.FAILED, Selection.CANCELLED}


class Broom(StrEnum):
    """What `purge` clears away."""

    QUEUED = "queued"
    QUARANTINED = "quarantined"
    ENDED = "ended"  # those in quarantine excepted


@dataclass(frozen=True)
class JobRow:
    """A job in a list. Times are Unix seconds by the server's clock."""

    id: str
    state: JobState
    is_quarantined: bool
    model: str
    attempt: int
    created_s: float
    finished_s: float | None
    worker: str | None  # who has it, or had it last
    error_code: str | None

    @classmethod
    def from_fields(cls, job_id: str, values: list[str | None], *, is_quarantined: bool) -> Self | None:
        """None for a hash that has gone meanwhile, or that another program keeps under such a name."""
        raw = {name: value for name, value in zip(_FIELDS, values, strict=True) if value}
        if "charged" not in raw:
            return None
        try:
            return cls(
                id=job_id,
                state=JobState(raw["state"]),
                is_quarantined=is_quarantined,
                model=raw["model"],
                attempt=int(raw["attempt"]),
                created_s=int(raw["created"]) / 1000,
                finished_s=int(raw["finished"]) / 1000 if "finished" in raw else None,
                worker=raw["owner"].split(":")[0] if "owner" in raw else None,
                error_code=raw.get("error_code"),
            )
        except (KeyError, ValueError):
            return None

    @property
    def sort_key(self) -> tuple[int, float, str]:
        """Running ones, then the queue in its order, then ended ones, newest first. Redis too parts equals by id."""
        if self.state.is_final:
            return 2, -(self.finished_s or 0.0), self.id
        return int(self.state is JobState.QUEUED), self.created_s, self.id

    def is_in(self, selection: Selection) -> bool:
        match selection:
            case Selection.ALL:
                return True
            case Selection.OPEN:
                return not self.state.is_final
            case Selection.QUARANTINED:
                return self.is_quarantined
        return self.state == selection.value


def listed(store: "JobStore", selection: Selection) -> list[JobRow]:
    quarantined = store.quarantined()
    rows = _rows(store, _ids(store, selection, quarantined), set(quarantined))
    return sorted((row for row in rows if row.is_in(selection)), key=lambda row: row.sort_key)


def find(store: "JobStore", job_id: str) -> JobRecord:
    """Raises NoSuchJob."""
    if not _can_be_id(job_id):
        raise NoSuchJob([job_id])
    try:
        record = store.get(job_id)
    except (KeyError, ValueError):
        raise NoSuchJob([job_id]) from None  # something else lies under this name
    if record is None:
        raise NoSuchJob([job_id])
    return record


def messages(store: "JobStore", job_id: str) -> list[Message]:
    """What was asked, word for word. Raises PayloadError."""
    payload = cast("str | None", store.redis.hget(keys.job(job_id), "payload"))
    return JobPayload.from_json(payload or "").messages


def cancel(store: "JobStore", job_id: str) -> str | None:
    """CancelReply's value; None where there is no such job."""
    reply = store.cancel(job_id).value if _can_be_id(job_id) else "GONE"
    return None if reply == "GONE" else reply


def retry(store: "JobStore", job_id: str, deadline_s: float) -> tuple[str, str]:
    """Ask a quarantined job again. Returns the new job's id and its model. Raises NoSuchJob, NotQuarantined."""
    record = find(store, job_id)
    new_id = uuid.uuid4().hex
    if not store.retry(job_id, new_id, deadline_s):
        reason = f"was asked again as {record.retried_as}" if record.retried_as else f"is {record.state}"
        raise NotQuarantined(f"{job_id} {reason} and not in quarantine: `dure jobs list --state quarantined`")
    return new_id, record.model


def purgeable(store: "JobStore", broom: Broom) -> tuple[list[str], int]:
    """Ids that a purge would take, and the number of those that ended too short a while ago."""
    if broom is Broom.QUEUED:
        return [row.id for row in listed(store, Selection.QUEUED)], 0
    rows = listed(store, Selection.QUARANTINED if broom is Broom.QUARANTINED else Selection.ALL)
    ended = [row for row in rows if row.state.is_final and row.is_quarantined is (broom is Broom.QUARANTINED)]
    settled_before = store.now_s() - SETTLED_S
    settled = [row.id for row in ended if row.finished_s is not None and row.finished_s <= settled_before]
    return settled, len(ended) - len(settled)


def purge(store: "JobStore", job_id: str, broom: Broom) -> bool:
    """One job, whole or not at all. False: it is not of that kind any more."""
    kind: Literal["queued", "quarantined", "ended"] = broom.value
    return store.purge(job_id, kind, SETTLED_S)


def selection(text: str) -> Selection:
    """Raises SettingsError with the names."""
    return Selection(_one_of(text, list(Selection)))


def broom(text: str) -> Broom:
    """Raises SettingsError with the names."""
    return Broom(_one_of(text, list(Broom)))


def _one_of(text: str, names: list[Selection] | list[Broom]) -> str:
    if text not in names:
        raise SettingsError(f"--state {text!r}: wanted one of {', '.join(names)}")
    return text


def _can_be_id(job_id: str) -> bool:
    """A colon would name another key of a job; what cannot be printed may not even be sent to Redis."""
    return bool(job_id) and ":" not in job_id and job_id.isprintable()


def _ids(store: "JobStore", selection: Selection, quarantined: list[str]) -> list[str]:
    if selection.needs_scan:
        # A key may be told twice. The type keeps the streams of events away.
        found = store.redis.scan_iter(match=keys.job("*"), count=1000, _type="hash")
        return list(dict.fromkeys(key.removeprefix(keys.job("")) for key in found))
    if selection is Selection.QUARANTINED:
        return quarantined
    queued = store.queued_longer_than(0) if selection is not Selection.RUNNING else []
    running = store.running_ids() if selection is not Selection.QUEUED else []
    return list(dict.fromkeys([*running, *queued]))  # one may have been claimed in between


def _rows(store: "JobStore", job_ids: list[str], quarantined: set[str]) -> Iterator[JobRow]:
    for start in range(0, len(job_ids), _BATCH):
        ids = job_ids[start : start + _BATCH]
        with store.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(keys.job(job_id), _FIELDS)
            found = pipe.execute()
        for job_id, values in zip(ids, found, strict=True):
            if row := JobRow.from_fields(job_id, values, is_quarantined=job_id in quarantined):
                yield row
