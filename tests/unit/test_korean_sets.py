"""The project's own sentences, on which the benchmark stands: nothing of them may become worse."""

import unicodedata

from benchmarks.korean import own_clean, own_pairs, own_registers

from dure.edits import Pass
from dure_worker.korean.editor import edit


def test_clean_sentences_stay() -> None:
    clean = own_clean()
    assert len(clean) >= 300
    assert [edit(sentence) for sentence in clean] == clean


def test_mistakes_are_mended_or_left_and_never_made_worse() -> None:
    """But for blanks: where a compound noun ends is not always told."""
    pairs = own_pairs()
    assert sum(map(len, pairs.values())) >= 300
    worse = [
        (wrong, found)
        for kind, rows in pairs.items()
        for wrong, right in rows
        if kind != Pass.SPACING and (found := edit(wrong)) not in (unicodedata.normalize("NFC", wrong), right)
    ]
    assert not worse


def test_sentences_reach_the_register() -> None:
    rows = own_registers()
    assert len(rows) >= 100
    reached = [edit(text, register=register) == wanted for text, wanted, register in rows]
    assert sum(reached) / len(reached) >= 0.97
