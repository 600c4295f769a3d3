"""What models are judged by, on distributions that are known."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tiny_gguf
from dure.errors import SettingsError
from dure_workshop.dequantize import Floats
from dure_workshop.evaluate import choices, report
from dure_workshop.evaluate.choices import Question, macro_f1, score
from dure_workshop.evaluate.likelihood import divergence, nll, text_perplexity
from dure_workshop.evaluate.logits import ROWS
from dure_workshop.evaluate.results import FILE, Results
from dure_workshop.perplexity import CONTEXT, windows
from dure_workshop.trim.gguf_file import GgufModel


class Known:
    """Logits by the token before: its row of a table."""

    def __init__(self, model: GgufModel, table: Floats) -> None:
        self.model = model
        self.table = table

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        wanted = ids[-num_wanted:]
        for first in range(0, len(wanted), ROWS):
            yield self.table[wanted[first : first + ROWS]]


@pytest.fixture
def model(tmp_path: Path) -> GgufModel:
    tiny_gguf.write(tmp_path / "model.gguf")
    return GgufModel.read(tmp_path / "model.gguf")


def table(model: GgufModel, seed: int | None = None) -> Floats:
    """Random, or all tokens alike."""
    size = len(model.vocabulary.tokens)
    if seed is None:
        return np.zeros((size, size), np.float32)
    return np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)


TEXT = "두레는 hello 123 漢字 か Ж. " * 60


def test_who_knows_nothing_has_the_perplexity_of_the_vocabulary(model: GgufModel) -> None:
    found = text_perplexity(Known(model, table(model)), TEXT)
    assert found.per_token == pytest.approx(len(model.vocabulary.tokens), rel=1e-6)


def test_likelihood_is_that_of_the_token_behind(model: GgufModel) -> None:
    known = table(model, 1)
    ids = [3, 5, 8, 5]
    logs = known - np.log(np.exp(known).sum(axis=1, keepdims=True))
    wanted = [-logs[5, 8], -logs[8, 5]]
    assert nll(Known(model, known), ids, 2) == pytest.approx(wanted, rel=1e-5)


def test_huge_logits_do_not_overflow(model: GgufModel) -> None:
    found = text_perplexity(Known(model, table(model, 1) * 1e4), TEXT)
    assert math.isfinite(found.nll_nats)


def test_every_token_behind_the_context_counts_once(model: GgufModel) -> None:
    steps: list[tuple[int, int]] = []
    found = text_perplexity(Known(model, table(model, 2)), TEXT, lambda *step: steps.append(step))
    assert model.segmenter is not None
    num_tokens = len(model.segmenter.encode(TEXT))
    assert found.num_tokens == num_tokens - CONTEXT
    num_windows = len(list(windows(num_tokens)))
    assert num_windows > 1
    assert steps == [(done, num_windows) for done in range(1, num_windows + 1)]


def test_a_model_does_not_differ_from_itself(model: GgufModel) -> None:
    known = Known(model, table(model, 3))
    found = divergence(known, known, TEXT)
    assert (found.kl_nats, found.same_top) == (0, 1)


def test_divergence_is_of_the_reference(model: GgufModel) -> None:
    """The reference knows only token 7, the model nothing: log of the vocabulary's size; the other way much more."""
    sure = table(model)
    sure[:, 7] = 50
    even = Known(model, table(model))
    found = divergence(even, Known(model, sure), TEXT)
    assert found.kl_nats == pytest.approx(math.log(len(model.vocabulary.tokens)), rel=1e-5)
    assert divergence(Known(model, sure), even, TEXT).kl_nats == pytest.approx(
        50 * (1 - 1 / len(sure)) - math.log(len(sure)), rel=1e-5
    )


def test_other_vocabularies_cannot_be_compared(model: GgufModel, tmp_path: Path) -> None:
    tiny_gguf.write_spm(tmp_path / "other.gguf")
    other = GgufModel.read(tmp_path / "other.gguf")
    with pytest.raises(SettingsError, match=r"different vocabularies.*trimmed alike"):
        divergence(Known(model, table(model)), Known(other, table(other)), TEXT)


def test_the_likelier_choice_is_taken(model: GgufModel) -> None:
    likes = table(model)
    assert model.segmenter is not None
    [*_, before], [first, *_] = model.segmenter.encode("hello"), model.segmenter.encode(" 두")
    likes[before, first] = 5
    # The blank before a choice is the first byte of both; what follows it decides.
    second = model.segmenter.encode(" 두")[1]
    likes[first, second] = 5
    asked = [Question("hello", ("Ж", "두"), 1), Question("hello", ("두", "Ж"), 1)]
    steps: list[tuple[int, int]] = []
    found = score(Known(model, likes), "COPA", asked, lambda *step: steps.append(step))
    assert (found.num_questions, found.accuracy, found.chance) == (2, 0.5, 0.5)
    assert found.error == pytest.approx(math.sqrt(0.125))
    assert steps == [(1, 2), (2, 2)]


def test_choices_of_different_length_count_by_byte(model: GgufModel) -> None:
    """All tokens alike: the shortest is the likeliest, except where length does not count."""
    question = [Question("hello", ("123", "두레 두레 두레"), 0)]
    known = Known(model, table(model))
    assert score(known, "COPA", question, lambda *_: None).accuracy == 1
    assert score(known, "HellaSwag", question, lambda *_: None).accuracy == 0


def test_f1_is_the_mean_over_classes() -> None:
    assert macro_f1([1, 1, 1, 1], [1, 1, 0, 1]) == pytest.approx((0 + 6 / 7) / 2)
    assert macro_f1([0, 1], [0, 1]) == 1


FILES = {
    "BoolQ": "ID\tText\tQuestion\tAnswer\r\n1\t\"두레\"는 모임이다.\t모임인가?\tTrue\r\n",
    "COPA": "ID\tsentence\tquestion\t1\t2\tAnswer\n1\t비가 왔다.\t결과\t땅이 젖었다.\t해가 떴다.\t1\n",
    "HellaSwag": "context\tchoice1\tchoice2\tchoice3\tchoice4\tlabel\n공을 던진다.\t가\t나\t다\t라\t3\n",
    "SentiNeg": "ID\tLabel\tText\n1\t0\t아쉽습니다\n",
    "WiC": "ID\tTarget\tSENTENCE1\tSENTENCE2\tANSWER\n1\t배\t[배]가 아프다.\t[배]를 탔다.\tFalse\n",
}  # fmt: skip


def write(folder: Path, **files: str) -> None:
    for task, text in files.items():
        (folder / f"{task}.dev.tsv").write_text(text, "utf-8", newline="")


def test_all_tasks_are_read(tmp_path: Path) -> None:
    write(tmp_path, **FILES)
    found = choices.read(tmp_path)
    assert {task: question.answer for task, [question] in found.items()} == {
        "BoolQ": 1, "COPA": 0, "HellaSwag": 3, "SentiNeg": 0, "WiC": 0
    }  # fmt: skip
    assert found["BoolQ"][0].context == '"두레"는 모임이다. 질문: 모임인가? 답변:'
    assert found["COPA"][0].context == "비가 왔다. 그래서"


@pytest.mark.parametrize(
    ("task", "old", "new"),
    [("BoolQ", "True", "yes"), ("COPA", "결과", "까닭"), ("HellaSwag", "\t3\n", "\t4\n"), ("SentiNeg", "Label", "Mark"),
     ("WiC", "\tFalse", ""), ("COPA", "\t1\n", "\t\n")],
)  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path: Path, task: str, old: str, new: str) -> None:
    write(tmp_path, **{task: FILES[task].replace(old, new)})
    with pytest.raises(SettingsError, match=rf"{task}\.dev\.tsv, line 2: .* take the file again"):
        choices.read(tmp_path)


@pytest.mark.parametrize(("told", "answer"), [("True", 1), ("TRUE", 1), ("False", 0), ("FALSE", 0)])
def test_truth_is_read_however_it_is_written(tmp_path: Path, told: str, answer: int) -> None:
    write(tmp_path, WiC=FILES["WiC"].replace("False", told))
    assert choices.read(tmp_path)["WiC"][0].answer == answer


def test_what_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "COPA.dev.tsv").write_bytes("ID\t문장".encode("euc-kr"))
    with pytest.raises(SettingsError, match=r"no UTF-8 \(byte 3\): convert"):
        choices.read(tmp_path)


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no task: put KoBEST's files there"):
        choices.read(tmp_path)


def test_fewer_questions_are_taken_evenly(tmp_path: Path) -> None:
    lines = "".join(f"{n}\t{n % 2}\t글{n}\n" for n in range(10))
    write(tmp_path, SentiNeg=f"ID\tLabel\tText\n{lines}")
    found = choices.read(tmp_path, 4)["SentiNeg"]
    assert [question.context for question in found] == [f"문장: 글{n} 긍부정:" for n in (0, 2, 5, 7)]


def test_results_are_kept(tmp_path: Path) -> None:
    Results(tmp_path / "new").add("key", {"a": 1})
    found = Results(tmp_path / "new")
    assert (found.get("key"), found.get("other")) == ({"a": 1}, None)


@pytest.mark.parametrize(
    ("told", "message"), [("{", "damaged: delete"), (json.dumps({"schema": 0, "entries": {}}), "another release")]
)
def test_results_that_cannot_be_read_are_refused(tmp_path: Path, told: str, message: str) -> None:
    (tmp_path / FILE).write_text(told)
    with pytest.raises(SettingsError, match=message):
        Results(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot be used .* choose another folder"):
        Results(tmp_path / "file")


ROW = {
    "model": "a|b", "engine": "llama", "megabytes": 300.4, "bits_per_weight": 4.567,
    "text": {"korean": {"per_token": 12.345, "bits_per_byte": 0.9}},
    "divergence": {"korean": {"kl_nats": 0.1234, "same_top": 0.9}},
    "task": {"COPA": {"num_questions": 10, "accuracy": 0.6, "error": 0.155, "f1": 0.55, "chance": 0.5}},
}  # fmt: skip


def test_the_table_says_it_all() -> None:
    told = report.markdown([ROW, ROW], ["machine"])
    assert "| a\\|b | llama | 300 | 4.57 | 12.35 (0.900) | 0.1234, 90.0% |" in told
    assert "| a\\|b | llama | 60.0% ± 15.5%, 0.550 |" in told
    assert "COPA (n = 10, chance 50%)" in told
    assert told.endswith("machine\n")


ANSWERS = {
    "num_answers": 8, "errors_per_100_sentences": 12.34, "register_kept": None, "replies_complete": 0.875,
    "replies_with_loops": 1, "replies_with_foreign_letters": 0, "tokens_per_s": None,
}  # fmt: skip


def test_answers_have_a_table_of_their_own() -> None:
    told = report.markdown([ROW | {"answers": ANSWERS}], [])
    assert "8 answers as generated" in told
    assert "| a\\|b | llama | 12.3 | – | 87.5% | 1 | 0 | – |" in told


def size_of(plot: Path) -> tuple[int, int]:
    """Width and height, from a PNG's head."""
    head = plot.read_bytes()
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_a_plot_has_a_second_panel_where_speed_was_measured(tmp_path: Path) -> None:
    report.plot([ROW, ROW | {"engine": "ark"}], tmp_path / "one.png")
    report.plot([ROW | {"answers": ANSWERS}], tmp_path / "unmeasured.png")
    report.plot([ROW, ROW | {"answers": ANSWERS | {"tokens_per_s": 9.5}}], tmp_path / "two.png")
    (width, height), unmeasured, two = (size_of(tmp_path / f"{name}.png") for name in ("one", "unmeasured", "two"))
    assert unmeasured == (width, height)
    assert two == (2 * width, height)
