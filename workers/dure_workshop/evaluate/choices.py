"""Questions with several answers, of which a model should find the right one likeliest.

The five tasks of KoBEST (Kim et al. 2022, COLING) from its public TSV files. A choice's log-likelihood is that of its
tokens behind the context; HellaSwag's, whose choices differ in length, is per byte.
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dure.errors import SettingsError
from dure_workshop.evaluate.likelihood import nll
from dure_workshop.evaluate.logits import LONGEST, Logits
from dure_workshop.perplexity import encoder_of

Row = dict[str, str]


@dataclass(frozen=True)
class Question:
    """answer: the number of the right choice."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Score:
    """f1 is the mean over the classes, which KoBEST publishes; chance: accuracy of who guesses."""

    num_questions: int
    accuracy: float
    f1: float
    chance: float

    @property
    def error(self) -> float:
        """Standard error of the accuracy."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_questions)


_NO_YES = ("아니오", "예")
_TRUTH = {"false": 0, "true": 1}
_JOINED = {"원인": "왜냐하면", "결과": "그래서"}


def _truth(told: str) -> int:
    """The files write True, and here and there TRUE."""
    return _TRUTH[told.strip().casefold()]


def _boolq(row: Row) -> Question:
    return Question(f"{row['Text']} 질문: {row['Question']} 답변:", _NO_YES, _truth(row["Answer"]))


def _copa(row: Row) -> Question:
    return Question(f"{row['sentence']} {_JOINED[row['question']]}", (row["1"], row["2"]), int(row["Answer"]) - 1)


def _hellaswag(row: Row) -> Question:
    choices = tuple(row[f"choice{number}"] for number in range(1, 5))
    return Question(row["context"], choices, int(row["label"]))


def _sentineg(row: Row) -> Question:
    return Question(f"문장: {row['Text']} 긍부정:", ("부정", "긍정"), int(row["Label"]))


def _wic(row: Row) -> Question:
    context = f"문장1: {row['SENTENCE1']} 문장2: {row['SENTENCE2']} 두 문장에서 {row['Target']}의 뜻이 같은가?"
    return Question(context, _NO_YES, _truth(row["ANSWER"]))


TASKS: dict[str, Callable[[Row], Question]] = {
    "BoolQ": _boolq,
    "COPA": _copa,
    "HellaSwag": _hellaswag,
    "SentiNeg": _sentineg,
    "WiC": _wic,
}
_PER_BYTE = {"HellaSwag"}


def read(folder: Path, limit: int | None = None) -> dict[str, list[Question]]:
    """Those of TASKS that lie there as NAME.dev.tsv or NAME.test.tsv. limit: questions a task, evenly over the file.

    Raises SettingsError with file and line.
    """
    found = {}
    for task, made in TASKS.items():
        path = next((path for part in ("dev", "test") if (path := folder / f"{task}.{part}.tsv").is_file()), None)
        if path is not None:
            questions = list(_questions(path, made))
            found[task] = _evenly(questions, limit)
    if not found:
        raise SettingsError(f"{folder} holds no task: put KoBEST's files there ({', '.join(TASKS)}, as NAME.dev.tsv)")
    return found


def _questions(path: Path, made: Callable[[Row], Question]) -> Iterator[Question]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path} is no UTF-8 (byte {error.start}): convert it first, for example with iconv"
        ) from None
    for number, row in enumerate(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
        try:
            question = made(row)
            question.choices[question.answer]
        except (KeyError, ValueError, TypeError, AttributeError, IndexError):
            raise SettingsError(
                f"{path}, line {number}: it is not as KoBEST's lines are: take the file again"
            ) from None
        yield question


def _evenly(questions: list[Question], limit: int | None) -> list[Question]:
    if limit is None or limit >= len(questions):
        return questions
    return [questions[number * len(questions) // limit] for number in range(limit)]


def score(logits: Logits, task: str, questions: Iterable[Question], on_progress: Callable[[int, int], None]) -> Score:
    """on_progress(questions done, of all)."""
    asked = list(questions)
    chosen = []
    for question in asked:
        costs = [_cost(logits, question.context, choice) for choice in question.choices]
        if task in _PER_BYTE:
            costs = [cost / len(choice.encode()) for cost, choice in zip(costs, question.choices, strict=True)]
        chosen.append(int(np.argmin(costs)))
        on_progress(len(chosen), len(asked))
    answers = [question.answer for question in asked]
    right = sum(one == other for one, other in zip(chosen, answers, strict=True))
    chance = sum(1 / len(question.choices) for question in asked)
    return Score(len(asked), right / len(asked), macro_f1(chosen, answers), chance / len(asked))


def macro_f1(chosen: list[int], answers: list[int]) -> float:
    """Mean over the classes of 2 · right / (chosen + wanted)."""
    found = []
    for label in sorted(set(answers)):
        right = sum(one == other == label for one, other in zip(chosen, answers, strict=True))
        found.append(2 * right / (chosen.count(label) + answers.count(label)))
    return sum(found) / len(found)


def _cost(logits: Logits, context: str, choice: str) -> float:
    """Nats of the choice behind the context, of which the end counts where it is too long."""
    encoder = encoder_of(logits.model)
    wanted = encoder.encode(f" {choice}")
    ids = [*encoder.encode(context), *wanted][-LONGEST:]
    return float(nll(logits, ids, min(len(wanted), len(ids) - 1)).sum())
