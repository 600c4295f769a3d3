"""What became of every job: lost, duplicated, wrong, or with a gap; and how long a dead worker's jobs waited."""

import itertools
import statistics
from dataclasses import dataclass, field, replace

from dure import keys
from dure.edits import PARSING, Pass
from dure.events import Event
from dure.job import JobPayload, JobRecord, Message
from dure.job_store import JobStore
from dure_worker.conversation.conversation import Conversation
from dure_worker.engines import GenerateRequest
from dure_worker.engines.scripted import ScriptedEngine
from dure_worker.korean.editor import KoreanEditor
from dure_worker.whole_answer import whole_answer
from support import events


@dataclass(frozen=True)
class Asked:
    """One question of the soak. may_cancel: somebody tried to, so both ends are right."""

    job_id: str
    payload: JobPayload
    may_cancel: bool


@dataclass
class Verdict:
    """Lists of job ids; recoveries in seconds."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    @property
    def bad(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.wrong, *self.gaps]

    def recovery_s(self, percent: int) -> float:
        if len(self.recoveries) < 2:  # noqa: PLR2004 - quantiles need two
            return max(self.recoveries, default=0.0)
        return statistics.quantiles(self.recoveries, n=100, method="inclusive")[percent - 1]


def judge(store: JobStore, asked: list[Asked], deaths: list[tuple[str, float]]) -> Verdict:
    verdict = Verdict()
    engine = ScriptedEngine()
    for question in asked:
        job = store.get(question.job_id)
        found = events(store, question.job_id)
        finals = [event for event in found if event.type == "final"]
        if job is None or not job.state.is_final or not finals:
            verdict.lost.append(question.job_id)
            continue
        if len(finals) > 1 or found[-1].type != "final" or _is_open(store, question.job_id):
            verdict.duplicated.append(question.job_id)
        if _has_gap(job, found):
            verdict.gaps.append(question.job_id)
        if not _is_right(job, question, engine):
            verdict.wrong.append(question.job_id)
        verdict.recoveries += _recoveries(found, deaths)
    return verdict


def expected_reply(payload: JobPayload, engine: ScriptedEngine) -> str:
    """What the scripted engine says alone, without a cluster around it."""
    prompt = Conversation(engine.count_tokens, engine.info.context).fit(payload)
    # Of a scripted worker's passes none parses or ends loops.
    editor = KoreanEditor(frozenset(Pass) - PARSING - {Pass.REPETITION})
    request = GenerateRequest("alone", prompt.messages, prompt.max_tokens)
    tokens = whole_answer(engine, request, editor)
    sentences = [sentence for token in tokens for sentence in editor.feed(token.text)]
    return "".join(sentence.text for sentence in [*sentences, *editor.finish(is_cut=True)]).rstrip()


def question(number: int, max_tokens: int) -> JobPayload:
    return JobPayload([Message("user", f"{number}번째 질문입니다.")], "polite", "helpful", max_tokens)


def _is_open(store: JobStore, job_id: str) -> bool:
    return any(store.redis.zscore(name, job_id) is not None for name in (keys.JOBS_QUEUED, keys.JOBS_RUNNING))


def _has_gap(job: JobRecord, found: list[Event]) -> bool:
    last = [event.seq for event in found if event.seq and event.attempt == job.attempt]
    return last != list(range(1, len(last) + 1))


def _is_right(job: JobRecord, question: Asked, engine: ScriptedEngine) -> bool:
    if job.state == "cancelled":
        return question.may_cancel
    if job.state != "done":
        return False
    reply, alone = job.reply or "", expected_reply(question.payload, engine)
    # A later attempt goes on from the sentences already sent, and a sentence of which a slow worker has sent a part is
    # not cut back: perhaps further, never otherwise.
    further = expected_reply(replace(question.payload, max_tokens=4 * question.payload.max_tokens + 64), engine)
    return further.startswith(reply) and (reply.startswith(alone) if job.attempt == 1 else bool(reply))


def _recoveries(found: list[Event], deaths: list[tuple[str, float]]) -> list[float]:
    """From the death of an attempt's worker to the start of the next attempt."""
    starts = [
        (event.worker, int(event.id.split("-")[0]) / 1000) for event in found if event.type in {"start", "restarted"}
    ]
    recoveries: list[float] = []
    for (worker, began), (_, again) in itertools.pairwise(starts):
        between = [died for name, died in deaths if name == worker and began <= died <= again]
        recoveries += [again - between[0]] if between else []
    return recoveries
