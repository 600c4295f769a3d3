"""The guard over a small vocabulary of bytes and words: nothing foreign gets through, nothing else is held up."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_gguf
from dure import gguf
from dure.writing import Script
from dure_worker.engines.pieces import pieces
from dure_worker.engines.script_guard import ScriptGuard, unfinished

WORDS = ["가", "두레", "漢字", "かな", "カー", "ab", "Жук", " 1.", "🙂", "、", "é", "ㄱ"]
# Halves of characters too, as byte-level vocabularies have them.
CUTS = [(0, 1), (0, 2), (1, 3), (2, 4)]
HALVES = [word.encode()[start:end] for word in WORDS for start, end in CUTS if word.encode()[start:end]]
PIECES = [*(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS), *HALVES, b""]
END = len(PIECES) - 1
KOREAN = ScriptGuard(PIECES, ["hangul", "latin"])
NAMES = {"HANGUL", "LATIN", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "GREEK", "THAI", "YI"}  # of letters, in Unicode


def banned(guard: ScriptGuard, begun: bytes = b"") -> set[int]:
    return {number for part in guard.forbidden(begun) for number in part}


@pytest.mark.parametrize("scripts", [["hangul"], ["hangul", "latin"], ["latin", "cyrillic"]])
@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_allowed_tokens_writes_a_letter_of_another_script(scripts: list[str], seed: int) -> None:
    guard, dice, written = ScriptGuard(PIECES, scripts), random.Random(seed), b""
    for _ in range(3000):
        forbidden = banned(guard, unfinished(written[-3:]))
        written += PIECES[dice.choice([number for number in range(END) if number not in forbidden])]
    letters = [mark for mark in written.decode("utf-8", "ignore") if mark.isalpha()]
    found = {unicodedata.name(letter, "").split()[0] for letter in letters} & NAMES
    assert found == {script.upper() for script in scripts}


korean_text = st.text(
    st.characters(codec="utf-8", categories=["Nd", "Po", "Zs"])
    | st.sampled_from("가나힣ㄱㅋᄀabzéüＡ0９.,!?、。「」…“”₩%+=→①㈜㎏🙂👍🏽❤\ufe0f\u200d\n\tµ"),
    max_size=20,
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(korean_text, st.randoms(use_true_random=False))
def test_text_of_allowed_scripts_gets_through_in_whatever_pieces_it_comes(text: str, dice: random.Random) -> None:
    rest, written = text.encode(), b""
    while rest:
        fitting = [n for n, piece in enumerate(PIECES) if piece and rest.startswith(piece)]
        number = dice.choice(fitting)
        assert number not in banned(KOREAN, unfinished(written[-3:])), (text, PIECES[number])
        written += PIECES[number]
        rest = rest[len(PIECES[number]) :]


@pytest.mark.parametrize("script", Script)
def test_every_script_is_known_to_the_guard(script: Script) -> None:
    assert END not in banned(ScriptGuard(PIECES, [script]))


def test_the_end_of_a_turn_is_never_forbidden() -> None:
    """Some vocabularies spell it as text."""
    spelt = ["漢".encode(), "가".encode(), b""]
    assert banned(ScriptGuard(spelt, ["hangul"], spared={0})) == set()
    assert banned(ScriptGuard(spelt, ["hangul"])) == {0}


GA, SMILE = "가".encode(), "🙂".encode()


@pytest.mark.parametrize(
    ("written", "begun"),
    [
        (b"", b""),
        (b"a", b""),
        (GA, b""),
        (GA[:1], GA[:1]),
        (b"a" + GA[:2], GA[:2]),
        (SMILE[:3], SMILE[:3]),
        (SMILE, b""),
        (b"\x80\x80\x80", b""),
        (b"\xff", b""),
        (b"\xc0", b""),
        ("é".encode() + b"\x80", b""),
    ],
    ids=str,
)
def test_what_a_text_has_begun_and_not_finished_is_found(written: bytes, begun: bytes) -> None:
    assert unfinished(written) == begun


@pytest.mark.parametrize("write", [tiny_gguf.write, tiny_gguf.write_spm])
def test_pieces_are_what_tokens_write(write, tmp_path) -> None:
    write(tmp_path / "tiny.gguf")
    found = set(pieces(gguf.read(tmp_path / "tiny.gguf")))
    assert {"두레".encode(), b" hello", b"\xe4", b""} <= found
    assert not any(piece.startswith((b"<0x", b"<|", b"<start")) for piece in found)
