"""What a worker tells its supervisor twice a second, one JSON line in a pipe."""

import json
from dataclasses import asdict, dataclass, field
from typing import Self


@dataclass(frozen=True)
class Beat:
    """stalled_s: seconds since any running answer advanced, 0 when none runs. job_ids: those that run.

    The limits are the worker's own settings, for the supervisor to enforce; memory_mib 0 is none.
    """

    is_ready: bool  # the model is loaded
    stalled_s: float = 0.0
    job_ids: list[str] = field(default_factory=list)
    memory_mib: int = 0
    hung_after_s: float = 30.0

    def to_line(self) -> bytes:
        """At most PIPE_BUF bytes for the 64 slots that a worker can have, so that lines never mix."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def last_of(cls, lines: bytes) -> Self | None:
        """The newest whole line, if there is one."""
        whole = lines[: lines.rfind(b"\n") + 1].splitlines()
        return cls(**json.loads(whole[-1])) if whole else None
