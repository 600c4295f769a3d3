"""Which tokens stay, on a small vocabulary; the real one's proofs are in tests/integration/test_trim.py."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_gguf
from dure.byte_tokens import as_bytes, as_token
from dure.errors import ModelCorrupt, SettingsError
from dure.gguf import BYTE, CONTROL, NORMAL, UNUSED
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.choice import Script, choose, script_of
from dure_workshop.trim.text import Segmenter
from dure_workshop.trim.vocabulary import check_bytes


def small() -> Bpe:
    return Bpe(*tiny_gguf.vocabulary())


@cache
def trimmed_small() -> tuple[Bpe, set[int], Bpe]:
    bpe = small()
    kept = choose(bpe, {"korean", "english"}, len(bpe.tokens)).kept
    return bpe, set(kept), Bpe([bpe.tokens[number] for number in kept], bpe.merges_among(set(kept)))


def texts_of(bpe: Bpe, kept: list[int]) -> set[str]:
    return {raw.decode("utf-8", "replace") for number in kept if (raw := as_bytes(bpe.tokens[number])) is not None}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("두레", Script.KOREAN), (" 안녕", Script.KOREAN), ("ㅋㅋ", Script.KOREAN), ("hello", Script.ENGLISH),
        (" World", Script.ENGLISH), ("==", Script.MARK), ("…”", Script.MARK), ("①", Script.MARK),
        ("漢字", Script.HAN_KANA), ("の", Script.HAN_KANA), ("ｶﾅ", Script.HAN_KANA), ("々々", Script.HAN_KANA),
        ("привет", Script.OTHER), ("สวัส", Script.OTHER), ("é", Script.OTHER), ("😀", Script.OTHER),
    ],
)  # fmt: skip
def test_scripts_are_told_apart(text: str, script: Script) -> None:
    assert script_of(text.encode(), NORMAL) is script


def test_pieces_of_hangul_bytes_are_korean_and_pieces_of_han_are_not() -> None:
    assert script_of("두".encode()[:2], NORMAL) is Script.KOREAN
    assert script_of("漢".encode()[:2], NORMAL) is Script.OTHER


def test_a_role_a_byte_and_an_unused_row_are_told_by_their_kind_not_by_their_text() -> None:
    assert script_of(None, CONTROL) is Script.SPECIAL
    assert script_of(b"a", BYTE) is Script.BYTE
    assert script_of(None, UNUSED) is Script.UNUSED


def test_korean_specials_and_bytes_stay_and_han_kana_and_unused_go() -> None:
    bpe = small()
    choice = choose(bpe, {"korean", "english"}, len(bpe.tokens))
    kept = texts_of(bpe, choice.kept)
    assert {"두레", "두", "레", "hello", " hello", "123", "。"} <= kept
    assert not {"漢", "漢字", "か", "Ж"} & kept
    names = {bpe.tokens[number] for number in choice.kept}
    assert {"<|end|>", "<|begin|>"} <= names
    assert not any(name.startswith("[PAD") for name in names)
    assert choice.after[Script.BYTE] == 256
    assert choice.kept == sorted(choice.kept)


def test_the_kept_set_is_closed_under_merges() -> None:
    bpe = small()
    choice = choose(bpe, {"korean"}, len(bpe.tokens))
    kept = set(choice.kept)
    assert bpe.closed(kept) == kept
    assert set(bpe.merges_among(kept)) <= set(bpe.merges)


def test_what_the_users_text_needs_goes_before_rank_but_han_stays_out() -> None:
    bpe = small()
    russian, han = bpe.ids[as_token("Ж".encode())], bpe.ids[as_token("漢字".encode())]
    choice = choose(bpe, {"korean"}, len(bpe.tokens), Counter({russian: 5, han: 9}))
    assert russian in choice.kept
    assert han not in choice.kept


def test_a_size_that_cannot_hold_the_language_is_refused_with_one_that_can() -> None:
    bpe = small()
    with pytest.raises(SettingsError, match="choose --size 320"):
        choose(bpe, {"korean"}, 64)


def test_a_size_beyond_the_vocabulary_keeps_all_that_is_wanted() -> None:
    bpe = small()
    assert len(choose(bpe, {"english", "korean"}, 10**6).kept) <= len(bpe.tokens)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(max_size=40))
def test_any_unicode_text_round_trips_through_the_trimmed_vocabulary(text: str) -> None:
    _, _, trimmed = trimmed_small()
    ids = Segmenter(trimmed, "qwen2").encode(text)
    assert b"".join(as_bytes(trimmed.tokens[number]) or b"" for number in ids).decode() == text


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text("hello두레 漢a1", max_size=30))
def test_text_whose_tokens_are_all_kept_is_segmented_as_before(text: str) -> None:
    bpe, kept, trimmed = trimmed_small()
    before = Segmenter(bpe, "qwen2").encode(text)
    after = Segmenter(trimmed, "qwen2").encode(text)
    if set(before) <= kept:
        assert [trimmed.tokens[number] for number in after] == [bpe.tokens[number] for number in before]


def test_a_vocabulary_without_a_byte_or_with_a_merge_of_nothing_is_refused_by_name() -> None:
    tokens, merges, kinds = tiny_gguf.vocabulary()
    without = Bpe([token for token in tokens if token != as_token(b"\n")], [], kinds[1:])
    with pytest.raises(ModelCorrupt, match="m has no token for the byte 0x0A: take an intact model"):
        check_bytes(without, "m")
    with pytest.raises(ModelCorrupt, match="the merge 'h 가' is of tokens that it lacks"):
        Bpe(tokens, [*merges, "h 가"], kinds).check("m")
