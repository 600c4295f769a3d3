"""Words that are added to a vocabulary: which, and that all other text stays as it was."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_gguf
from dure import gguf
from dure.byte_tokens import as_bytes
from dure.errors import SettingsError
from dure.split_patterns import PATTERNS
from dure_workshop.dequantize import rows
from dure_workshop.perplexity import Perplexity
from dure_workshop.trim import added
from dure_workshop.trim.added import TooCostly, add_words, new_pairs
from dure_workshop.trim.bpe import Bpe
from dure_workshop.trim.gguf_file import GgufModel

TEXT = "두레 두레 두레는 마을, 두레는 마을의 모임. hello hello 漢字漢字 123"
PATTERN = PATTERNS["qwen2"]


@pytest.fixture
def model(tmp_path: Path) -> GgufModel:
    path = tmp_path / "model.gguf"
    tiny_gguf.write(path)
    return GgufModel.read(path)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Perplexity as the test wants it, in bits a byte: of the file before, and of the one after."""

    def judge(before: float, after: float) -> None:
        said = {"model.gguf": before, "new.gguf": after}
        monkeypatch.setattr(
            added, "perplexity", lambda path, _: Perplexity(100, 100, said[path.name] * 100 * np.log(2))
        )

    return judge


def bpe_of(model: GgufModel) -> Bpe:
    assert isinstance(model.vocabulary, Bpe)
    return model.vocabulary


def test_the_most_frequent_neighbours_come_first_and_are_whole_syllables_of_hangul(model: GgufModel) -> None:
    pairs = new_pairs(bpe_of(model), PATTERN, TEXT, 2)
    words = [(as_bytes(left + right) or b"").decode() for left, right in pairs]
    assert words == [" 두", " 두레"]
    assert all("가" <= letter <= "힣" for word in words for letter in word.strip())


def test_too_little_text_is_refused(model: GgufModel) -> None:
    with pytest.raises(SettingsError, match="give more text"):
        new_pairs(bpe_of(model), PATTERN, "두레", 50)


def test_the_new_file_has_the_words_their_merges_last_and_means_of_rows(
    model: GgufModel, tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(1.0, 1.001)
    target = tmp_path / "new.gguf"
    report = add_words(model, target, TEXT, TEXT, 2)
    assert report.words == [" 두", " 두레"]
    old, new = bpe_of(model), bpe_of(GgufModel.read(target))
    assert new.tokens[: len(old.tokens)] == old.tokens
    assert new.merges[: len(old.merges)] == old.merges
    assert len(new.tokens) == len(old.tokens) + 2
    source = gguf.read(target)
    tensor = source.tensors[gguf.EMBEDDING]
    left, right = new.merges[len(old.merges)].split(" ")
    parts = rows(source, tensor, [new.ids[left], new.ids[right]])
    made = rows(source, tensor, [len(old.tokens)])[0]
    assert np.allclose(made, parts.mean(axis=0), rtol=0.05, atol=np.abs(parts).max() / 100)
    for number in range(0, len(old.tokens), 17):
        assert np.array_equal(
            rows(source, tensor, [number]), rows(model.source, model.source.tensors[gguf.EMBEDDING], [number])
        )


@given(st.text() | st.lists(st.sampled_from(["두레", " 두레", "는", "hello", "漢字"])).map("".join))
def test_text_without_the_new_words_is_segmented_as_before_and_any_text_round_trips(text: str) -> None:
    tokens, merges, kinds = tiny_gguf.vocabulary()
    old = Bpe(tokens, merges, kinds)
    pairs = new_pairs(old, PATTERN, TEXT, 2)
    new = Bpe(
        [*tokens, *(left + right for left, right in pairs)],
        [*merges, *(f"{left} {right}" for left, right in pairs)],
        [*kinds, 1, 1],
    )
    before, after = old.encode(text.encode("utf-8", "surrogatepass")), new.encode(text.encode("utf-8", "surrogatepass"))
    assert b"".join(as_bytes(token) or b"" for token in after) == text.encode("utf-8", "surrogatepass")
    if not set(pairwise(before)) & set(pairs):
        assert after == before


def test_words_that_cost_too_much_are_refused_and_nothing_stays(
    model: GgufModel, tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(1.0, 1.2)
    target = tmp_path / "new.gguf"
    with pytest.raises(TooCostly, match=r"20\.0% less likely, 0\.5% are allowed"):
        add_words(model, target, TEXT, TEXT, 2)
    assert not target.exists()
