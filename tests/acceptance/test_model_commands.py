"""`dure model …` as a user types it, on small files made here: what is planned, cut, checked, removed and refused."""

import os
import pty
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from dure import catalog, gguf, known_models, run_file
from model_desk import SMALL, Desk, disguised, make_model, own_model
from support import DEADLINE_S, DURE

GIB = 1 << 30


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny.gguf")


# plan


def test_a_plan_in_json_has_the_parts_their_sum_and_a_verdict(desk: Desk) -> None:
    found = desk.json("plan", "Kanana-1.5-2.1B", "--ram", "3GB", "--slots", 2, "--context", 1024)
    parts = [
        found[f"{name}_bytes"]
        for name in ("weights", "kv_cache", "compute", "prompt_cache", "engine", "python", "korean_editor")
    ]
    assert all(isinstance(part, int) for part in parts)
    assert sum(parts) == found["plan_rss_bytes"]
    assert found["needed_bytes"] == found["plan_rss_bytes"] + found["margin_bytes"] + found["reserve_bytes"]
    assert found["margin_bytes"] == pytest.approx(found["plan_rss_bytes"] * 0.1, abs=1)
    assert (found["fits"], found["ram_bytes"]) == (True, 3 * 10**9)
    assert found["kv_cache_bytes"] == 2 * 1024 * 32 * 2 * 8 * 128 * 2


def test_a_plan_is_of_the_engine_that_is_named_else_of_the_one_that_would_serve(desk: Desk) -> None:
    own_model(desk.home / "models", "mine")
    llama, ark = (desk.json("plan", "mine", "--ram", "3GB", "--engine", name) for name in ("llama", "ark"))
    assert (llama["engine"], ark["engine"]) == ("llama", "ark")
    assert ark["engine_bytes"] > llama["engine_bytes"], "torch"
    assert desk.json("plan", "mine")["engine"] in {"llama", "ark"}


@pytest.mark.skipif(find_spec("auto_round_kernel") is None, reason="auto-round-lib has no build for this machine")
def test_a_plan_for_this_machine_is_of_the_engine_that_its_settings_name(desk: Desk) -> None:
    own_model(desk.home / "models", "mine")
    ark = desk.json("plan", "mine", "--engine", "ark")
    named = desk.json("plan", "mine", DURE_WORKER_ENGINE="ark")
    assert (named["engine"], named["plan_rss_bytes"]) == ("ark", ark["plan_rss_bytes"])
    assert desk.json("plan", "mine", "--ram", "3GB", DURE_WORKER_ENGINE="ark")["engine"] == "llama", "another box"


def test_ark_is_only_planned_of_a_file_that_it_runs(desk: Desk, tmp_path: Path) -> None:
    assert f"dure model fetch {SMALL.name}" in desk.refused("plan", SMALL.name, "--engine", "ark")
    assert "not on this machine" in desk.refused("plan", "gemma-3-1b", "--engine", "ark")
    other = make_model(tmp_path / "other.gguf")
    other.write_bytes(other.read_bytes().replace(b"qwen2.", b"gemma.").replace(b"qwen2", b"gemma", 1))
    assert "--engine llama" in desk.refused("plan", other, "--engine", "ark")


def test_every_known_model_can_be_planned_though_none_is_here(desk: Desk) -> None:
    rows = {row["name"]: row for row in desk.json("recommend", "--ram", "16GiB")}
    assert set(rows) == {*known_models.KNOWN, *catalog.CATALOG}
    for name in ("gemma-3-1b", SMALL.name):
        assert desk.json("plan", name, "--ram", "16GiB")["plan_rss_bytes"] == rows[name]["plan_rss_bytes"]


def test_a_model_that_does_not_fit_is_told_what_would(desk: Desk) -> None:
    command = ("plan", "kanana-1.5-2.1b", "--ram", "3GB")
    found = desk.json(*command)
    assert found["fits"] is False
    options = {line.split()[-2]: int(line.split()[-1]) for line in found["advice"][:-1]}
    assert set(options) == {"--slots", "--context"}
    for option, number in options.items():
        assert desk.json(*command, option, number)["fits"] is True
    assert desk.json(*command, "--slots", options["--slots"] + 1)["fits"] is False
    said = desk.said(*command)
    assert "It does not fit" in said
    assert f"--slots {options['--slots']}" in said


def test_a_model_that_cannot_be_made_to_fit_is_advised_to_be_another(desk: Desk) -> None:
    advice = desk.json("plan", "Llama-3-Korean-8B", "--ram", "3GB")["advice"]
    assert len(advice) == 1
    assert "dure model recommend" in advice[0]


def test_a_plan_of_a_file_is_of_its_own_weights_and_names_it(desk: Desk, model: Path) -> None:
    weights = sum(tensor.num_bytes for tensor in gguf.read(model).tensors.values())
    assert desk.json("plan", model, "--ram", "3GB")["weights_bytes"] == weights
    assert str(model) in desk.said("plan", model, "--ram", "3GB")


def test_without_a_size_of_memory_this_machines_is_taken(desk: Desk) -> None:
    assert desk.json("plan", "qwen3-0.6b")["ram_bytes"] > 1 << 28


def test_the_korean_editor_is_counted_unless_it_does_not_parse(desk: Desk) -> None:
    assert desk.json("plan", "qwen3-0.6b", "--ram", "3g")["korean_editor_bytes"] == 335 << 20
    assert desk.json("plan", "qwen3-0.6b", "--ram", "3g", "--no-editor")["korean_editor_bytes"] == 0


@pytest.mark.parametrize(
    ("text", "size"), [("3GB", 3 * 10**9), ("3GiB", 3 * GIB), ("3072MiB", 3 * GIB), ("2.5g", GIB * 5 // 2)]
)
def test_memory_is_read_as_people_write_it(desk: Desk, text: str, size: int) -> None:
    assert desk.json("plan", "lfm2-350m", "--ram", text)["ram_bytes"] == size


@pytest.mark.parametrize("text", ["", "3XB", "much", "-3GB", "0"])
def test_memory_that_is_no_size_is_refused_with_examples(desk: Desk, text: str) -> None:
    assert "3GB, 3GiB, 3072MiB or 2.5g" in desk.refused("plan", "lfm2-350m", f"--ram={text}")
    assert "3GB, 3GiB, 3072MiB or 2.5g" in desk.refused("recommend", f"--ram={text}")


@pytest.mark.parametrize(
    ("name", "near"), [("kanana-1.5-2b", "kanana-1.5-2.1b"), ("qwen2.5-coder-1.5b-koraen", "qwen2.5-coder-1.5b-korean")]
)
def test_a_misspelt_name_is_refused_with_the_nearest(desk: Desk, name: str, near: str) -> None:
    assert f"did you mean {near}?" in desk.refused("plan", name)


@pytest.mark.parametrize("command", ["fetch", "verify", "trim", "rm"])
def test_a_misspelt_name_is_refused_by_every_command(desk: Desk, command: str) -> None:
    options = ["--out", "o.gguf"] if command == "trim" else []
    said = desk.refused(command, "qwen2.5-coder-1.5b-koraen", *options)
    assert "did you mean qwen2.5-coder-1.5b-korean?" in said


@pytest.mark.parametrize("command", ["fetch", "verify", "trim", "rm"])
def test_a_model_of_the_hub_cannot_be_had_here_and_that_is_said(desk: Desk, command: str) -> None:
    options = ["--out", "o.gguf"] if command == "trim" else []
    assert "cannot be had here" in desk.refused(command, "Kanana-1.5-2.1B", *options)


@pytest.mark.parametrize("command", ["plan", "verify", "trim"])
@pytest.mark.parametrize("kind", ["cut", "text", "empty", "version", "folder", "gone", "vocabulary"])
def test_a_broken_file_is_one_line_and_leaves_nothing(desk: Desk, model: Path, command: str, kind: str) -> None:
    whole = model.read_bytes()
    broken = desk.folder / "broken.gguf"
    match kind:
        case "cut":
            broken.write_bytes(whole[:-100])
        case "text":
            broken.write_text("두레" * 100, "utf-8")
        case "empty":
            broken.touch()
        case "version":
            broken.write_bytes(whole[:4] + struct.pack("<I", 99) + whole[8:])
        case "folder":
            broken.mkdir()
        case "vocabulary":
            make_model(broken, rows=7)
    options = ["--out", "o.gguf"] if command == "trim" else []
    said = desk.refused(command, broken, *options)
    assert {"vocabulary": "rows for", "version": "version 99"}.get(kind, "broken.gguf") in said
    assert {path.name for path in desk.folder.iterdir()} <= {"tiny.gguf", "broken.gguf", "home"}


# recommend


def test_what_fits_is_recommended_best_score_first_with_source_and_command(desk: Desk) -> None:
    rows = desk.json("recommend", "--ram", "3GB")
    scores = [row["score"] or 0 for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row["fits"] for row in rows)
    assert all(row["score_source"] for row in rows if row["score"])
    assert "llama-3-korean-8b" not in {row["name"] for row in rows}
    commands = {row["name"]: row["command"] for row in rows}
    assert commands[SMALL.name] == f"dure model fetch {SMALL.name}"
    assert commands["qwen3-0.6b"].endswith("--local-dir qwen3-0.6b && dure model add qwen3-0.6b")
    assert commands["lfm2-350m"] == "dure model add lfm2-350m.gguf  # LiquidAI/LFM2-350M"
    said = desk.said("recommend", "--ram", "3GB")
    assert f"dure model fetch {SMALL.name}" in said
    assert "KMMLU-Redux" in said


def test_a_model_that_is_here_is_recommended_with_the_command_that_serves_it(desk: Desk) -> None:
    desk.place()
    row = next(row for row in desk.json("recommend", "--ram", "3GB") if row["name"] == SMALL.name)
    assert (row["is_here"], row["command"]) == (True, f"dure up --model {SMALL.name}")


def test_fewer_slots_let_more_models_in(desk: Desk) -> None:
    names = {row["name"] for row in desk.json("recommend", "--ram", "3GB", "--slots", "1")}
    assert "kanana-1.5-2.1b" in names - {row["name"] for row in desk.json("recommend", "--ram", "3GB")}


def test_too_little_memory_for_anything_is_a_sentence_and_in_json_an_empty_list(desk: Desk) -> None:
    assert "No known model fits" in desk.said("recommend", "--ram", "300MiB")
    assert desk.json("recommend", "--ram", "300MiB") == []
    assert "llama-3-korean-8b" in {row["name"] for row in desk.json("recommend", "--ram", "300MiB", "--all")}


# list, verify, rm


def test_the_list_says_size_vocabulary_what_is_here_and_what_it_is_made_from(desk: Desk) -> None:
    desk.place()
    rows = {row["name"]: row for row in desk.json("list")}
    assert set(rows) == set(catalog.CATALOG)
    row = rows[SMALL.name]
    assert (row["vocab"], row["is_here"], row["made_from"]) == (32_000, True, "qwen2.5-coder-0.5b-instruct-q4_k_m")
    assert row["bytes"] == SMALL.num_bytes
    assert rows["qwen2.5-coder-0.5b-instruct-q4_k_m"]["made_from"] is None
    assert "151,936" in desk.said("list")


def test_a_whole_file_is_verified_and_one_outside_the_catalogue_is_said_to_be(desk: Desk, model: Path) -> None:
    found = desk.json("verify", model)
    assert (found["is_in_catalogue"], found["tensors"], found["bytes"]) == (False, 2, model.stat().st_size)
    assert len(found["sha256"]) == 64
    assert "nothing to compare" in desk.said("verify", model)


def test_a_catalogues_file_of_another_size_is_refused_with_the_remedy(desk: Desk) -> None:
    path = desk.place()
    assert f"rm '{path}' && dure model fetch {SMALL.name}" in desk.refused("verify", SMALL.name)


def test_a_catalogues_file_with_another_sha256_is_refused(desk: Desk) -> None:
    path = desk.place()
    os.truncate(path, SMALL.num_bytes)
    assert "its sha256 is not that of the catalogue" in desk.refused("verify", SMALL.name)


@pytest.mark.parametrize("command", ["verify", "rm"])
def test_a_model_that_is_not_here_is_said_not_to_be(desk: Desk, command: str) -> None:
    assert "is not on this machine" in desk.refused(command, SMALL.name)


def test_removing_asks_and_without_anybody_there_it_needs_yes(desk: Desk) -> None:
    path = desk.place()
    done = desk.run("rm", SMALL.name)
    assert (done.returncode, "add --yes" in done.stderr) == (1, True)
    assert path.exists()
    assert desk.json("rm", SMALL.name, "--yes")["name"] == SMALL.name
    assert not path.parent.exists()


@pytest.mark.parametrize(("answer", "stays"), [("n\n", True), ("\n", True), ("y\n", False)])
def test_the_answer_at_the_terminal_decides(desk: Desk, answer: str, stays: bool) -> None:
    path = desk.place()
    master, slave = pty.openpty()
    try:
        os.write(master, answer.encode())
        assert desk.run("rm", SMALL.name, stdin=slave).returncode in {0, 1}
    finally:
        os.close(master)
        os.close(slave)
    assert path.exists() is stays


def test_the_model_that_a_running_dure_serves_is_not_removed_and_others_are(desk: Desk) -> None:
    served, other = desk.place(), desk.place("qwen2.5-coder-1.5b-korean")
    command = [sys.executable, "-c", "input()", "up", "--model", SMALL.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as up:
        run_file.write(desk.home, run_file.Running(up.pid, 8000, "redis://:secret@127.0.0.1/0"))
        said = desk.refused("rm", SMALL.name, "--yes")
        assert "stop it first" in said
        assert "secret" not in said
        assert served.exists()
        desk.said("rm", "qwen2.5-coder-1.5b-korean", "--yes")
        assert not other.exists()
        up.communicate(b"\n")
    desk.said("rm", SMALL.name, "--yes")
    assert not served.exists()


def test_the_model_that_dure_model_names_counts_as_served(desk: Desk) -> None:
    desk.place()
    desk.home.mkdir(exist_ok=True)
    run_file.write(desk.home, run_file.Running(os.getpid(), 8000, "redis://127.0.0.1/0"))
    assert "stop it first" in desk.refused("rm", SMALL.name, "--yes", DURE_MODEL=SMALL.name)


def test_a_model_that_is_being_fetched_is_not_removed(desk: Desk) -> None:
    path = desk.place()
    with FileLock(path.parent / "fetch.lock"):
        assert "another process is fetching" in desk.refused("rm", SMALL.name, "--yes")
    assert path.exists()


# trim


def test_words_are_added_from_text_alone(desk: Desk, model: Path) -> None:
    said = desk.refused("trim", model, "--size", 320, "--out", "o.gguf", "--add-words", 8)
    assert "--text" in said
    assert not (desk.folder / "o.gguf").exists()


def test_trimming_writes_a_smaller_file_and_reports_what_was_cut(desk: Desk, model: Path) -> None:
    found = desk.json("trim", model, "--size", 320, "--out", "o.gguf")
    out = desk.folder / "o.gguf"
    assert (found["bytes_before"], found["bytes_after"]) == (model.stat().st_size, out.stat().st_size)
    tokens = gguf.read(out).get("tokenizer.ggml.tokens")
    assert found["vocab_after"] == len(tokens) < found["vocab_before"]
    by_script = {row["script"]: row for row in found["scripts"]}
    assert by_script["han/kana"]["tokens_after"] == 0
    assert by_script["byte"]["tokens_after"] == 256
    assert sum(row["tokens_before"] for row in found["scripts"]) == found["vocab_before"]
    assert sum(row["bytes_after"] for row in found["scripts"]) == found["all"]["bytes_after"]
    assert "".join(disguised("두레")) in tokens
    assert desk.json("verify", out)["vocab"] == len(tokens)


def test_korean_costs_as_many_tokens_as_before_and_ones_own_text_is_measured_too(desk: Desk, model: Path) -> None:
    text = desk.folder / "mine.txt"
    text.write_text("두레 마을 hello", "utf-8")
    found = desk.json("trim", model, "--size", 320, "--out", "o.gguf", "--text", text)
    assert set(found["fertility"]) == {"sample", str(text)}
    assert all(before == after > 0 for before, after in found["fertility"].values())


def test_a_table_of_scripts_is_shown(desk: Desk, model: Path) -> None:
    said = desk.said("trim", model, "--size", 320, "--out", "o.gguf")
    assert "korean" in said
    assert "han/kana" in said
    assert "tokens per Korean character" in said


def test_an_unknown_language_is_refused_with_the_nearest(desk: Desk, model: Path) -> None:
    assert "did you mean korean?" in desk.refused("trim", model, "--keep", "english,koraen", "--out", "o.gguf")
    assert "known are english, korean" in desk.refused("trim", model, "--keep", "中文", "--out", "o.gguf")
    assert "names no language" in desk.refused("trim", model, "--keep", " , ", "--out", "o.gguf")
    assert not (desk.folder / "o.gguf").exists()


def test_a_size_that_is_too_small_is_refused_with_one_that_is_enough(desk: Desk, model: Path) -> None:
    said = desk.refused("trim", model, "--size", 100, "--out", "o.gguf")
    assert "choose --size 320" in said
    assert {path.name for path in desk.folder.iterdir()} == {"tiny.gguf"}


@pytest.mark.parametrize("text", ["gone.txt", ".", "binary"])
def test_a_text_that_cannot_be_read_is_refused(desk: Desk, model: Path, text: str) -> None:
    (desk.folder / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    assert "--text" in desk.refused("trim", model, "--out", "o.gguf", "--text", text)
    assert not (desk.folder / "o.gguf").exists()


def test_a_vocabulary_whose_pattern_is_unknown_is_cut_but_its_texts_are_not_counted(desk: Desk) -> None:
    odd = make_model(desk.folder / "odd.gguf", pre="nobody-knows")
    assert desk.json("trim", odd, "--size", 320, "--out", "o.gguf")["fertility"] == {}
    (desk.folder / "t.txt").write_text("두레", "utf-8")
    said = desk.refused("trim", odd, "--size", 320, "--out", "p.gguf", "--text", "t.txt")
    assert "leave --text out" in said


def test_a_file_that_is_there_already_is_not_overwritten(desk: Desk, model: Path) -> None:
    before = model.read_bytes()
    assert "is there already" in desk.refused("trim", model, "--out", model)
    assert model.read_bytes() == before


@pytest.mark.parametrize("out", ["nowhere/o.gguf", "tiny.gguf/o.gguf"])
def test_a_place_that_cannot_be_written_is_refused(desk: Desk, model: Path, out: str) -> None:
    assert "cannot be written" in desk.refused("trim", model, "--size", 320, "--out", out)


def test_a_disk_that_fills_up_half_way_leaves_no_half_file(desk: Desk, small_disk: Path) -> None:
    large = make_model(desk.folder / "large.gguf", ballast_rows=1 << 15)
    said = desk.refused("trim", large, "--size", 320, "--out", small_disk / "o.gguf")
    assert "No space left on device" in said
    assert "free 2 MiB there" in said
    assert list(small_disk.iterdir()) == []


def test_while_another_process_makes_the_file_a_second_one_says_so(desk: Desk, model: Path) -> None:
    with FileLock(desk.folder / ".o.gguf.lock"):
        assert "another process is making o.gguf" in desk.refused("trim", model, "--size", 320, "--out", "o.gguf")
    assert desk.json("trim", model, "--size", 320, "--out", "o.gguf")["vocab_after"] < 320


def test_of_two_at_once_one_makes_the_file_and_nothing_else_is_left(desk: Desk) -> None:
    large = make_model(desk.folder / "large.gguf", ballast_rows=1 << 18)
    command = [DURE, "model", "trim", str(large), "--size", "320", "--out", "o.gguf"]
    both = [
        subprocess.Popen(command, cwd=desk.folder, env=desk.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=DEADLINE_S)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    loser = next(text for text in said if text)
    assert "another process is making" in loser or "is there already" in loser
    assert {path.name for path in desk.folder.iterdir()} == {"large.gguf", "o.gguf"}
    desk.json("verify", "o.gguf")
