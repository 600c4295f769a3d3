"""Questions as a worker would ask them of its engine, and the answers: as generated, or as they would be sent."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from dure.edits import Pass
from dure.job import JobPayload, Message, Sampling
from dure.persona import shipped
from dure_worker.conversation.conversation import Conversation
from dure_worker.engines import Engine, GenerateRequest
from dure_worker.runner import begun
from dure_worker.whole_answer import whole_answer

_NUM_SEEDS = 2**31  # that a request may name


@dataclass(frozen=True)
class Question:
    """style: that its answer is asked for in (`dure.persona.STYLES`)."""

    style: str
    text: str


@dataclass(frozen=True)
class Generated:
    """decode_s: seconds behind the first piece of text, for the tokens behind the first."""

    text: str
    finish_reason: str
    num_tokens: int
    decode_s: float


@dataclass(frozen=True)
class Edited:
    """text: as it would be sent. edits: of the Korean editor, by pass."""

    text: str
    finish_reason: str
    num_tokens: int
    is_looping: bool
    edits: dict[str, int]


def payload_of(question: Question, max_tokens: int, seed: int) -> JobPayload:
    """With its style's own sampling. Raises PersonaUnknown."""
    messages = [Message("user", question.text)]
    wanted = JobPayload(messages, question.style, max_tokens=max_tokens, sampling=Sampling(seed=seed))
    return shipped().resolved(wanted)


def seed_of(*parts: object) -> int:
    """Another one for each, whatever stands before or behind it."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") % _NUM_SEEDS


def generate(engine: Engine, payload: JobPayload, name: str) -> Generated:
    """As it comes out of the engine. name: of the request. Raises EngineError."""
    text, first_at, last = "", 0.0, None
    for token in engine.generate(_request(engine, payload, name)):
        if token.text and not first_at:
            first_at = time.perf_counter()
        text, last = text + token.text, token
    ended_at = time.perf_counter()
    if last is None:
        return Generated("", "", 0, 0.0)
    decode_s = ended_at - first_at if first_at else 0.0
    return Generated(text.rstrip(), last.finish_reason, last.usage.completion_tokens, decode_s)


def answer(engine: Engine, payload: JobPayload, name: str, passes: Sequence[str] = tuple(Pass)) -> Edited:
    """As a worker would send it. Raises EngineError."""
    request = _request(engine, payload, name)
    reply, sampling = begun(payload, passes, request.max_tokens)
    reason, num_tokens = "", 0
    with closing(whole_answer(engine, replace(request, sampling=sampling), reply)) as tokens:
        for token in tokens:
            reply.feed(token.text)
            reason, num_tokens = token.finish_reason, token.usage.completion_tokens
            if reply.is_looping:
                break
    reply.finish(is_cut=reason != "stop")
    return Edited(
        reply.text.rstrip(), reason, num_tokens or reply.num_pieces, reply.is_looping,
        {str(name): number for name, number in reply.edits.items()},
    )  # fmt: skip


def _request(engine: Engine, payload: JobPayload, name: str) -> GenerateRequest:
    prompt = Conversation(engine.count_tokens, engine.info.context).fit(payload)
    return GenerateRequest(name, prompt.messages, prompt.max_tokens, stop=payload.stop, sampling=payload.sampling)
