"""The steps in which a student learns: batches, rates, checkpoints and the curve of what it has learnt.

What a step does follows from its number and the seed alone, so a course that was stopped goes on from its checkpoint
as if it had not been: bit by bit on the same machine with as many threads.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dure.errors import SettingsError
from dure.one_step import one_step
from dure_workshop.results_folder import prepared
from dure_workshop.training.dataset import Dataset
from dure_workshop.training.student import Student
from dure_workshop.training.teacher import Teacher

CHECKPOINT, CURVE = "checkpoint.pt", "curve.json"
_SCHEMA = 1
_WARMING = 0.05  # of all steps
_LEAST_RATE = 0.1  # of the rate, at the end of the cosine
_MOST_GRADIENT = 1.0

Point = dict[str, float]
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Plan:
    """batch: samples a step. ce_share: of the loss, the rest is the teacher's; 1 without one. every: steps between two
    looks at the held-out samples, and checkpoints.
    """

    num_steps: int
    batch: int = 8
    rate: float = 2e-4
    ce_share: float = 0.2
    every: int = 25
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """Samples with what the teacher says of them."""

    dataset: Dataset
    teacher: Teacher | None = None


class Course:
    """folder: where checkpoint and curve lie. Raises SettingsError for those of another course."""

    def __init__(self, student: Student, plan: Plan, material: Material, held_out: Material, folder: Path) -> None:
        self._student, self._plan, self._folder = student, plan, folder
        self._material, self._held_out = material, held_out
        self._optimizer = torch.optim.AdamW(student.learning.values(), lr=plan.rate, weight_decay=0.0)
        self.curve: list[Point] = []
        self._num_done = self._num_tokens = 0
        self._go_on()

    def run(self, on_step: OnStep = lambda done, total, loss: None) -> list[Point]:
        """Returns the curve: step, tokens learnt from, kl and ce of the held-out samples. on_step(done, of all, loss).

        Raises SettingsError where the loss is no number; the last checkpoint stays.
        """
        if not self.curve:
            self._look()
        while self._num_done < self._plan.num_steps:
            loss = self._step()
            self._num_done += 1
            on_step(self._num_done, self._plan.num_steps, loss)
            if self._num_done % self._plan.every == 0 or self._num_done == self._plan.num_steps:
                self._look()
                self._save()
        return self.curve

    def _step(self) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        losses = self._losses(self._material, self._batch(self._num_done))
        share = self._plan.ce_share if self._material.teacher is not None else 1.0
        loss = ((1 - share) * losses.kl + share * losses.ce) / losses.num_tokens
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._student.learning.values(), _MOST_GRADIENT)
        value = float(loss.detach())
        if not math.isfinite(value + float(norm)):
            raise SettingsError(
                f"the loss is no number at step {self._num_done + 1}: choose a smaller rate than {self._plan.rate:g}; "
                f"the checkpoint in {self._folder} is from before"
            )
        self._optimizer.step()
        self._num_tokens += losses.num_tokens
        return value

    def _rate(self) -> float:
        """Rising at first, then along a cosine."""
        total, done = self._plan.num_steps, self._num_done
        warming = max(1, int(total * _WARMING))
        if done < warming:
            return self._plan.rate * (done + 1) / warming
        share = (done - warming) / max(1, total - warming)
        return self._plan.rate * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * share)) / 2)

    def _batch(self, step: int) -> list[int]:
        """Numbers of samples: each once before any comes again."""
        total = len(self._material.dataset.samples)
        wanted = range(step * self._plan.batch, (step + 1) * self._plan.batch)
        return [int(self._order(at // total)[at % total]) for at in wanted]

    def _order(self, epoch: int) -> Any:
        return np.random.default_rng([self._plan.seed, epoch]).permutation(len(self._material.dataset.samples))

    def _losses(self, material: Material, numbers: list[int]) -> Any:
        samples = [material.dataset.samples[number] for number in numbers]
        targets = None if material.teacher is None else [material.teacher.of(number) for number in numbers]
        return self._student.losses(samples, targets)

    def _look(self) -> None:
        kl = ce = 0.0
        num_tokens, total = 0, len(self._held_out.dataset.samples)
        with torch.no_grad():
            for start in range(0, total, self._plan.batch):
                found = self._losses(self._held_out, list(range(start, min(start + self._plan.batch, total))))
                kl, ce, num_tokens = kl + float(found.kl), ce + float(found.ce), num_tokens + found.num_tokens
        point = {"step": self._num_done, "tokens": self._num_tokens, "kl": kl / num_tokens, "ce": ce / num_tokens}
        self.curve.append(point)

    def _save(self) -> None:
        state = {
            "course": self._identity(), "step": self._num_done, "tokens": self._num_tokens, "curve": self.curve,
            "weights": {name: each.detach() for name, each in self._student.learning.items()},
            "optimizer": self._optimizer.state_dict(),
        }  # fmt: skip
        with one_step(self._folder / CHECKPOINT) as unfinished:
            torch.save(state, unfinished)
        with one_step(self._folder / CURVE) as unfinished:
            unfinished.write_text(json.dumps({**asdict(self._plan), "curve": self.curve}, indent=1), "utf-8")

    def _go_on(self) -> None:
        path = prepared(self._folder) / CHECKPOINT
        try:
            state = torch.load(path, weights_only=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError(f"{path} cannot be read ({error.strerror}): choose another folder") from None
        except Exception:  # noqa: BLE001 - unpickling fails in many ways
            raise SettingsError(f"{path} is damaged, or of another release: delete it to begin anew") from None
        if state.get("course") != self._identity():
            raise SettingsError(
                f"{path} is of another course (model, data or plan): choose another folder, or delete it"
            )
        with torch.no_grad():
            for name, each in self._student.learning.items():
                each.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._num_done, self._num_tokens, self.curve = state["step"], state["tokens"], state["curve"]

    def _identity(self) -> str:
        """Of model, data and plan."""
        found = hashlib.sha256(repr((_SCHEMA, self._plan, self._student.method)).encode())
        found.update(repr([(name, tuple(each.shape)) for name, each in self._student.learning.items()]).encode())
        for material in (self._material, self._held_out):
            found.update(repr([(sample.ids, sample.is_learnt) for sample in material.dataset.samples]).encode())
            found.update(repr(material.teacher is None).encode())
        return found.hexdigest()[:16]
