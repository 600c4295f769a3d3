"""Jobs as tables and as JSON. Their words appear only where `with_text` is said."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from dure.cli_shared import cell, duration, plain_table
from dure.events import Event, EventType, tidy
from dure.job import JobRecord, LostAttempt, Message
from dure.job_admin import JobRow

_STATE_STYLES = {"running": "green", "failed": "red", "quarantined": "bold red", "cancelled": "dim", "done": "dim"}
_MODEL = 2  # the column
# Named one by one: a field added to the record later stays inside until somebody has thought about it.
_PLAIN_FIELDS = (
    "id", "state", "model", "attempt", "is_cancel_requested", "created_s", "started_s", "first_token_s", "finished_s",
    "owner", "conversation_id", "finish_reason", "error", "retried_as",
)  # fmt: skip


@dataclass(frozen=True)
class JobDetail:
    """A job with all that is known of it. asked is None where the words were not asked for."""

    record: JobRecord
    is_quarantined: bool
    events: list[Event]
    now_s: float
    asked: list[Message] | None = None

    @property
    def with_text(self) -> bool:
        return self.asked is not None

    @property
    def shown_state(self) -> str:
        return "quarantined" if self.is_quarantined else self.record.state.value

    def offset_s(self, event: Event) -> float:
        """Since the job was asked. An entry's id begins with the server's time in ms."""
        return round(int(event.id.split("-")[0]) / 1000 - self.record.created_s, 3)


def rows_json(rows: Iterable[JobRow], now_s: float) -> list[dict[str, Any]]:
    return [asdict(row) | {"age_s": round(now_s - row.created_s, 3)} for row in rows]


def rows_table(rows: list[JobRow], now_s: float) -> Table:
    """Columns that say nothing are left out, for width: an empty one, and the model where there is only one."""
    headers = ["작업\njob", "상태\nstate", "모델\nmodel", "시도\nattempt", "경과\nage", "작업기\nworker", "오류\nerror"]
    lines = [
        [row.id, _state(row), row.model, str(row.attempt), duration(now_s - row.created_s), row.worker or "",
         row.error_code or ""]
        for row in rows
    ]  # fmt: skip
    is_one_model = len({row.model for row in rows}) == 1
    kept = [
        number
        for number in range(len(headers))
        if any(line[number] for line in lines) and not (number == _MODEL and is_one_model)
    ]
    table = plain_table(*(headers[number] for number in kept))
    for number, column in zip(kept, table.columns, strict=True):
        column.no_wrap = number != _MODEL  # which gives way where there is no room; an id must stay whole
    for line in lines:
        style = _STATE_STYLES.get(line[1], "")
        table.add_row(*(cell(line[number], style if number == 1 else "") for number in kept))
    return table


def detail_json(detail: JobDetail) -> dict[str, Any]:
    raw = asdict(detail.record)
    shown = {name: raw[name] for name in _PLAIN_FIELDS} | {
        "is_quarantined": detail.is_quarantined,
        "usage": detail.record.usage.to_dict(),
        "timings": detail.record.timings(),
        "lost": raw["lost"],
        "events": [_event_json(detail, event) for event in detail.events],
    }
    if detail.asked is not None:
        shown |= {
            "messages": [asdict(message) for message in detail.asked],
            "reply": detail.record.reply,
            "edited": [{"before": before, "after": after} for before, after in edited(detail.events)],
        }
    return shown


def print_detail(detail: JobDetail, console: Console) -> None:
    console.print(_record_table(detail))
    if detail.record.lost:
        console.print(cell("\n잃은 시도 / lost attempts", "bold"))
        console.print(_lost_table(detail.record.lost, detail.record.created_s))
    console.print(cell("\n시간순 기록 / timeline", "bold"))
    if detail.events:
        console.print(_timeline_table(detail))
    else:
        console.print(cell(_no_events(detail.record), "dim"), soft_wrap=True)
    if detail.asked is not None:
        _print_words(detail.asked, detail.record.reply, console)
        _print_edits(edited(detail.events), console)


def _state(row: JobRow) -> str:
    return "quarantined" if row.is_quarantined else row.state.value


def _record_table(detail: JobDetail) -> Table:
    job, timings = detail.record, detail.record.timings()
    speed = f", {timings['tokens_per_s']} tokens/s" if timings["tokens_per_s"] else ""
    asked = datetime.fromtimestamp(job.created_s, UTC).astimezone()
    fields = {
        "작업 / job": job.id,
        "상태 / state": detail.shown_state + (", 취소 요청됨 / cancel asked" if _is_stopping(job) else ""),
        "모델 / model": job.model,
        "시도 / attempts": str(job.attempt),
        "작업기 / worker": (job.owner or "").split(":")[0],
        "접수 / accepted": f"{asked:%Y-%m-%d %H:%M:%S}, {duration(detail.now_s - job.created_s)} 전 / ago",
        "시작 / started": _offset(timings["queued_s"]),
        "첫 토큰 / first token": _offset(timings["first_token_s"]),
        "끝 / ended": _offset(timings["total_s"]),
        "토큰 / tokens": f"{job.usage.prompt_tokens} + {job.usage.completion_tokens}{speed}"
        if job.usage.prompt_tokens
        else "",
        "오류 / error": f"{job.error.code}: {job.error.message}" if job.error else "",
        "다시 물은 작업 / retried as": job.retried_as or "",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in fields.items():
        if value:
            table.add_row(cell(name, "bold"), cell(value, _STATE_STYLES.get(value, "")))
    return table


def _is_stopping(job: JobRecord) -> bool:
    return job.is_cancel_requested and not job.state.is_final


def _lost_table(lost: Iterable[LostAttempt], created_s: float) -> Table:
    table = plain_table("시도\nattempt", "원인\ncause", "메모리\nRSS MiB", "작업기\nworker", "시점\nat")
    for one in lost:
        memory = str(one.rss_mib) if one.rss_mib else "?"
        table.add_row(str(one.attempt), one.cause.value, memory, cell(one.worker), _offset(one.at_s - created_s))
    return table


def _timeline_table(detail: JobDetail) -> Table:
    """Drafts that follow one another are one line: an answer has hundreds of them."""
    headers = ["시점\nat", "이벤트\nevent", "시도\nattempt", "번호\nseq", "작업기\nworker", "글자 수\nchars"]
    table = plain_table(*headers, *(["글\ntext"] if detail.with_text else []))
    for number in (0, 3, 5):
        table.columns[number].justify = "right"
    for (kind, attempt), group in groupby(detail.events, key=_line_of):
        events = list(group)
        first, last = events[0], events[-1]
        text = "".join(event.text for event in events)
        seq = f"{first.seq}-{last.seq}" if len(events) > 1 else str(first.seq or "")
        what = f"final: {first.state}" if kind.startswith(EventType.FINAL) else first.type.value
        line = [_offset(detail.offset_s(first)), what, str(attempt), seq, first.worker, str(len(text) or "")]
        table.add_row(*map(cell, line), *([cell(text)] if detail.with_text else []))
    if detail.with_text:
        table.columns[-1].overflow = "fold"
    return table


def _line_of(event: Event) -> tuple[str, int]:
    is_draft = event.type is EventType.TOKEN
    return event.type.value if is_draft else f"{event.type.value} {event.id}", event.attempt


def _event_json(detail: JobDetail, event: Event) -> dict[str, Any]:
    shown = {
        "type": event.type.value,
        "attempt": event.attempt,
        "seq": event.seq,
        "worker": event.worker,
        "state": event.state,
        "offset_s": detail.offset_s(event),
        "num_chars": len(event.text),
    }
    return shown | ({"text": event.text} if detail.with_text else {})


def _no_events(job: JobRecord) -> str:
    if job.state.is_final:
        return "끝난 지 한 시간이 지나 지워졌습니다. / Gone: events are kept for an hour after the end."
    return "아직 아무 일도 없습니다. / Nothing has happened yet."


def _print_words(asked: list[Message], reply: str | None, console: Console) -> None:
    for message in asked:
        console.print(cell(f"\n{message.role}", "bold cyan"))
        console.print(cell(message.content), soft_wrap=True)
    if reply:
        console.print(cell("\n답 / reply", "bold green"))
        console.print(cell(reply), soft_wrap=True)


def edited(events: list[Event]) -> list[tuple[str, str]]:
    """Sentences of the last attempt that were sent otherwise than generated: before and after."""
    found: list[tuple[str, str]] = []
    draft = ""
    for event in events:
        if event.type is EventType.RESTARTED:
            found, draft = [], ""
        elif event.type is EventType.TOKEN:
            draft = tidy(draft + event.text)
        elif event.type is EventType.SENTENCE:
            before, draft = draft[: event.replaces], draft[event.replaces :]
            # What an earlier attempt had sent replaces nothing.
            if before and before.strip() != event.text.strip():
                found.append((before.strip(), event.text.strip()))
    return found


def _print_edits(edits: list[tuple[str, str]], console: Console) -> None:
    if edits:
        console.print(cell("\n고친 문장 / edited", "bold"))
    for before, after in edits:
        console.print(cell(f"- {before}", "red"), soft_wrap=True)
        console.print(cell(f"+ {after}", "green"), soft_wrap=True)


def _offset(seconds: float | None) -> str:
    return "" if seconds is None else f"+{seconds:.2f} s"
