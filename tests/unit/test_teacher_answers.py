"""What of a teacher's answers becomes training data, and that a run that was stopped goes on."""

import argparse
import contextlib
import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from dure.errors import BadRequest, ContextOverflow, EngineError, SettingsError
from dure.job import Usage
from dure.persona import shipped
from dure.settings import Settings
from dure_worker.engines import Engine, GenerateRequest, Token
from dure_worker.engines.scripted import ScriptedEngine
from dure_worker.korean.endings import Register
from dure_workshop.generation import questions
from dure_workshop.generation.asking import Edited, Question
from dure_workshop.training import answers_command
from dure_workshop.training.answers import Plan, answered, fault_of

GOOD = "두레는 이웃끼리 힘을 모으던 모임입니다. 모내기를 함께 했습니다."
PLAN = Plan("teacher 1 2", num_candidates=3)
ASKED = [Question("polite", f"{number} 다음은 무엇인가요?") for number in range(6)]


class Teacher(ScriptedEngine):
    """Answers by the question and how often it came; counts what it was asked."""

    def __init__(self, said: Callable[[str, int], str | Exception], reason: str = "stop") -> None:
        super().__init__(num_slots=2)
        self.said, self.reason = said, reason
        self.asked: list[GenerateRequest] = []
        self.num_opened = 0

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        question = request.messages[-1].content
        earlier = sum(each.messages[-1].content == question for each in self.asked)
        self.asked.append(request)
        found = self.said(question, earlier)
        if isinstance(found, Exception):
            raise found
        for word in found.split(" "):
            yield Token(f"{word} ")
        yield Token("", self.reason, Usage(5, 10))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def opened(self) -> Iterator[Engine]:
        self.num_opened += 1
        yield self


def lines(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]


def test_good_answers_are_written_in_the_order_of_their_questions(tmp_path: Path) -> None:
    teacher = Teacher(lambda question, _: f"{question[0]}번입니다. {GOOD}")
    steps: list[tuple[int, int]] = []
    found = answered(teacher.opened, ASKED, PLAN, tmp_path / "data.jsonl", lambda *step: steps.append(step))
    assert (found.num_asked, found.num_kept, found.left_out, found.num_tokens) == (6, 6, {}, 60)
    for question, (system, user, assistant) in zip(ASKED, lines(tmp_path / "data.jsonl"), strict=True):
        assert (system["role"], system["content"]) == ("system", shipped().persona("polite", None).system)
        assert (user["role"], user["content"]) == ("user", question.text)
        assert (assistant["role"], assistant["content"]) == ("assistant", f"{question.text[0]}번입니다. {GOOD}")
    assert steps[-1] == (6, 6)
    assert len(teacher.asked) == 6  # nothing had to be mended: no second candidates


def test_a_bad_candidate_is_followed_by_another_seed(tmp_path: Path) -> None:
    teacher = Teacher(lambda _, earlier: GOOD if earlier == 2 else "그래서 두레는")
    found = answered(teacher.opened, ASKED[:1], PLAN, tmp_path / "data.jsonl")
    assert found.num_kept == 1
    assert len({request.sampling.seed for request in teacher.asked}) == 3


def test_the_candidate_that_was_mended_least_is_taken(tmp_path: Path) -> None:
    said = [
        f"몇일 뒤에 합니다. {GOOD} 갈께요라고 합니다.",
        f"몇일 뒤에 합니다. {GOOD}",
        f"몇일 몇일 뒤에 합니다. {GOOD}",
    ]
    teacher = Teacher(lambda _, earlier: said[earlier])
    answered(teacher.opened, ASKED[:1], PLAN, tmp_path / "data.jsonl")
    [(_, _, assistant)] = lines(tmp_path / "data.jsonl")
    assert assistant["content"] == f"며칠 뒤에 합니다. {GOOD}"


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    broken = Teacher(lambda question, _: EngineError("no more") if question.startswith("4") else GOOD)
    broken.info = ScriptedEngine(num_slots=1).info
    with pytest.raises(EngineError, match="no more"):
        answered(broken.opened, ASKED, PLAN, tmp_path / "data.jsonl")
    assert not (tmp_path / "data.jsonl").exists()
    journal = tmp_path / "data.asked.jsonl"
    num_done = len(journal.read_text("utf-8").splitlines()) - 1
    assert num_done == 4
    with journal.open("a") as file:
        file.write('{"style": "pol')  # torn off as the process died
    whole = Teacher(lambda *_: GOOD)
    found = answered(whole.opened, ASKED, PLAN, tmp_path / "data.jsonl")
    assert found.num_kept == len(lines(tmp_path / "data.jsonl")) == 6
    assert len(whole.asked) == 2
    again = Teacher(lambda *_: GOOD)
    assert answered(again.opened, ASKED, PLAN, tmp_path / "data.jsonl") == found
    assert again.num_opened == 0


def test_more_questions_are_asked_behind_those_that_were(tmp_path: Path) -> None:
    teacher = Teacher(lambda *_: GOOD)
    answered(teacher.opened, ASKED[:2], PLAN, tmp_path / "data.jsonl")
    answered(teacher.opened, ASKED, PLAN, tmp_path / "data.jsonl")
    assert len(teacher.asked) == len(lines(tmp_path / "data.jsonl")) == 6


@pytest.mark.parametrize("other", [{"seed": 2}, {"teacher": "other"}, {"num_candidates": 1}, {"max_tokens": 9}])
def test_answers_of_another_plan_are_not_mixed(tmp_path: Path, other: dict[str, object]) -> None:
    teacher = Teacher(lambda *_: GOOD)
    answered(teacher.opened, ASKED, PLAN, tmp_path / "data.jsonl")
    with pytest.raises(SettingsError, match=rf"another run \({next(iter(other))}\): choose another --out"):
        answered(teacher.opened, ASKED, Plan(**({"teacher": PLAN.teacher, "num_candidates": 3} | other)),  # type: ignore[arg-type]
                 tmp_path / "data.jsonl")  # fmt: skip


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.asked.jsonl").write_text("{\n")
    with pytest.raises(SettingsError, match=r"data\.asked\.jsonl is damaged: delete it"):
        answered(Teacher(lambda *_: GOOD).opened, ASKED, PLAN, tmp_path / "data.jsonl")


@pytest.mark.parametrize(("error", "fault"), [(ContextOverflow(9, 8), "no room"), (BadRequest("no"), "refused")])
def test_a_question_that_cannot_be_asked_is_left_out(tmp_path: Path, error: Exception, fault: str) -> None:
    teacher = Teacher(lambda question, _: error if question.startswith("4") else GOOD)
    found = answered(teacher.opened, ASKED, PLAN, tmp_path / "data.jsonl")
    assert (found.num_kept, found.left_out) == (5, {fault: 1})


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be appended; what was asked before stays."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def said(*_: object) -> str:
        monkeypatch.setattr(Path, "open", refuse)
        return GOOD

    with pytest.raises(SettingsError, match=r"cannot be written \(No space left on device\): free some space"):
        answered(Teacher(said).opened, ASKED[:1], PLAN, tmp_path / "data.jsonl")


def test_nothing_to_learn_from_is_an_error_that_says_why(tmp_path: Path) -> None:
    """The scripted engine never ends by itself."""

    @contextlib.contextmanager
    def opened() -> Iterator[Engine]:
        yield ScriptedEngine()

    plan = Plan("scripted", max_tokens=60)
    with pytest.raises(SettingsError, match=r"none of the 6 answers is good enough.*\(6 torn\): choose a better"):
        answered(opened, ASKED, plan, tmp_path / "data.jsonl")
    assert not (tmp_path / "data.jsonl").exists()


def edited(text: str, reason: str = "stop", **edits: int) -> Edited:
    return Edited(text, reason, 9, is_looping=False, edits=edits)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (edited(GOOD), ""),
        (edited(GOOD, misspellings=3), ""),
        (edited(GOOD, "length"), "torn"),
        (Edited(GOOD, "stop", 9, is_looping=True, edits={}), "in circles"),
        (edited("모내기를 함께 했습니다. " * 8), "in circles"),
        (edited("두레는 村의 모임입니다."), "foreign letters"),
        (edited(GOOD, foreign=1), "foreign letters"),
        (edited("It is a village."), "not Korean"),
        (edited(""), "not Korean"),
        (edited("가" * 200 + "를 보았습니다."), "too long"),
        (edited(f"{GOOD} 그래서"), "incomplete"),
        (edited("두레는 모임이야. 같이 하자."), "another register"),
        (edited(f"{GOOD} 같이 하자."), "another register"),
        (edited("- 두레\n- 품앗이"), "another register"),
    ],
    ids=range(14),
)
def test_what_speaks_against_an_answer(found: Edited, fault: str) -> None:
    assert fault_of(found, Register.FORMAL, 200) == fault


def test_where_no_register_is_asked_for_any_will_do() -> None:
    assert fault_of(edited("두레는 모임이야."), None, 200) == ""


def options(folder: Path, prompts: str, **changes: object) -> argparse.Namespace:
    (folder / "prompts.txt").write_text(prompts, "utf-8")
    given = {"model": "teacher", "prompts": folder / "prompts.txt", "out": folder / "out/data.jsonl", "style": None,
             "engine": None, "candidates": 1, "seed": 1, "max_tokens": 64, "most_characters": 200}  # fmt: skip
    return argparse.Namespace(**(given | changes))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[argparse.Namespace], dict[str, object]]:
    """The command with a teacher that answers well, and whose weights are a file of some bytes."""
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"GGUF")
    subject = answers_command.Subject("teacher", weights)
    monkeypatch.setattr(answers_command.Subject, "named", lambda *_: subject)
    monkeypatch.setattr(answers_command, "opened", lambda *_: Teacher(lambda *_: GOOD).opened())
    return lambda given: answers_command.run(given, Settings(), Console(stderr=True))


def test_the_command_says_what_it_did(tmp_path: Path, command: Callable[..., dict[str, object]]) -> None:
    judging = questions.held_out()[0].text
    found = command(options(tmp_path, f"가?\n나?\n{judging}\n", style=["polite"]))
    assert found == {"out": str(tmp_path / "out/data.jsonl"), "asked": 2, "kept": 2, "left_out": {}, "held_out": 1,
                     "num_tokens": 20}  # fmt: skip
    assert len(lines(tmp_path / "out/data.jsonl")) == 2
    [line] = (tmp_path / "out/manifest.jsonl").read_text("utf-8").splitlines()
    told = json.loads(line)
    assert told["command"].startswith("dure workshop answer teacher --prompts ")
    assert (told["seed"], told["kept"], len(told["inputs"])) == (1, 2, 2)


def test_questions_of_the_judging_alone_are_refused(tmp_path: Path, command: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(SettingsError, match="only questions that models are judged by: write others"):
        command(options(tmp_path, questions.held_out()[0].text))
