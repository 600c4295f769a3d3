"""`scripts/bench engines`: what it asks is the same everywhere, and what it tells is what was measured."""

import itertools
import statistics
from pathlib import Path

import pytest
from benchmarks.comparison import asking, children, contestants, load, measures, mixed, table
from benchmarks.comparison.measures import NotMeasured, Sizes
from benchmarks.comparison.mixed import Seen
from benchmarks.comparison.table import Measured
from benchmarks.comparison.trace import Trace, tokens_a_piece
from benchmarks.engines import command, trimmed_model

from dure.job import Usage
from dure_worker.engines.scripted import ScriptedEngine

MODEL = "qwen2.5-coder-0.5b-korean"
SHORT = Sizes(num_repeats=1, streams=(1,), max_tokens=24, window_s=0.5, cap_s=30)


def whole(pieces: list[float], num_tokens: int, began: float = 0.0) -> Trace:
    return Trace(began, pieces, "글", pieces[-1], Usage(10, num_tokens), is_whole=True)


def first_turns(seed: int, client: int, number: int = 200) -> list[load.Turn]:
    chats = itertools.islice(load.conversations(seed, client), number)
    return [turn for chat in chats for turn in chat]


def test_every_client_asks_the_same_on_every_machine_and_something_else_than_its_neighbour() -> None:
    assert first_turns(1, 0) == first_turns(1, 0)
    assert first_turns(1, 0) != first_turns(1, 1)
    assert first_turns(1, 0) != first_turns(2, 0)
    # Of the generator as it is: another Python, or a changed text, would make figures that cannot be compared.
    assert [turn.num_tokens for turn in first_turns(1, 0)[:4]] == [108, 129, 78, 121]


def test_lengths_are_drawn_around_their_medians_and_within_their_bounds() -> None:
    turns = [turn for client in range(8) for turn in first_turns(1, client)]
    answers = [turn.num_tokens for turn in turns]
    assert min(answers) >= load.SHORTEST_ANSWER
    assert max(answers) <= load.LONGEST_ANSWER
    assert statistics.median(answers) == pytest.approx(load.ANSWER_TOKENS, rel=0.1)
    questions = [len(turn.text) for turn in turns]
    assert statistics.median(questions) == pytest.approx(load.QUESTION_CHARACTERS, rel=0.2)
    assert 300 < max(questions) <= load.LONGEST_QUESTION + 100


def test_unseen_prompts_differ_from_their_first_words_and_are_about_as_long_as_wanted() -> None:
    engine = ScriptedEngine()
    prompts = [asking.unseen(engine, number, 512) for number in range(40)]
    assert len({prompt[0].content[:12] for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert engine.count_tokens(prompt) == pytest.approx(512, rel=0.1)


def test_tokens_are_spread_over_an_answers_pieces_and_estimated_where_it_was_cut_off() -> None:
    ended, cut = whole([1, 2, 3, 4], 8), Trace(0, [1, 2])
    ratio = tokens_a_piece([ended, cut])
    assert ratio == 2
    assert ended.tokens_between(1, 3, 0) == 4
    assert cut.tokens_between(0, 9, ratio) == 4
    assert tokens_a_piece([cut]) == 1


def test_streams_count_only_while_all_of_them_run() -> None:
    # The second one begins at 10 and the first one ends at 20: 10 and 20 tokens in these 10 s.
    first = whole([float(second) for second in range(21)], 21)
    second = whole([10 + half / 2 for half in range(41)], 41)
    assert measures.together([first, second]) == pytest.approx(3)


@pytest.mark.parametrize(
    "traces",
    [
        [whole([1.0, 2.0], 2), whole([5.0, 6.0], 2)],
        [whole([1.0, 2.0, 3.0], 3)],
        [whole([float(second) for second in range(21)], 21), Trace(0)],
    ],
    ids=["one after another", "too short", "one did not begin"],
)
def test_streams_that_do_not_run_together_give_no_figure(traces: list[Trace]) -> None:
    with pytest.raises(NotMeasured):
        measures.together(traces)


def test_an_answer_of_the_chat_counts_by_the_share_that_came_in_time() -> None:
    seen = Seen(0, 30)
    seen.answers = [
        (whole([2.0, 4.0], 10), 10),  # whole
        (whole([20.0, 40.0], 10, began=10), 10),  # half of it in time
        (whole([5.0], 5), 10),  # ended by itself, at half
        (Trace(28, [32.0]), 10),  # began too late
    ]
    assert seen.figures()["mixed"] == pytest.approx(2 * 2.0)
    assert seen.firsts() == {"mixed_ttft_p50": pytest.approx(4.5), "mixed_ttft_p95": 10}


def test_a_chat_in_which_nothing_is_answered_has_no_figure() -> None:
    seen = Seen(0, 30, [(Trace(1), 10)])
    with pytest.raises(NotMeasured, match="30 s"):
        seen.figures()
    with pytest.raises(NotMeasured, match="never"):
        seen.firsts()


def test_every_measure_runs_over_an_engine() -> None:
    engine = ScriptedEngine(num_slots=2, context=1024, token_s=0.001)
    found = measures.prefill(engine, SHORT, 0) | measures.decode(engine, SHORT, 2) | measures.turns(engine, SHORT, 0)
    seen = mixed.mixed(engine, SHORT)
    found |= seen.figures() | seen.firsts()
    assert set(found) == set(table.METRICS) - {"decode_1", "decode_4", "decode_8", "load", "peak"}
    assert min(found.values()) > 0
    measures.fill(engine)


def test_what_takes_too_long_is_cut_off_and_is_not_measured() -> None:
    engine = ScriptedEngine(token_s=0.05)
    sizes = Sizes(num_repeats=1, max_tokens=100_000, cap_s=0.2)
    with pytest.raises(NotMeasured):
        measures.decode(engine, sizes, 2)  # alone it would take 80 minutes, far beyond a test's limit


def test_who_waits_at_the_end_of_the_chat_gets_a_first_text_unless_that_takes_too_long() -> None:
    seen = mixed.mixed(ScriptedEngine(num_slots=2, token_s=1.0), Sizes(window_s=0.1, cap_s=300))
    assert all(trace.pieces for trace, _ in seen.answers)
    hardly = mixed.mixed(ScriptedEngine(num_slots=2, token_s=300), Sizes(window_s=0.1, cap_s=0.1))
    assert not any(trace.pieces for trace, _ in hardly.answers)


def two_rounds() -> Measured:
    measured = Measured(MODEL, contestants.UNTRIMMED)
    for number, (base, other) in enumerate([(10.0, 30.0), (20.0, 40.0)]):
        measured.add(contestants.UNTRIMMED, {"prefill": base, "decode_1": 1.0}, {}, number)
        measured.add("ark-int4", {"prefill": other}, {"mixed": "nothing was answered"}, number)
    return measured


def test_rows_are_medians_over_rounds_with_their_spread() -> None:
    rows = {(row.engine, row.metric): row for row in two_rounds().rows()}
    assert rows["ark-int4", "prefill"].median == 35
    assert rows["ark-int4", "prefill"].spread == (30, 40)
    assert rows["ark-int4", "prefill"].quant == contestants.CONTESTANTS["ark-int4"].quant
    assert ("ark-int4", "mixed") not in rows


def test_a_ratio_is_the_median_of_each_rounds_and_needs_both_of_a_round() -> None:
    measured = two_rounds()
    assert measured.ratios() == {"ark-int4": {"prefill": pytest.approx(2.5)}}
    # A round without the one is no pair with the other's.
    measured.add("llama", {"prefill": 40.0}, {}, 1)
    assert measured.ratios()["llama"] == {"prefill": pytest.approx(2.0)}


def test_what_is_not_measured_is_a_dash_with_its_reason_and_never_a_figure() -> None:
    measured = two_rounds()
    measured.missing["transformers-nf4", "all"] = "No module named 'bitsandbytes'"
    lines = table.figures_table(measured)
    assert lines[0] == f"| {MODEL} | llama-untrimmed | ark-int4 |"
    assert "| prefill, 512 tokens, tokens/s | 15 (10–20) | 35 (30–40) |" in lines
    assert "| decode, 1 stream, tokens/s | 1.0 | – |" in lines
    assert table.missing_lines(measured) == [
        "- not measured: ark-int4, mixed: nothing was answered",
        "- not measured: transformers-nf4, all: No module named 'bitsandbytes'",
    ]
    assert "| prefill, 512 tokens | 2.50 |" in table.ratios_table(measured)


def test_the_distance_to_the_ceiling_is_bandwidth_over_bytes() -> None:
    measured = two_rounds()
    kernels = {"bytes_a_token": 250_000_000, "kernel_ms": {"1": 10.0, "8": 20.0}}
    plain = {"bytes_a_token": 500_000_000, "kernel_ms": {}}
    measured.limits = {"bytes_a_s": 1e9, "engines": {contestants.UNTRIMMED: plain, "ark-int4": kernels}}
    assert table.limits_table(measured)[2:] == [
        "| llama-untrimmed | 500 | 2.0 tokens/s | 50% | – | – |",
        "| ark-int4 | 250 | 4.0 tokens/s | – | 10.0 ms, 100 tokens/s | 20.0 ms, 400 tokens/s |",
    ]


def test_the_baseline_is_always_there_and_comes_first() -> None:
    def names(*wanted: str, has_server: bool = False, is_quick: bool = False) -> list[str]:
        return [one.name for one in contestants.chosen(list(wanted), has_server=has_server, is_quick=is_quick)]

    assert names("ark") == ["llama-untrimmed", "ark-int5", "ark-file", "ark-int4", "ark-int2", "ark-int8"]
    assert names("ark-int2", "llama", has_server=True) == ["llama-server", "llama", "ark-int2"]
    assert names(is_quick=True) == ["llama-untrimmed", "llama", "ark-int5"]
    with pytest.raises(ValueError, match="choose llama, ark-int5"):
        names("gpt")


def test_a_model_is_found_by_a_part_of_its_name() -> None:
    assert trimmed_model("0.5b").name == MODEL
    for name in ("7b", "korean", "gemma"):
        with pytest.raises(ValueError, match=MODEL):
            trimmed_model(name)


def test_the_command_under_a_table_names_no_place_of_this_machine() -> None:
    for arguments in (["--llama-server", "/opt/l/llama-server"], ["--llama-server=/opt/l/llama-server"]):
        said = command(["--quick", *arguments], Path("/opt/l/llama-server"))
        assert said.replace("=", " ") == "scripts/bench engines --quick --llama-server PATH"
    assert command([], None) == "scripts/bench engines"


def test_weights_have_a_folder_for_each_engine_and_follow_their_file(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_text("old", "utf-8")
    first, other = (children.own_link(weights, tmp_path / "kept", name) for name in ("ark-int4", "ark-int2"))
    first.with_name("ark-1.safetensors").write_text("packed", "utf-8")
    assert first.parent != other.parent
    assert children.own_link(weights, tmp_path / "kept", "ark-int4") == first
    assert first.with_name("ark-1.safetensors").exists()
    weights.unlink()
    weights.write_text("new", "utf-8")
    assert children.own_link(weights, tmp_path / "kept", "ark-int4").read_text("utf-8") == "new"


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    arguments = ["start", "llama-untrimmed", str(tmp_path / "nothing.gguf")]
    with pytest.raises(children.ChildFailed, match=r"nothing\.gguf"):
        children.run("child", arguments, 1, timeout_s=300)
