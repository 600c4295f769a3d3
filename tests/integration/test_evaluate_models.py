"""The 0.5B judged through the command: both engines, the same figures as the workshop's other ways, kept results."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dure_workshop import texts
from dure_workshop.evaluate import evaluation
from dure_workshop.evaluate.choices import Question
from dure_workshop.evaluate.evaluation import Exam, Results, Subject, evaluate
from dure_workshop.perplexity import perplexity

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

pytestmark = pytest.mark.weights

MODEL = "qwen2.5-coder-0.5b-korean"
TEXT = texts.own("korean")[:1200]
COPA = """ID\tsentence\tquestion\t1\t2\tAnswer
1\t하늘에 먹구름이 몰려왔다.\t결과\t비가 세차게 내렸다.\t뷁쀍뙑 뛟흛 쨟꿻뗋.\t1
2\t아이가 넘어져 무릎을 다쳤다.\t결과\t아이가 울음을 터뜨렸다.\t뷁쀍뙑 뛟흛 쨟꿻뗋.\t1
3\t가게가 문을 닫았다.\t원인\t뷁쀍뙑 뛟흛 쨟꿻뗋.\t손님이 줄었다.\t2
4\t전등이 나갔다.\t결과\t방이 어두워졌다.\t뷁쀍뙑 뛟흛 쨟꿻뗋.\t1
"""


def dure(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("dure")), "workshop", "evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def judged(fetched: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    fetched(MODEL)
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "village.txt").write_text(TEXT, "utf-8")
    (folder / "COPA.dev.tsv").write_text(COPA, "utf-8")
    told = dure(
        MODEL, "--engine=llama", "--engine=ark", f"--text={folder / 'village.txt'}", f"--questions={folder}",
        f"--reference={MODEL}", "--answers=2", f"--out={folder / 'out'}", "--json",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return folder / "out", found


def test_both_engines_are_judged_alike(judged: tuple[Path, dict[str, Any]], fetched: Callable[[str], Path]) -> None:
    _, found = judged
    llama, ark = found["rows"]
    wanted = perplexity(fetched(MODEL), TEXT)
    assert llama["text"]["village"]["num_tokens"] == wanted.num_tokens
    assert llama["text"]["village"]["per_token"] == pytest.approx(wanted.per_token, rel=0.01)
    assert ark["text"]["village"]["per_token"] == pytest.approx(wanted.per_token, rel=0.1)
    assert llama["divergence"]["village"]["kl_nats"] < 1e-3
    assert llama["divergence"]["village"]["same_top"] > 0.99
    assert llama["divergence"]["village"]["kl_nats"] < ark["divergence"]["village"]["kl_nats"] < 0.2
    # Syllables that no word has are less likely than words to any model that works.
    assert llama["task"]["COPA"]["accuracy"] == ark["task"]["COPA"]["accuracy"] == 1
    assert 4 < llama["bits_per_weight"] < 7
    assert (llama["engine"], ark["engine"]) == ("llama", "ark int5")
    for row in (llama, ark):
        assert (row["answers"]["num_answers"], row["answers"]["replies_with_foreign_letters"]) == (2, 0)
        assert row["answers"]["num_sentences"] > 1
        assert row["answers"]["tokens_per_s"] > 0


def test_the_results_lie_there(judged: tuple[Path, dict[str, Any]]) -> None:
    out, found = judged
    table = (out / "evaluation.md").read_text("utf-8")
    assert found["command"] in table
    assert f"{found['rows'][0]['text']['village']['per_token']:.2f}" in table
    assert json.loads((out / "figures.json").read_text("utf-8"))["rows"] == found["rows"]
    assert (out / "evaluation.png").stat().st_size > 1000
    said = [json.loads(line) for line in (out / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [(each["engine"], bool(each["text"])) for each in said] == [("llama", True)] * 2 + [("ark int5", True)] * 2
    [line] = (out / "manifest.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["command"] == found["command"]


def test_what_is_done_is_not_done_again(
    judged: tuple[Path, dict[str, Any]], fetched: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found = judged
    exam = Exam({"village": TEXT}, {})
    subject = Subject(MODEL, fetched(MODEL))

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(evaluation, "logits_of", refuse)
    [row] = evaluate([subject], exam, Results(out), 2, lambda *_: None)
    assert row["text"] == found["rows"][0]["text"]
    with pytest.raises(AssertionError):
        evaluate([subject], Exam({"village": TEXT + "또"}, {}), Results(out), 2, lambda *_: None)
    with pytest.raises(AssertionError):
        evaluate([subject], Exam({}, {"COPA": [Question("가", ("나", "다"), 0)]}), Results(out), 2, lambda *_: None)


def test_fewer_bits_are_judged_by_what_they_cost(fetched: Callable[[str], Path], tmp_path: Path) -> None:
    """bitsandbytes as transformers applies it: the baseline."""
    path = fetched(MODEL)
    exam = Exam({"village": TEXT}, {})
    found = [Subject(MODEL, path), *(Subject(MODEL, path, "transformers", weights) for weights in ("bf16", "nf4"))]
    llama, whole, few = evaluate(found, exam, Results(tmp_path), 2, lambda *_: None)
    perplexities = [row["text"]["village"]["per_token"] for row in (llama, whole, few)]
    assert perplexities[1] == pytest.approx(perplexities[0], rel=0.02)
    assert perplexities[0] < perplexities[2] < 1.5 * perplexities[0]
    assert few["megabytes"] < whole["megabytes"] == pytest.approx(2 * whole["num_weights"] / 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qwen-9000"], "no model is called 'qwen-9000'"),
        ([MODEL, "--engine=vllm"], "there is no engine 'vllm'"),
        ([MODEL, "--engine=ark:nf4"], "ark does not hold weights as 'nf4': choose ark:int5"),
        ([MODEL, "--answers=1000"], "ask for that many at most"),
        ([MODEL, "--text=/nowhere.txt"], "--text /nowhere.txt cannot be read"),
        ([MODEL, "--questions=/nowhere"], "/nowhere holds no task"),
        ([MODEL, "--out=/proc/there"], "/proc/there cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    fetched: Callable[[str], Path], tmp_path: Path, arguments: list[str], message: str
) -> None:
    fetched(MODEL)
    given = arguments if any(each.startswith("--out") for each in arguments) else [*arguments, f"--out={tmp_path}"]
    told = dure(*given)
    assert told.returncode == 1
    assert message in told.stderr
    assert "Traceback" not in told.stderr
