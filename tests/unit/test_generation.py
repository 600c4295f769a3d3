"""Questions that models are asked, and how they are asked."""

from collections.abc import Generator
from pathlib import Path

import pytest

from dure.errors import PersonaUnknown, SettingsError
from dure.job import Usage
from dure.persona import STYLES, shipped
from dure_worker.engines import GenerateRequest, Token
from dure_worker.engines.scripted import ScriptedEngine
from dure_workshop.generation import asking, questions
from dure_workshop.generation.asking import Question

BENCHMARK = Path(__file__).parents[2] / "scripts/benchmarks/korean_sets/prompts.tsv"


def write(folder: Path, text: str) -> Path:
    path = folder / "questions.txt"
    path.write_text(text, "utf-8")
    return path


def test_held_out_questions_are_of_all_styles_from_the_first_on() -> None:
    found = questions.first_held_out(8)
    assert {question.style for question in found[:4]} == set(STYLES)
    assert len({question.text for question in questions.held_out()}) == len(questions.held_out())


def test_held_out_questions_are_not_those_of_the_benchmark() -> None:
    asked = {field for line in BENCHMARK.read_text("utf-8").splitlines() for field in line.split("\t")}
    assert not asked & {question.text for question in questions.held_out()}


def test_more_questions_than_there_are_cannot_be_asked() -> None:
    with pytest.raises(SettingsError, match=r"there are \d+ questions: ask for that many"):
        questions.first_held_out(len(questions.held_out()) + 1)
    with pytest.raises(SettingsError, match="--answers -1"):
        questions.first_held_out(-1)


def test_lines_are_questions_and_styles_take_turns(tmp_path: Path) -> None:
    path = write(tmp_path, '가?\n\n {"question": "나?", "style": "expert"}\n{"question": " 다? "}\n가?\n')
    assert questions.read(path, ["polite", "casual"]) == [
        Question("polite", "가?"), Question("expert", "나?"), Question("polite", "다?"), Question("casual", "가?")
    ]  # fmt: skip


def test_a_question_in_jamo_is_composed_and_comes_once(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff\u1100\u1161?\n가?\n")
    assert questions.read(path, ["polite"]) == [Question("polite", "가?")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("가?\n{", r"line 2: no JSON .*: write one object"),
        ('{"text": "가?"}', r"line 1: there is no question: write"),
        ('{"question": 3}', r"line 1: there is no question"),
        ('{"question": "가?", "style": "rude"}', r"line 1: there is no style 'rude': choose polite"),
        ('{"question": "가?", "style": ["polite"]}', r"there is no style"),
        (" \n\n", "holds no question: write one on each line"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        questions.read(write(tmp_path, text), ["polite"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read .*: name a file of questions"):
        questions.read(tmp_path / "none", ["polite"])
    (tmp_path / "old").write_bytes("가?".encode("euc-kr"))
    with pytest.raises(SettingsError, match=r"no UTF-8 \(byte 0\)"):
        questions.read(tmp_path / "old", ["polite"])


def test_an_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--style: there is no style 'rude'"):
        questions.read(write(tmp_path, "가?"), ["rude"])
    with pytest.raises(PersonaUnknown):
        asking.payload_of(Question("rude", "가?"), 8, 1)


class Recorder(ScriptedEngine):
    """Says `pieces`, and remembers what it was asked."""

    def __init__(self, *pieces: str, reason: str = "stop") -> None:
        super().__init__()
        self.pieces, self.reason = pieces, reason
        self.asked: list[GenerateRequest] = []

    def generate(self, request: GenerateRequest) -> Generator[Token]:
        self.asked.append(request)
        for piece in self.pieces:
            yield Token(piece)
        yield Token("", self.reason, Usage(9, len(self.pieces)))  # type: ignore[arg-type]


@pytest.mark.parametrize("style", STYLES)
def test_a_question_is_asked_as_a_worker_asks_it(style: str) -> None:
    engine = Recorder("네.")
    asking.generate(engine, asking.payload_of(Question(style, "가?"), 77, 5), "name")
    [request] = engine.asked
    first, *_, last = request.messages
    assert (first.role, first.content) == ("system", shipped().persona(style, None).system)
    assert (last.role, last.content) == ("user", "가?")
    assert (request.max_tokens, request.sampling.seed) == (77, 5)


def test_what_is_generated_is_left_as_it_is() -> None:
    found = asking.generate(
        Recorder("몇일 ", "뒤에 ", "뵈요.\n"), asking.payload_of(Question("polite", "가?"), 8, 1), "a"
    )
    assert (found.text, found.finish_reason, found.num_tokens) == ("몇일 뒤에 뵈요.", "stop", 3)
    assert found.decode_s > 0


def test_nothing_generated_takes_no_time() -> None:
    found = asking.generate(Recorder(), asking.payload_of(Question("polite", "가?"), 8, 1), "a")
    assert (found.text, found.num_tokens, found.decode_s) == ("", 0, 0)


def test_an_answer_is_mended_as_it_would_be_sent() -> None:
    engine = Recorder("몇일 ", "뒤에 ", "봅니다. ", "그때 봐.")
    found = asking.answer(engine, asking.payload_of(Question("polite", "가?"), 64, 1), "a")
    assert found.text.startswith("며칠 뒤에 봅니다.")
    assert found.edits["misspellings"] == 1
    assert not found.is_looping


def test_an_answer_in_circles_is_not_waited_for() -> None:
    engine = Recorder(*["모내기를 함께 했습니다. "] * 1000)
    found = asking.answer(engine, asking.payload_of(Question("polite", "가?"), 2000, 1), "a")
    assert found.is_looping
    assert found.num_tokens < 100


def test_seeds_depend_on_what_is_asked_alone() -> None:
    assert asking.seed_of(1, "polite", "가?") == asking.seed_of(1, "polite", "가?")
    found = {asking.seed_of(1, "polite", "가?", number) for number in range(100)}
    assert len(found) == 100
    assert all(0 <= seed < 2**31 for seed in found)
