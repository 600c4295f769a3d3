"""A teacher's distributions are kept as they were, once, and for what they are of."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tiny_gguf
from dure.errors import SettingsError
from dure_workshop.dequantize import Floats
from dure_workshop.trim.gguf_file import GgufModel

pytest.importorskip("safetensors", reason="the extra `torch` is not installed")

from dure_workshop.training.dataset import Dataset, Sample
from dure_workshop.training.teacher import FILE, SAMPLES, teach

KEPT = 8


class Random:
    """Logits that depend on the token before; counts what it was asked."""

    def __init__(self, model: GgufModel) -> None:
        self.model = model
        size = len(model.vocabulary.tokens)
        self.table = 3 * np.random.default_rng(1).normal(size=(size, size)).astype(np.float32)
        self.num_asked = 0

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        self.num_asked += 1
        wanted = ids[-num_wanted:]
        for first in range(0, len(wanted), 3):
            yield self.table[wanted[first : first + 3]]


@pytest.fixture
def teacher(tmp_path: Path) -> Random:
    tiny_gguf.write(tmp_path / "model.gguf")
    return Random(GgufModel.read(tmp_path / "model.gguf"))


def dataset(num_samples: int = 5) -> Dataset:
    dice = np.random.default_rng(2)
    samples = []
    for number in range(num_samples):
        ids = dice.integers(0, 250, size=6 + number % 7).tolist()
        learnt = [False, False, True, number % 2 == 0, *(number % 3 > 0 for _ in ids[4:])]
        samples.append(Sample(ids, learnt))
    return Dataset(samples)


def probabilities(teacher: Random, sample: Sample) -> Floats:
    """Of the tokens before those that are learnt, by the plain definition."""
    before = [sample.ids[at - 1] for at, is_learnt in enumerate(sample.is_learnt) if is_learnt]
    found = np.exp(teacher.table[before].astype(np.float64))
    return np.asarray(found / found.sum(1, keepdims=True), np.float32)


def test_the_likeliest_are_kept_and_the_rest_together(teacher: Random, tmp_path: Path) -> None:
    given = dataset(SAMPLES + 5)
    found = teach(teacher, given, tmp_path / "said", KEPT)
    for number, sample in enumerate(given.samples):
        targets, wanted = found.of(number), probabilities(teacher, sample)
        assert targets.ids.shape == targets.logs.shape == (len(wanted), KEPT)
        for row, ids, logs, tail in zip(wanted, targets.ids, targets.logs, targets.tail, strict=True):
            assert set(ids) == set(np.argsort(-row)[:KEPT])
            assert np.exp(logs) == pytest.approx(row[ids], rel=0.01)
            assert np.exp(tail) == pytest.approx(1 - row[ids].sum(), rel=0.01)


def test_one_that_is_sure_leaves_no_rest(teacher: Random, tmp_path: Path) -> None:
    teacher.table[:, 9] = 500
    targets = teach(teacher, dataset(), tmp_path / "said", KEPT).of(0)
    assert np.isfinite(targets.logs).all()
    assert (np.exp(targets.tail) < 1e-9).all()


def test_it_is_asked_once(teacher: Random, tmp_path: Path) -> None:
    given = dataset(2 * SAMPLES + 1)
    teach(teacher, given, tmp_path / "said", KEPT)
    assert teacher.num_asked == len(given.samples)
    (tmp_path / "said" / "00001.safetensors").unlink()
    steps: list[tuple[int, int]] = []
    teach(teacher, given, tmp_path / "said", KEPT, lambda *step: steps.append(step))
    assert teacher.num_asked == len(given.samples) + SAMPLES
    assert steps == [(SAMPLES, 129), (2 * SAMPLES, 129), (129, 129)]


def test_what_was_said_of_something_else_is_not_taken(teacher: Random, tmp_path: Path) -> None:
    teach(teacher, dataset(), tmp_path / "said", KEPT)
    with pytest.raises(SettingsError, match=r"something else \(samples\): choose another folder"):
        teach(teacher, dataset(6), tmp_path / "said", KEPT)
    with pytest.raises(SettingsError, match=r"something else \(num_kept\)"):
        teach(teacher, dataset(), tmp_path / "said", KEPT + 1)
    tiny_gguf.write(tmp_path / "model.gguf")
    with pytest.raises(SettingsError, match=r"something else \(teacher_changed\)"):
        teach(teacher, dataset(), tmp_path / "said", KEPT)


def test_a_folder_that_cannot_be_used_is_refused(teacher: Random, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="choose another folder"):
        teach(teacher, dataset(), tmp_path / "file")
    (tmp_path / FILE).write_text("{")
    with pytest.raises(SettingsError, match="damaged: delete its folder"):
        teach(teacher, dataset(), tmp_path)


def test_the_folder_says_whose_it_is(teacher: Random, tmp_path: Path) -> None:
    teach(teacher, dataset(), tmp_path / "said", KEPT)
    told = json.loads((tmp_path / "said" / FILE).read_text("utf-8"))
    assert (told["teacher"], told["engine"], told["num_kept"]) == ("model.gguf", "Random", KEPT)
