"""One job from claim to final state: the road CLAIM → context → engine → Korean → EMIT … FINISH."""

import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from dure import keys
from dure.edits import Pass
from dure.errors import DureError, EngineError, StoreError
from dure.events import Draft, EventType, tidy
from dure.job import JobError, JobPayload, JobState, PayloadError, Sampling, Usage
from dure.job_store import Claim, EmitReply, JobStore, NoClaim, Outcome
from dure_worker.conversation.conversation import Conversation, Prompt
from dure_worker.conversation.persona import register_of
from dure_worker.engines import Engine, GenerateRequest, Token
from dure_worker.korean.about import passes_for
from dure_worker.korean.editor import KoreanEditor
from dure_worker.korean.endings import Register
from dure_worker.korean.foreign import scripts_for
from dure_worker.korean.sentence import Sentence
from dure_worker.lifecycle import Lifecycle
from dure_worker.outbox import Delivery, Outbox
from dure_worker.turns import Turns
from dure_worker.whole_answer import whole_answer

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long an ended job's answer is offered to an absent Redis. Past the lease another worker may take the job over;
# until then the answer is not lost.
_FINISH_FOR_S = 120.0
_LONGEST_PAUSE_S = 1.0


# A worker that is short of memory gives the longer prompts to others.
_LONG_PROMPT_SHARE = 4

# Readers of edited text alone wait so long for a sentence; then they get its beginning.
_HOLD_S = 1.2
# Of an answer's tokens: beyond, sentences come whole, as a torn one can be cut away only while nothing of it is out.
_IN_PARTS_SHARE = 0.75


class Released(Exception):
    """Give the job back: the worker is stopping and its grace is over, or it has no memory for this prompt now."""


class Runner:
    def __init__(
        self,
        store: JobStore,
        engine: Engine,
        outbox: Outbox,
        lifecycle: Lifecycle,
        lease_s: float,
        is_tight: Callable[[], bool] = lambda: False,
        passes: Sequence[str] = (),
    ) -> None:
        """passes: of the Korean editor."""
        self._store = store
        self._engine = engine
        self._outbox = outbox
        self._lifecycle = lifecycle
        self._lease_s = lease_s
        self._is_tight = is_tight  # short of memory
        self._passes = passes
        self._conversation = Conversation(engine.count_tokens, engine.info.context)
        self._turns = Turns()

    def run(self, job_id: str) -> None:
        """Answer the job, unless it has ended, is held by another worker, or this worker is stopping."""
        with self._turns.shared():
            why_not = self._claim_and_run(job_id, is_alone=False)
        if why_not is NoClaim.ALONE:
            with self._turns.alone():
                self._claim_and_run(job_id, is_alone=True)

    def _claim_and_run(self, job_id: str, *, is_alone: bool) -> NoClaim | None:
        if self._lifecycle.is_stopping:
            return None  # the job stays queued, and a gateway sends its hint again
        owner = f"{self._lifecycle.process}{uuid.uuid4().hex}"
        name = self._lifecycle.name
        claim = _insist(lambda: self._store.claim(job_id, owner, name, self._lease_s, is_alone=is_alone), "claim")
        if isinstance(claim, NoClaim):
            level = logging.WARNING if claim is NoClaim.NEWER else logging.INFO
            log.log(level, "not claimed: %s", claim, extra={"action": "job.skip", "job_id": job_id})
            return claim
        with self._lifecycle.running(job_id):
            self._run(claim)
        return None

    def _run(self, claim: Claim) -> None:
        _say("job.start", claim)
        prefix = _insist(lambda: self._earlier_text(claim), "claim")
        delivery = self._outbox.open(claim, lambda _: self._engine.cancel(_request_id(claim)))
        try:
            outcome = self._answer(claim, delivery, prefix)
        except Released:
            self._outbox.close(delivery)
            _insist(lambda: self._store.release(claim), "release")
            _say("job.release", claim)
            return
        except (EngineError, PayloadError) as error:
            outcome = Outcome(JobState.FAILED, error=JobError(_code(error), str(error)))
        except Exception as error:
            # A defect of ours must not leave the job to its lease: it would fail the same way on every worker.
            log.exception("the job failed unexpectedly", extra={"action": "job.defect", "job_id": claim.job_id})
            outcome = Outcome(JobState.FAILED, error=JobError("internal", type(error).__name__))
        first_seq, drafts = self._outbox.close(delivery)
        if delivery.stop_reply is EmitReply.LOST:
            _say("job.lost", claim)
            return
        is_written = _insist(lambda: self._store.finish(claim, outcome, first_seq, drafts), "finish")
        _say(f"job.{outcome.state.value}" if is_written else "job.lost", claim)

    def _earlier_text(self, claim: Claim) -> str:
        return self._store.sentences(claim.job_id, claim.attempt - 1) if claim.attempt > 1 else ""

    def _answer(self, claim: Claim, delivery: Delivery, prefix: str) -> Outcome:
        payload = JobPayload.from_json(claim.payload_json)
        prompt = self._conversation.fit(payload)
        if self._is_tight() and prompt.num_tokens > self._engine.info.context // _LONG_PROMPT_SHARE:
            raise Released
        reply, sampling = begun(payload, self._passes, prompt.max_tokens, prefix)
        self._outbox.add(delivery, reply.opening())
        last, request_id = Token(""), _request_id(claim)
        with closing(self._tokens(claim, replace(payload, sampling=sampling), prompt, reply)) as tokens:
            for token in tokens:
                last = token
                self._outbox.add(delivery, reply.feed(token.text))
                if reply.is_looping:
                    break
                if delivery.stop_reply is not EmitReply.OK:
                    # Again: it may have come between two generations of this answer.
                    self._engine.cancel(request_id)
                if self._lifecycle.is_grace_over:
                    raise Released
                if time.monotonic() > delivery.deadline:
                    return _late(reply)
        if reply.is_looping and not last.finish_reason:
            # What follows would be the same again. The engine has not counted yet: each piece is about a token.
            last = Token("", "stop", Usage(completion_tokens=reply.num_pieces))
        self._outbox.add(delivery, reply.finish(is_cut=last.finish_reason != "stop"))
        self._lifecycle.count(last.usage.completion_tokens)
        self._lifecycle.count_edits(reply.edits, reply.failures)
        return Outcome(
            state=JobState.CANCELLED if last.finish_reason == "cancelled" else JobState.DONE,
            reply=reply.text.rstrip(),
            finish_reason=last.finish_reason,
            usage=Usage(last.usage.prompt_tokens or prompt.num_tokens, last.usage.completion_tokens),
            question=payload.messages[-1].content,
        )

    def _tokens(self, claim: Claim, payload: JobPayload, prompt: Prompt, reply: "Reply") -> Generator[Token]:
        request = GenerateRequest(
            id=_request_id(claim),
            messages=prompt.messages,
            prefix=reply.text,
            max_tokens=prompt.max_tokens,
            stop=payload.stop,
            sampling=payload.sampling,
            overflow=payload.overflow or "refuse",
            # As its hint: somebody may have seen half an answer.
            priority=keys.PRIORITY_NORMAL if claim.attempt == 1 else keys.PRIORITY_URGENT,
        )
        if payload.style is None:
            # The client's own words rule, and its limit is as strict as OpenAI's.
            return self._engine.generate(request)
        return whole_answer(self._engine, request, reply)


class Reply:
    """An answer as it grows: drafts of what is generated, and the edited sentences that stay.

    prefix        what an earlier attempt has sent of it
    passes        of the Korean editor, with register, is_native and said as it takes them
    max_tokens    near this limit sentences come whole
    num_pieces    that were fed: about its tokens
    """

    def __init__(
        self,
        prefix: str = "",
        passes: Sequence[str] = (),
        register: Register | None = None,
        *,
        is_native: bool = False,
        said: str = "",
        max_tokens: float = math.inf,
    ) -> None:
        self.text = prefix
        self.num_pieces = 0
        self._num_in_parts = _IN_PARTS_SHARE * max_tokens
        self._prefix = prefix
        self._editor = KoreanEditor(
            passes, register=register, is_native=is_native, said=said, before=prefix, hold_s=_HOLD_S
        )
        self._num_dropped = 0  # code points of the draft that no sentence has replaced yet

    @property
    def is_looping(self) -> bool:
        return self._editor.is_looping

    @property
    def is_torn(self) -> bool:
        """An answer that ended now would end in the middle, and nothing could be cut back to."""
        return self._editor.is_torn

    def take_back(self) -> str:
        """As KoreanEditor's. The next sentence replaces the drafts of it too."""
        forgotten = self._editor.take_back()
        self._num_dropped += len(tidy(forgotten))
        return forgotten

    @property
    def edits(self) -> Counter[str]:
        """How many by pass."""
        return self._editor.counts

    @property
    def failures(self) -> Counter[str]:
        """How often each pass failed."""
        return self._editor.failures

    def opening(self) -> list[Draft]:
        """What an earlier attempt had already sent for good is the beginning of this one too."""
        return [Draft(EventType.SENTENCE, self._prefix)] if self._prefix else []

    def feed(self, text: str) -> list[Draft]:
        if not text:
            return []
        self.num_pieces += 1
        sentences = self._editor.feed(text, in_whole_sentences=self.num_pieces > self._num_in_parts)
        return [Draft(EventType.TOKEN, text), *self._sentences(sentences)]

    def finish(self, *, is_cut: bool) -> list[Draft]:
        return self._sentences(self._editor.finish(is_cut=is_cut))

    def _sentences(self, sentences: list[Sentence]) -> list[Draft]:
        drafts = []
        for sentence in sentences:
            self._num_dropped += len(tidy(sentence.raw))
            if sentence.text:
                drafts.append(Draft(EventType.SENTENCE, sentence.text, self._num_dropped))
                self._num_dropped = 0
        self.text += "".join(draft.text for draft in drafts)
        return drafts


def begun(payload: JobPayload, passes: Sequence[str], max_tokens: int, prefix: str = "") -> tuple[Reply, Sampling]:
    """The reply to a job, and how its tokens are drawn. passes: those that its worker runs."""
    texts = [message.content for message in payload.messages]
    passes = passes_for(texts, (name for name in passes if payload.edits is None or name in payload.edits))
    sampling, is_native = payload.sampling, False
    if Pass.FOREIGN in passes and sampling.scripts is None and payload.style is not None:
        sampling = replace(sampling, scripts=scripts_for(texts))
        is_native = sampling.scripts is not None
    reply = Reply(
        prefix, passes, register_of(payload), is_native=is_native, said="\n".join(texts), max_tokens=max_tokens
    )
    return reply, sampling


def _request_id(claim: Claim) -> str:
    return f"{claim.job_id}/{claim.attempt}"


def _late(reply: Reply) -> Outcome:
    error = JobError("deadline", "the answer took longer than the job's deadline: ask for fewer tokens or add a worker")
    return Outcome(JobState.FAILED, reply=reply.text.rstrip(), error=error)


def _code(error: DureError) -> str:
    return error.code if isinstance(error, EngineError) else "bad_payload"


def _say(action: str, claim: Claim) -> None:
    log.info(action, extra={"action": action, "job_id": claim.job_id, "attempt": claim.attempt})


def _insist(command: Callable[[], T], name: str) -> T:
    """Repeat a store call while Redis is away or refuses (full disk, full memory). Every script may be repeated."""
    give_up = time.monotonic() + _FINISH_FOR_S
    pause_s = 0.05
    while True:
        try:
            return command()
        except StoreError as error:
            log.warning("%s waits for Redis: %s", name, error, extra={"action": "store.wait"})
            if time.monotonic() > give_up:
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
