"""SentencePiece vocabularies: merged as llama.cpp merges, cut so that kept text is segmented as before.

Whether it is what llama.cpp does is asked in tests/integration/test_trim_gemma.py, of llama.cpp itself.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_gguf
from dure import gguf
from dure.errors import ModelCorrupt, ModelError
from dure.gguf import BYTE, NORMAL
from dure_workshop.__main__ import trimmed
from dure_workshop.trim.choice import Script, choose, script_of
from dure_workshop.trim.gguf_file import trim, vocabulary
from dure_workshop.trim.spm import Spm
from dure_workshop.trim.vocabulary import NotTrimmable

SIZE = 10_000


@cache
def small() -> Spm:
    return Spm(*tiny_gguf.spm_vocabulary())


@cache
def trimmed_small() -> Spm:
    return cut(choose(small(), {"korean", "english"}, SIZE).kept)


def cut(kept: list[int]) -> Spm:
    of = small()
    return Spm([of.tokens[n] for n in kept], [of.scores[n] for n in kept], [of.types[n] for n in kept])


def words(found: Spm, text: str) -> list[str]:
    return [found.tokens[number] for number in found.encode(text)]


def spelt(found: Spm, text: str) -> str:
    """Back into text, as a detokenizer does it."""
    meanings = [found.meaning(number) for number in found.encode(text)]
    tokens = words(found, text)
    return b"".join(
        token.encode() if meaning is None else meaning for token, meaning in zip(tokens, meanings, strict=True)
    ).decode()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("hello hello", ["hello", "▁hello"]),
        ("두레박", ["두레", "박"]),  # 두레 has the better score, though 레박 is a token too
        ("llll", ["ll", "ll"]),  # equal scores: from the left
        ("lllo", ["ll", "lo"]),
        ("12312", ["123", "12"]),
        ("가", ["<0xEA>", "<0xB0>", "<0x80>"]),
        ("\n\n\n", ["\n\n", "\n"]),  # the longest of those found whole go first
        ("a   b", ["a", "  ", "▁", "b"]),
        ("<b>(<bos>", ["<b>", "(", "<", "b", "o", "s", ">"]),  # a role in a text is no role
        ("", []),
    ],
)
def test_neighbours_of_the_best_score_are_merged_first(text: str, tokens: list[str]) -> None:
    assert words(small(), text) == tokens


def test_where_the_model_wants_it_text_begins_as_if_behind_a_space_and_so_does_what_follows_a_whole_token() -> None:
    prefixing = replace(small(), prefixes_space=True)
    assert words(prefixing, "hello\nhello") == ["▁hello", "\n", "▁hello"]
    assert words(small(), "hello\nhello") == ["hello", "\n", "hello"]


def test_a_kept_token_keeps_what_is_made_on_the_way_to_it_and_nothing_else() -> None:
    ids = small().ids
    closed = small().closed({ids["▁hello"], ids["<eos>"]})
    assert {small().tokens[number] for number in closed} == {"▁hello", "hello", "hell", "he", "ll", "<eos>"}
    assert small().closed(closed) == closed


def test_roles_bytes_korean_and_ascii_stay_and_unused_roles_han_and_others_go() -> None:
    kept = set(trimmed_small().tokens)
    assert {"<start_of_turn>", "<bos>", "<b>", "\n\n", "두레", "▁두레", "박", "a", "Z", "0", "。", "▁("} <= kept
    assert not {"<unused7>", "漢", "漢字", "Ж", "ЖЖ"} & kept
    assert trimmed_small().kinds.count(BYTE) == 256
    assert script_of(small().meaning(small().ids["▁두레"]), NORMAL) is Script.KOREAN


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.text(max_size=40))
def test_any_unicode_text_round_trips(text: str) -> None:
    # A lone ▁ is a space to SentencePiece: that much it loses by design.
    assert spelt(trimmed_small(), text) == text.replace("▁", " ")


@settings(deadline=None, max_examples=500, derandomize=True)
@given(st.text("helo두레박 漢字Ж123.(\n", max_size=30))
def test_text_whose_tokens_are_all_kept_is_segmented_as_before(text: str) -> None:
    before = words(small(), text)
    if set(before) <= set(trimmed_small().tokens):
        assert words(trimmed_small(), text) == before


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.text("helo두레박", max_size=20), st.sets(st.sampled_from(range(len(tiny_gguf.MERGED)))))
def test_any_closed_choice_segments_its_own_text_as_before(text: str, numbers: set[int]) -> None:
    chosen = small().closed({small().ids[tiny_gguf.MERGED[number]] for number in numbers})
    kept = sorted(chosen | {number for token, number in small().ids.items() if token not in tiny_gguf.MERGED})
    found, before = cut(kept), words(small(), text)
    if set(before) <= set(found.tokens):
        assert words(found, text) == before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spm.gguf"
    tiny_gguf.write_spm(path)
    return path


def test_each_row_of_a_trimmed_file_is_its_tokens_own_and_ids_name_the_same_tokens(file: Path, tmp_path: Path) -> None:
    report = trimmed(file, tmp_path / "out.gguf", {"korean", "english"}, SIZE, [])
    before, after = gguf.read(file), gguf.read(tmp_path / "out.gguf")
    old, new = (found.get("tokenizer.ggml.tokens") for found in (before, after))
    assert (report["vocab_before"], report["vocab_after"]) == (len(old), len(new))
    rows = [b"".join(gguf.rows(after, after.tensors[gguf.EMBEDDING], [number])) for number in range(len(new))]
    assert rows == [old.index(token).to_bytes(2, "little") * 17 for token in new]
    for key in ("scores", "token_type"):
        by_token = dict(zip(old, before.get(f"tokenizer.ggml.{key}"), strict=True))
        assert after.get(f"tokenizer.ggml.{key}") == [by_token[token] for token in new]
    for role, token in [("bos", "<bos>"), ("eos", "<eos>"), ("padding", "<pad>"), ("eot", "<start_of_turn>")]:
        assert new[after.get(f"tokenizer.ggml.{role}_token_id")] == token


def test_tokens_of_ones_own_text_are_counted_and_measured(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("두레 ЖЖ", "utf-8")
    report = trimmed(file, tmp_path / "out.gguf", {"korean"}, SIZE, [text])
    assert report["fertility"][str(text)] == (1.5, 1.5)
    assert "ЖЖ" in gguf.read(tmp_path / "out.gguf").get("tokenizer.ggml.tokens")


@pytest.mark.parametrize("byte", ["<0x0A>", "<0xFF>"])
def test_a_vocabulary_without_a_byte_is_refused_by_the_bytes_name(tmp_path: Path, byte: str) -> None:
    tiny_gguf.write_spm(tmp_path / "m.gguf", without=byte)
    with pytest.raises(ModelCorrupt, match=f"m.gguf has no token for the byte {byte[1:-1]}: take an intact"):
        trim(gguf.read(tmp_path / "m.gguf"), tmp_path / "out.gguf", {"korean"}, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_vocabulary_without_its_scores_is_refused(tmp_path: Path) -> None:
    tiny_gguf.write_spm(tmp_path / "m.gguf", num_scores=100)
    with pytest.raises(ModelCorrupt, match="lacks types or scores"):
        vocabulary(gguf.read(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("key", "value", "kind", "said"),
    [
        ("tokenizer.ggml.eos_token_id", 9999, ModelCorrupt, "names a token beyond its"),
        ("tokenizer.ggml.model", "bert", NotTrimmable, "of kind bert: byte-level BPE"),
        ("tokenizer.ggml.tokens", ["a"], ModelCorrupt, "rows for 1 tokens: take"),
    ],
)
def test_a_description_that_cannot_be_right_is_refused(
    file: Path, tmp_path: Path, key: str, value: object, kind: type[ModelError], said: str
) -> None:
    found = gguf.read(file)
    values = found.values | {key: replace(found.values[key], value=value)}
    with pytest.raises(kind, match=said):
        trim(replace(found, values=values), tmp_path / "out.gguf", {"korean"}, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["spm.gguf"]


def test_a_file_that_is_cut_short_is_refused_and_nothing_is_written(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"cut short.*fetch it again"):
        trimmed(file, tmp_path / "out.gguf", {"korean"}, SIZE, [])
    assert [path.name for path in tmp_path.iterdir()] == ["spm.gguf"]


def test_without_english_letters_stay_but_words_go() -> None:
    """Else each letter of a name or an address would cost a byte token, which the model has hardly seen."""
    kept = {small().tokens[number] for number in choose(small(), {"korean"}, SIZE).kept}
    assert {"h", "Z", "0", "~", "▁"} <= kept
    assert not {"hello", "▁hello"} & kept
