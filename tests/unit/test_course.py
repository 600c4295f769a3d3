"""A student comes closer to its teacher, by losses that are what they are called, and goes on where it was stopped."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("peft", reason="the extra `workshop` is not installed")

from dure.errors import SettingsError  # noqa: E402
from dure_workshop.dequantize import Floats  # noqa: E402
from dure_workshop.training.course import CHECKPOINT, CURVE, Course, Material, Plan  # noqa: E402
from dure_workshop.training.dataset import Dataset, Sample  # noqa: E402
from dure_workshop.training.student import Method, Student  # noqa: E402
from dure_workshop.training.teacher import teach  # noqa: E402
from dure_workshop.trim.gguf_file import GgufModel  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

KEPT = 20


class Taught:
    """The logits of a model of transformers."""

    def __init__(self, reference: ReferenceModel, path: Path) -> None:
        self.model = GgufModel.read(reference.write(path))
        self._reference = reference

    def blocks(self, ids: list[int], num_wanted: int) -> Iterator[Floats]:
        yield self._reference.logits(ids)[-num_wanted:]


def dataset(seed: int, num_samples: int) -> Dataset:
    dice = np.random.default_rng(seed)
    samples = []
    for number in range(num_samples):
        ids = dice.integers(0, 250, size=8 + number % 5).tolist()
        samples.append(Sample(ids, [False, *(at % 3 != number % 3 for at in range(1, len(ids)))]))
    return Dataset(samples)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Material, Material]:
    """What is learnt and what is held out, by a teacher that is not the student."""
    folder = tmp_path_factory.mktemp("teacher")
    teacher = Taught(ReferenceModel.make("qwen2", num_hidden_layers=1), folder / "teacher.gguf")
    found = []
    for seed, number in ((1, 24), (2, 6)):
        given = dataset(seed, number)
        found.append(Material(given, teach(teacher, given, folder / str(seed), KEPT)))
    return found[0], found[1]


def student(method: Method = "lora", **changes: Any) -> Student:
    return Student(ReferenceModel.make("qwen2").model, method, rank=4, **changes)


def course(folder: Path, material: tuple[Material, Material], learner: Student | None = None, **changes: Any) -> Course:
    plan = replace(Plan(num_steps=10, batch=4, rate=1e-3, every=5), **changes)
    return Course(learner or student(), plan, *material, folder)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_losses_are_what_they_are_called(method: Method, material: tuple[Material, Material]) -> None:
    held_out = material[1]
    sample = held_out.dataset.samples[0]
    assert held_out.teacher is not None
    targets = held_out.teacher.of(0)
    logits = torch.tensor(ReferenceModel.make("qwen2").logits(sample.ids)).double()
    places = [at for at, learnt in enumerate(sample.is_learnt) if learnt]
    logs = logits[[at - 1 for at in places]].log_softmax(1)
    ce = -sum(float(row[sample.ids[at]]) for row, at in zip(logs, places, strict=True))
    kl = 0.0
    for row, ids, told, tail in zip(logs, targets.ids, targets.logs, targets.tail, strict=True):
        own = row[torch.from_numpy(ids)]
        rest = float(1 - own.exp().sum())
        kl += sum(np.exp(p) * (p - float(q)) for p, q in zip(told.astype(float), own, strict=True))
        kl += np.exp(float(tail)) * (float(tail) - np.log(rest))
    with torch.no_grad():
        found = student(method).losses([sample], [targets])
    assert found.num_tokens == len(places)
    assert float(found.ce) == pytest.approx(ce, rel=1e-4)
    assert float(found.kl) == pytest.approx(kl, rel=1e-3)


def test_samples_together_are_as_each_alone(material: tuple[Material, Material]) -> None:
    learner, samples = student(), material[1].dataset.samples
    with torch.no_grad():
        together = learner.losses(samples, None)
        alone = [learner.losses([sample], None) for sample in samples]
    assert float(together.ce) == pytest.approx(sum(float(each.ce) for each in alone), rel=1e-4)
    assert together.num_tokens == sum(each.num_tokens for each in alone)
    assert float(together.kl) == 0


def test_an_update_begins_as_nothing_and_touches_matrices_alone() -> None:
    learner = student()
    updates = dict(learner.updates())
    assert "model.layers.0.self_attn.q_proj" in updates
    assert not any(name.startswith(("lm_head", "model.embed")) for name in updates)
    assert all(not each.b.any() and each.a.any() for each in updates.values())
    assert all("lora_" in name for name in learner.learning)


def test_computing_activations_again_gives_the_same(material: tuple[Material, Material]) -> None:
    gradients = []
    for is_frugal in (False, True):
        learner = student(is_frugal=is_frugal)
        learner.losses(material[1].dataset.samples, None).ce.backward()
        gradients.append([each.grad for each in learner.learning.values()])
    assert all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_student_comes_closer_to_its_teacher(
    method: Method, material: tuple[Material, Material], tmp_path: Path
) -> None:
    learner = student(method)
    # The same samples held out: what is learnt must show at least there.
    curve = course(
        tmp_path, (material[0], material[0]), learner, num_steps=40, every=20, rate=2e-3, ce_share=0.0, batch=8
    ).run()
    assert [point["step"] for point in curve] == [0, 20, 40]
    assert curve[0]["kl"] > 1.3 * curve[-1]["kl"] > 0
    assert json.loads((tmp_path / CURVE).read_text("utf-8"))["curve"] == curve
    # 40 steps of 8 are 13 times all 24, and 8 more.
    all_of_them = sum(sum(sample.is_learnt) for sample in material[0].dataset.samples)
    assert 13 * all_of_them < curve[-1]["tokens"] < 14 * all_of_them


def test_a_stopped_course_goes_on_as_if_it_had_not_been(material: tuple[Material, Material], tmp_path: Path) -> None:
    whole, parts = student(), student()
    course(tmp_path / "whole", material, whole).run()

    def stop(done: int, total: int, loss: float) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        course(tmp_path / "parts", material, parts).run(stop)
    again = student(seed=99)
    begun = course(tmp_path / "parts", material, again)
    assert [point["step"] for point in begun.curve] == [0, 5]
    steps: list[int] = []
    begun.run(lambda done, total, loss: steps.append(done))
    assert steps == [6, 7, 8, 9, 10]
    assert json.loads((tmp_path / "parts" / CURVE).read_text()) == json.loads((tmp_path / "whole" / CURVE).read_text())
    for name, each in whole.learning.items():
        assert torch.equal(each, again.learning[name]), name


def test_a_finished_course_does_nothing_more(material: tuple[Material, Material], tmp_path: Path) -> None:
    curve = course(tmp_path, material).run()
    steps: list[int] = []
    assert course(tmp_path, material).run(lambda done, total, loss: steps.append(done)) == curve
    assert steps == []


def test_another_course_is_not_gone_on_with(material: tuple[Material, Material], tmp_path: Path) -> None:
    course(tmp_path, material).run()
    others: list[tuple[Any, dict[str, Any]]] = [
        (material, {"rate": 1e-4}),
        ((material[1], material[0]), {}),
        ((Material(material[0].dataset), material[1]), {}),
    ]
    for given, changes in others:
        with pytest.raises(SettingsError, match=r"of another course .* choose another folder"):
            course(tmp_path, given, **changes)
    with pytest.raises(SettingsError, match="of another course"):
        course(tmp_path, material, student("full"))


def test_a_damaged_checkpoint_is_refused(material: tuple[Material, Material], tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(SettingsError, match="damaged, or of another release: delete it"):
        course(tmp_path, material)


def test_a_loss_that_is_no_number_ends_it(material: tuple[Material, Material], tmp_path: Path) -> None:
    learner = student()

    def spoil(done: int, total: int, loss: float) -> None:
        if done == 7:
            with torch.no_grad():
                next(iter(learner.learning.values())).fill_(torch.nan)

    with pytest.raises(SettingsError, match=r"no number at step 8: choose a smaller rate than 0\.001"):
        course(tmp_path, material, learner).run(spoil)
    assert [point["step"] for point in course(tmp_path, material).curve] == [0, 5]


def test_each_sample_comes_once_before_any_comes_again(material: tuple[Material, Material], tmp_path: Path) -> None:
    given = course(tmp_path, material)
    first, second = ([number for step in steps for number in given._batch(step)] for steps in (range(6), range(6, 12)))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
