"""Log lines: one JSON object each, with time, level, message, `action` and often `job_id`. Never a prompt."""

import json
import logging
import sys
from datetime import UTC, datetime

_FIELDS = (
    "action", "job_id", "worker", "attempt", "seconds", "reason", "cause", "rss_mib", "limit_mib", "num_slots",
    "context", "engine", "figures",
)  # fmt: skip


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    """Send all loggers of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One line per HTTP call or per message would drown what matters.
    for noisy in ("httpx", "httpcore", "amqp", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
