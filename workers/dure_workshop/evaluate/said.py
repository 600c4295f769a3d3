"""What a model answers to questions, judged as it was generated; each answer is kept, so that a stopped run goes on.

Drawn as a worker draws them, from fixed dice: greedy answers of small models go round in circles that no reader sees.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from dure.job import JobPayload
from dure_worker.conversation.persona import persona_of, register_of
from dure_worker.engines import Engine
from dure_worker.korean import parser
from dure_workshop.evaluate.answers import judged
from dure_workshop.evaluate.results import Results
from dure_workshop.evaluate.subject import Subject
from dure_workshop.generation import asking
from dure_workshop.generation.asking import Question
from dure_workshop.generation.engines import opened

CONTEXT = 2048  # tokens of a prompt and its answer
MOST_TOKENS = 256  # of an answer


def answers(
    subject: Subject,
    asked: Iterable[Question],
    seed: int,
    results: Results,
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """answers: the figures of `answers.Figures`, and tokens_per_s; said: each answer as it was generated.

    tokens_per_s is rough, of one answer at a time behind its first token. on_progress(answers done, of all).

    Raises PlanTooLarge, ModelError, EngineError.
    """
    payloads = [
        asking.payload_of(question, MOST_TOKENS, asking.seed_of(seed, question.style, question.text))
        for question in asked
    ]
    keys = [_key(subject, payload, num_threads) for payload in payloads]
    if any(results.get(key) is None for key in keys):
        with opened(subject, 1, CONTEXT, num_threads) as engine:
            for done, (key, payload) in enumerate(zip(keys, payloads, strict=True)):
                results.kept(key, partial(_said, engine, payload, key))
                on_progress(done + 1, len(keys))
    parser.load()
    found = [results.kept(key, dict) for key in keys]
    figures = judged((each["text"], register_of(payload)) for each, payload in zip(found, payloads, strict=True))
    told = [
        {"style": payload.style, "question": payload.messages[-1].content, **each}
        for each, payload in zip(found, payloads, strict=True)
    ]
    return {"answers": asdict(figures) | {"tokens_per_s": _tokens_per_s(found)}, "said": told}


def _said(engine: Engine, payload: JobPayload, name: str) -> dict[str, Any]:
    return asdict(asking.generate(engine, payload, name))


def _key(subject: Subject, payload: JobPayload, num_threads: int) -> str:
    # Threads change the speed alone, which is told too.
    asked = ("answer", subject.identity, CONTEXT, num_threads, payload, persona_of(payload))
    return hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


def _tokens_per_s(found: list[dict[str, Any]]) -> float | None:
    """Of all answers together. None where no answer has two tokens."""
    num_tokens = sum(max(0, each["num_tokens"] - 1) for each in found)
    decode_s = sum(each["decode_s"] for each in found)
    return num_tokens / decode_s if num_tokens and decode_s else None
