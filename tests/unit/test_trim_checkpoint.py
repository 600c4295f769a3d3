"""Folders as a model hub has them: cut tensor by tensor, every file that names a token with it, or left alone."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_checkpoint
from dure import file_rows, safetensors
from dure.byte_tokens import as_token
from dure.errors import DureError, ModelCorrupt, ModelError, SettingsError
from dure_workshop.__main__ import trimmed
from dure_workshop.trim.checkpoint import trim
from dure_workshop.trim.checkpoint_files import Checkpoint
from dure_workshop.trim.text import Segmenter
from dure_workshop.trim.vocabulary import NotTrimmable
from tiny_checkpoint import EMBEDDING, NORM, OUTPUT, read_json, write_json

SIZE = 10_000
BOTH = {"korean", "english"}
HAN = as_token("漢字".encode())

forms = pytest.mark.parametrize(
    ("is_tied", "is_sharded", "pairs"),
    [(True, False, False), (False, False, True), (True, True, True), (False, True, False)],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint.write(tmp_path / "model")


@pytest.fixture
def out(folder: Path) -> Path:
    trim(Checkpoint.read(folder), folder.parent / "out", BOTH, SIZE)
    return folder.parent / "out"


def tokens_of(folder: Path) -> list[str]:
    return Checkpoint.read(folder).vocabulary.tokens


def weights_of(folder: Path, name: str) -> bytes:
    shard = next(shard for shard in Checkpoint.read(folder).shards if name in shard.tensors)
    return b"".join(safetensors.rows(shard, shard.tensors[name]))


# What comes out.


@forms
def test_each_row_is_its_tokens_own_and_all_else_is_as_it_was(
    tmp_path: Path, is_tied: bool, is_sharded: bool, pairs: bool
) -> None:
    source = tiny_checkpoint.write(tmp_path / "model", is_tied=is_tied, is_sharded=is_sharded, pairs=pairs)
    choice = trim(Checkpoint.read(source), tmp_path / "out", BOTH, SIZE)
    tokens = tokens_of(tmp_path / "out")
    assert tokens == [tiny_checkpoint.tokens()[old] for old in choice.kept]
    assert HAN not in tokens
    for name in [EMBEDDING] if is_tied else [EMBEDDING, OUTPUT]:
        wanted = b"".join(tiny_checkpoint.row(name, tiny_checkpoint.tokens().index(token)) for token in tokens)
        assert weights_of(tmp_path / "out", name) == wanted
    assert weights_of(tmp_path / "out", NORM) == weights_of(source, NORM)
    before, after = Checkpoint.read(source), Checkpoint.read(tmp_path / "out")
    assert [shard.path.name for shard in after.shards] == [shard.path.name for shard in before.shards]
    assert after.shards[0].metadata == {"format": "pt"}


def test_the_index_names_each_tensors_file_and_the_new_size(tmp_path: Path) -> None:
    source = tiny_checkpoint.write(tmp_path / "model", is_tied=False, is_sharded=True)
    choice = trim(Checkpoint.read(source), tmp_path / "out", BOTH, SIZE)
    old, new = (read_json(each / "model.safetensors.index.json") for each in (source, tmp_path / "out"))
    weights = 2 * len(choice.kept) * tiny_checkpoint.HIDDEN + tiny_checkpoint.HIDDEN
    assert new["metadata"] == {"total_size": 2 * weights, "total_parameters": weights}
    assert new["weight_map"] == old["weight_map"]


@pytest.mark.parametrize("pairs", [False, True])
def test_merges_keep_their_form_and_their_order(tmp_path: Path, pairs: bool) -> None:
    source = tiny_checkpoint.write(tmp_path / "model", pairs=pairs)
    trim(Checkpoint.read(source), tmp_path / "out", BOTH, SIZE)
    old, new = (read_json(each / "tokenizer.json")["model"]["merges"] for each in (source, tmp_path / "out"))
    assert new == [merge for merge in old if merge in new]
    assert 0 < len(new) < len(old)
    lines = (tmp_path / "out" / "merges.txt").read_text("utf-8").splitlines()
    assert lines == ["#version: 0.2", *(" ".join(merge) if pairs else merge for merge in new)]


def test_every_file_that_names_a_token_names_the_same_one_afterwards(out: Path) -> None:
    tokens = tokens_of(out)
    end, begin = tokens.index("<|end|>"), tokens.index("<|begin|>")
    config = read_json(out / "config.json")
    assert (config["vocab_size"], config["bos_token_id"], config["eos_token_id"]) == (len(tokens), begin, [end, begin])
    assert (config["pad_token_id"], config["tie_word_embeddings"]) == (None, True)
    assert read_json(out / "generation_config.json") == {"eos_token_id": end, "suppress_tokens": [end, -1]}
    decoder = {str(end): {"content": "<|end|>"}}
    assert read_json(out / "tokenizer_config.json") == {"added_tokens_decoder": decoder, "eos_token": "<|end|>"}
    assert read_json(out / "added_tokens.json") == {"<|end|>": end, "<|begin|>": begin}
    tokenizer = read_json(out / "tokenizer.json")
    assert {token["content"]: token["id"] for token in tokenizer["added_tokens"]} == {
        "<|end|>": end,
        "<|begin|>": begin,
    }
    assert tokenizer["post_processor"]["special_tokens"]["<|begin|>"]["ids"] == [begin]


def test_other_files_come_along_but_no_weights_in_another_form(out: Path) -> None:
    assert (out / "LICENSE").read_text() == "free"
    assert (out / "chat_template.jinja").is_file()
    assert not (out / "pytorch_model.bin").exists()


def test_a_text_part_of_a_larger_model_is_remapped_too_and_what_its_settings_name_stays(folder: Path) -> None:
    config, russian = read_json(folder / "config.json"), as_token("Ж".encode())
    larger = {"image_token_index": tiny_checkpoint.tokens().index(russian), "text_config": config}
    write_json(folder / "config.json", larger)
    trim(Checkpoint.read(folder), folder.parent / "out", {"korean"}, SIZE)
    found, tokens = read_json(folder.parent / "out" / "config.json"), tokens_of(folder.parent / "out")
    assert found["text_config"]["vocab_size"] == len(tokens)
    assert found["text_config"]["bos_token_id"] == tokens.index("<|begin|>")
    assert found["image_token_index"] == tokens.index(russian)


def test_it_appears_in_one_step_as_the_folder_that_was_written(folder: Path) -> None:
    seen: set[int] = set()

    def look(done: int, total: int) -> None:
        del done, total
        assert not (folder.parent / "out").exists()
        seen.update(path.stat().st_ino for path in folder.parent.glob(".out.*"))

    trim(Checkpoint.read(folder), folder.parent / "out", BOTH, SIZE, on_progress=look)
    assert seen == {(folder.parent / "out").stat().st_ino}


@pytest.fixture(scope="module")
def segmenters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    place = tmp_path_factory.mktemp("segment")
    source = Checkpoint.read(tiny_checkpoint.write(place / "model", pairs=True))
    trim(source, place / "out", BOTH, SIZE)
    return source, Checkpoint.read(place / "out")


def words(found: Checkpoint, text: str) -> list[str]:
    assert isinstance(found.segmenter, Segmenter)
    return [found.vocabulary.tokens[number] for number in found.segmenter.encode(text)]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(text=st.text("hello두레 漢字a1Ж。", max_size=30))
def test_text_whose_tokens_are_all_kept_is_segmented_as_before(
    segmenters: tuple[Checkpoint, Checkpoint], text: str
) -> None:
    before, after = segmenters
    if set(words(before, text)) <= set(after.vocabulary.tokens):
        assert words(after, text) == words(before, text)
    assert b"".join(after.vocabulary.meaning(number) or b"" for number in after.segmenter.encode(text)) == text.encode()  # type: ignore[union-attr]


def test_the_report_has_what_a_files_report_has(folder: Path) -> None:
    text = folder.parent / "mine.txt"
    text.write_text("두레 Ж", "utf-8")
    found = trimmed(folder, folder.parent / "out", BOTH, SIZE, [text])
    assert found["vocab_after"] == len(tokens_of(folder.parent / "out")) < found["vocab_before"]
    sizes = [(each / "model.safetensors").stat().st_size for each in (folder, folder.parent / "out")]
    assert [found["bytes_before"], found["bytes_after"]] == sizes
    by_script = {row["script"]: row for row in found["scripts"]}
    assert by_script["han/kana"]["tokens_after"] == by_script["unused"]["tokens_after"] == 0
    assert (by_script["unused"]["tokens_before"], by_script["special"]["tokens_before"]) == (6, 2)
    assert found["all"]["bytes_after"] == found["vocab_after"] * 8
    assert found["fertility"][str(text)] == (2.0, 2.0)
    assert as_token("Ж".encode()) in tokens_of(folder.parent / "out")


def test_of_a_pattern_that_is_not_known_texts_are_not_counted(folder: Path) -> None:
    write_json(folder / "tokenizer.json", tiny_checkpoint.tokenizer_json(pattern="nobody knows"))
    text = folder.parent / "mine.txt"
    text.write_text("두레", "utf-8")
    with pytest.raises(SettingsError, match="leave --text out"):
        trimmed(folder, folder.parent / "out", BOTH, SIZE, [text])
    assert trimmed(folder, folder.parent / "out", BOTH, SIZE, [])["fertility"] == {}


# What is refused.


def change(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def change_model(folder: Path, **changes: Any) -> None:
    tokenizer = read_json(folder / "tokenizer.json")
    write_json(folder / "tokenizer.json", tokenizer | {"model": tokenizer["model"] | changes})


def drop_a_byte(folder: Path) -> None:
    vocab = read_json(folder / "tokenizer.json")["model"]["vocab"]
    del vocab[as_token(b"\n")]
    change_model(folder, vocab=vocab)


def only_sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def rename_embedding(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(EMBEDDING.encode(), b"model.tokens_embed.weight"))


def with_output_of_other_rows(folder: Path) -> None:
    names = ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model.safetensors").rename(folder / names[0])
    tiny_checkpoint.write_shard(folder / names[1], [OUTPUT], num_rows=9)
    places = {EMBEDDING: names[0], NORM: names[0], OUTPUT: names[1]}
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})


def without_a_shard(folder: Path) -> None:
    with_output_of_other_rows(folder)
    (folder / "model-2.safetensors").unlink()


def index_outside(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / "sub" / "m.safetensors")
    places = dict.fromkeys([EMBEDDING, NORM], "sub/m.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})


def index_of_another(folder: Path) -> None:
    with_output_of_other_rows(folder)
    change(folder / "model.safetensors.index.json", weight_map={EMBEDDING: "model-1.safetensors"})


def merge_of_nothing(folder: Path) -> None:
    change_model(folder, merges=["가 나"])


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (cut_weights, ModelCorrupt, "cut short.*fetch it again"),
        (rename_embedding, NotTrimmable, r"no embedding of a known name \(architecture qwen2\): convert"),
        (with_output_of_other_rows, ModelCorrupt, "lm_head.weight has not the embedding's"),
        (without_a_shard, ModelCorrupt, "model-2.safetensors is missing: take the whole"),
        (index_outside, ModelCorrupt, "is missing: take the whole"),
        (index_of_another, ModelCorrupt, "names other tensors than the files have"),
        (only_sentencepiece, NotTrimmable, r"tokenizer.model \(SentencePiece\) only: convert the model to GGUF"),
        (drop_a_byte, ModelCorrupt, "no token for the byte 0x0A: take"),
        (merge_of_nothing, ModelCorrupt, "the merge '가 나' is of tokens that it lacks"),
        (lambda folder: change_model(folder, byte_fallback=True), NotTrimmable, "BPE with byte fallback"),
        (lambda folder: change_model(folder, type="Unigram"), NotTrimmable, "kind Unigram, not byte-level BPE"),
        (lambda folder: change_model(folder, end_of_word_suffix="</w>"), NotTrimmable, "marks parts of words"),
        (lambda folder: change_model(folder, vocab={"a": "b"}), ModelCorrupt, "no whole tokenizer.json"),
        (lambda folder: change_model(folder, vocab={"a": 1, "b": 1}), ModelCorrupt, "'a' and 'b' are both token 1"),
        (lambda folder: change_model(folder, vocab={"a": 9999}), ModelCorrupt, "token 9999 for"),
        (lambda folder: change(folder / "tokenizer.json", model=None), ModelCorrupt, "no whole tokenizer.json"),
        (lambda folder: change(folder / "config.json", vocab_size=99), ModelCorrupt, "vocab_size 99, but the"),
        (lambda folder: change(folder / "config.json", eos_token_id=9999), ModelCorrupt, "a token 9999 beyond"),
        (lambda folder: (folder / "config.json").unlink(), ModelCorrupt, "config.json is missing: take the whole"),
        (lambda folder: (folder / "tokenizer.json").unlink(), ModelCorrupt, "tokenizer.json is missing"),
        (lambda folder: (folder / "config.json").write_text("[1]"), ModelCorrupt, "is no JSON object: take it"),
        (lambda folder: (folder / "vocab.json").write_bytes(b"\xff"), ModelCorrupt, "is no JSON object: take it"),
        (lambda folder: (folder / "model.safetensors").unlink(), NotTrimmable, "has neither model.safetensors nor"),
        (
            lambda folder: change(folder / "tokenizer_config.json", added_tokens_decoder={"x": {}}),
            ModelCorrupt,
            "tokenizer_config.json names tokens in a way",
        ),
    ],
)  # fmt: skip
def test_what_is_broken_or_unknown_is_refused_in_a_line_and_leaves_nothing(
    folder: Path, damage: Any, kind: type[DureError], said: str
) -> None:
    damage(folder)
    with pytest.raises(kind, match=said) as caught:
        trimmed(folder, folder.parent / "out", BOTH, SIZE, [])
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_tensor_that_goes_with_the_vocabulary_under_an_unknown_name_is_refused(folder: Path) -> None:
    """Else the cut model would have rows for tokens that it lost."""
    path = folder / "model.safetensors"
    tiny_checkpoint.write_shard(path, [EMBEDDING, "model.per_layer.weight"])
    with pytest.raises(NotTrimmable, match=r"model\.per_layer\.weight goes with the vocabulary"):
        Checkpoint.read(folder)


def test_a_disk_that_is_full_half_way_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_rows, "PIECE_BYTES", 512)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\): free 0 MiB there"):
        trim(Checkpoint.read(folder), folder.parent / "out", BOTH, SIZE, on_progress=stop)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "dure_workshop", "trim", str(folder), "--out", str(folder.parent / "out")]


def test_the_command_ends_with_a_report_and_at_a_limit_of_file_sizes_with_one_line(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    failed = subprocess.run(
        command(folder), preexec_fn=limit, capture_output=True, encoding="utf-8", check=False
    )  # fmt: skip
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "cannot be written (File too large)" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    done = subprocess.run(command(folder), capture_output=True, encoding="utf-8", check=True)
    assert json.loads(done.stdout.splitlines()[-1])["out"] == str(folder.parent / "out")


def test_while_another_process_makes_it_a_second_one_says_so(folder: Path) -> None:
    with FileLock(folder.parent / ".out.lock"), pytest.raises(ModelError, match="another process is making"):
        trimmed(folder, folder.parent / "out", BOTH, SIZE, [])


def test_of_two_at_once_one_makes_it_and_nothing_else_is_left(folder: Path) -> None:
    both = [subprocess.Popen(command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert any("another process is making" in text or "is there already" in text for text in said)
    assert {path.name for path in folder.parent.iterdir()} == {"model", "out"}
    assert tokens_of(folder.parent / "out")


def test_a_folder_that_is_there_already_is_not_touched(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelError, match="is there already"):
        trimmed(folder, folder, BOTH, SIZE, [])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
