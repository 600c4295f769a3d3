"""Events of a job, as they lie in the stream `job:{id}:ev`.

| type      | written by | carries                                                                            |
|-----------|------------|------------------------------------------------------------------------------------|
| start     | CLAIM      | attempt 1, worker                                                                  |
| restarted | CLAIM      | attempt, worker: text before it is void; what stays of it comes again as sentence  |
| token     | EMIT       | attempt, seq, text: a draft as generated, one token or several                     |
| sentence  | EMIT       | attempt, seq, text: edited text, never taken back; replaces: how much of the draft |
| final     | the ending script | state; the answer itself is in the job's hash                               |

seq counts the token and sentence events of one attempt from 1, without gaps. replaces: code points at the beginning of
what is left of the draft, composed (NFC) and without U+FFFD, in whose place the sentence comes.
"""

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class EventType(StrEnum):
    START = "start"
    RESTARTED = "restarted"
    TOKEN = "token"  # noqa: S105
    SENTENCE = "sentence"
    FINAL = "final"
    OTHER = "other"  # of a newer release; readers pass over it

    @classmethod
    def _missing_(cls, value: object) -> "EventType":
        return cls.OTHER


def tidy(text: str) -> str:
    """Generated text as drafts show it and sentences count it: composed, without broken characters."""
    return unicodedata.normalize("NFC", text.replace("\ufffd", ""))


@dataclass(frozen=True)
class Event:
    """One entry of the stream. `id` is Redis' entry id, what SSE's Last-Event-ID carries."""

    id: str
    type: EventType
    attempt: int
    seq: int = 0
    text: str = ""
    state: str = ""
    worker: str = ""
    replaces: int = 0

    @classmethod
    def from_entry(cls, entry_id: str, fields: dict[str, str]) -> Self:
        return cls(
            id=entry_id,
            type=EventType(fields["type"]),
            attempt=int(fields.get("attempt", 0)),
            seq=int(fields.get("seq", 0)),
            text=fields.get("text", ""),
            state=fields.get("state", ""),
            worker=fields.get("worker", ""),
            # An older worker edits nothing: its sentences are as long as what they replace.
            replaces=int(fields.get("replaces", len(fields.get("text", "")) if fields["type"] == "sentence" else 0)),
        )


@dataclass(frozen=True)
class Draft:
    """A text event on its way into the stream; EMIT gives it attempt and seq."""

    type: EventType
    text: str
    replaces: int = 0
