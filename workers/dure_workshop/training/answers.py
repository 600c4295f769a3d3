"""A teacher's answers as training data: what is not good Korean to the editor's detectors is left out.

Sequence-level knowledge distillation (Kim and Rush 2016, EMNLP): a student learns the answers that its teacher writes.
Beside the data lies a journal, NAME.asked.jsonl, with a line for each question that was asked, so that a run that was
stopped goes on.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dure.edits import Pass
from dure.errors import BadRequest, ContextOverflow, SettingsError
from dure.one_step import one_step
from dure_worker.conversation.persona import persona_of, register_of
from dure_worker.engines import Engine
from dure_worker.korean import completeness, foreign
from dure_worker.korean.endings import Register
from dure_workshop.evaluate.answers import loops, registers
from dure_workshop.generation import asking
from dure_workshop.generation.asking import Edited, Question
from dure_workshop.results_folder import prepared

_SCHEMA = 1

# Why an answer, or a question, is left out.
Fault = Literal[
    "",
    "torn",  # the limit of tokens ended it
    "in circles",
    "foreign letters",
    "not Korean",  # no syllable of it
    "too long",
    "incomplete",
    "another register",
    "no room",  # for the question in the context
    "refused",  # by the engine
]


@dataclass(frozen=True)
class Plan:
    """teacher: whose answers, by its bytes and engine. num_candidates: tries for each question. most_characters: of an
    answer.
    """

    teacher: str
    num_candidates: int = 1
    seed: int = 1
    max_tokens: int = 384
    most_characters: int = 800


@dataclass(frozen=True)
class Taught:
    """left_out: questions without an answer, by the fault of their last one. num_tokens: that were generated."""

    num_asked: int
    num_kept: int
    left_out: dict[str, int]
    num_tokens: int


def answered(
    opened: Callable[[], AbstractContextManager[Engine]],
    questions: list[Question],
    plan: Plan,
    path: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Taught:
    """Write path, a JSON line {"messages": [system, user, assistant]} for each question whose answer is good, in their
    order. opened: the teacher's engine, which as many questions are put to at once as it has slots; not opened where
    all are answered. on_progress(questions done, of all).

    Raises SettingsError for a journal of another plan and where no answer is good, EngineError.
    """
    journal = _Journal(path.with_name(f"{path.stem}.asked.jsonl"), plan)
    missing = [question for question in questions if question not in journal.found]
    if missing:
        with opened() as engine:
            _ask(
                engine,
                missing,
                plan,
                journal,
                lambda done: on_progress(len(questions) - len(missing) + done, len(questions)),
            )
    on_progress(len(questions), len(questions))
    found = [journal.found[question] for question in questions]
    kept = [each for each in found if not each["fault"]]
    left_out = Counter(each["fault"] for each in found if each["fault"])
    if not kept:
        told = ", ".join(f"{number} {fault}" for fault, number in left_out.most_common())
        raise SettingsError(
            f"none of the {len(found)} answers is good enough to learn from ({told}): "
            "choose a better teacher, more --candidates or more --max-tokens"
        )
    with one_step(path) as unfinished:
        unfinished.write_text("".join(_line(each) for each in kept), "utf-8")
    return Taught(len(found), len(kept), dict(left_out.most_common()), sum(each["tokens"] for each in found))


def _ask(
    engine: Engine, questions: list[Question], plan: Plan, journal: "_Journal", on_done: Callable[[int], None]
) -> None:
    with ThreadPoolExecutor(engine.info.num_slots) as pool:
        asked = [pool.submit(_best, engine, question, plan) for question in questions]
        try:
            for done, each in enumerate(as_completed(asked), 1):
                journal.add(each.result())
                on_done(done)
        finally:
            for each in asked:
                each.cancel()  # whoever stops need not wait for all


def _best(engine: Engine, question: Question, plan: Plan) -> dict[str, Any]:
    """Of the good candidates the one that the editor had to mend least; none is made behind one without mending."""
    best: Edited | None = None
    fault: Fault = ""
    num_tokens, system = 0, ""
    for number in range(plan.num_candidates):
        seed = asking.seed_of(plan.seed, question.style, question.text, number)
        payload = asking.payload_of(question, plan.max_tokens, seed)
        system = persona_of(payload).system
        try:
            found = asking.answer(engine, payload, f"{question.style} {seed}")
        except ContextOverflow:
            fault = "no room"
            break
        except BadRequest:
            fault = "refused"
            break
        num_tokens += found.num_tokens
        fault = fault_of(found, register_of(payload), plan.most_characters)
        if not fault and (best is None or _mended(found) < _mended(best)):
            best = found
        if best is not None and not _mended(best):
            break
    told = {"style": question.style, "question": question.text, "system": system, "tokens": num_tokens}
    if best is None:
        return {**told, "fault": fault, "answer": ""}
    return {**told, "fault": "", "answer": best.text, "edits": best.edits}


def fault_of(found: Edited, wanted: Register | None, most_characters: int) -> Fault:
    """What speaks against learning from an answer; "" where nothing does."""
    text = found.text
    faults: dict[Fault, Callable[[], bool]] = {
        "in circles": lambda: found.is_looping or loops(text),
        "torn": lambda: found.finish_reason != "stop",
        # What the editor cut out of a sentence is missing there.
        "foreign letters": lambda: foreign.has_letters(text) or bool(found.edits.get(Pass.FOREIGN)),
        "not Korean": lambda: not any("가" <= letter <= "힣" for letter in text),
        "too long": lambda: len(text) > most_characters,
        "incomplete": lambda: not completeness.is_complete(text),
        "another register": lambda: wanted is not None and set(registers(text)) != {wanted},
    }
    return next((name for name, has_it in faults.items() if has_it()), "")


def _mended(found: Edited) -> float:
    """Edits a character."""
    return sum(found.edits.values()) / len(found.text)


def _line(answer: dict[str, Any]) -> str:
    said = {"system": answer["system"], "user": answer["question"], "assistant": answer["answer"]}
    messages = [{"role": role, "content": content} for role, content in said.items()]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


class _Journal:
    """What was answered, by question; its first line says by which plan. Raises SettingsError for that of another."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path = path
        self.found: dict[Question, dict[str, Any]] = {}
        own = {"schema": _SCHEMA, **asdict(plan)}
        prepared(path.parent)
        try:
            lines = path.read_bytes().splitlines(keepends=True)
            # The last one may be torn.
            whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
        except FileNotFoundError:
            whole = []
        except OSError as error:
            raise SettingsError(f"{path} cannot be read ({error.strerror}): choose another --out") from None
        except ValueError:
            raise SettingsError(f"{path} is damaged: delete it, or choose another --out") from None
        if whole and whole[0] != own:
            others = ", ".join(sorted(name for name in own if whole[0].get(name) != own[name]))
            raise SettingsError(f"{path} is of another run ({others}): choose another --out, or delete it")
        self._begin(whole or [own])
        for each in whole[1:]:
            self.found[Question(each["style"], each["question"])] = each

    def add(self, answer: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(answer, ensure_ascii=False) + "\n")
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be written ({error.strerror}): free some space") from None
        self.found[Question(answer["style"], answer["question"])] = answer

    def _begin(self, lines: Iterable[dict[str, Any]]) -> None:
        try:
            with one_step(self._path) as unfinished:
                unfinished.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines), "utf-8")
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be written ({error.strerror}): choose another --out") from None
