"""Which token comes next, for all rows of a step at once.

The order is llama.cpp's: bias and guard, penalty, DRY, top-k, top-p, min-p, temperature. A row's pick depends on its
own logits, text, wishes and dice, and on nothing that is computed beside it: rows share a call where they ask for the
same top-k, and what follows works on each number by itself or along its own row, in order.
"""

import random
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from dure.job import Sampling
from dure_worker.engines.ark import dry
from dure_worker.engines.ark.vocabulary import Vocabulary
from dure_worker.engines.base import BANNED, chosen
from dure_worker.engines.script_guard import unfinished

_PENALTY_WINDOW = 64  # tokens
_MOST_DRY = 1e6  # of a logit: as good as never, and finite


class Sampler:
    """One request's wishes, and dice of its own."""

    def __init__(self, sampling: Sampling, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.temperature, self.top_p = chosen(sampling, "temperature"), chosen(sampling, "top_p")
        self.min_p = chosen(sampling, "min_p")
        self.top_k = 1 if self.temperature <= 0 else int(chosen(sampling, "top_k")) or len(vocabulary.pieces)
        self.penalty = chosen(sampling, "repetition_penalty")
        self._dry = tuple(chosen(sampling, f"dry_{name}") for name in ("multiplier", "base", "allowed_length"))
        bias = sampling.logit_bias or {}
        self._biased = torch.tensor(list(bias), dtype=torch.int64)
        self._bias = torch.tensor([-torch.inf if amount <= BANNED else amount for amount in bias.values()])
        self._guard = vocabulary.guard(sampling.scripts) if sampling.scripts else None
        self._dice = random.Random(secrets.randbits(64) if sampling.seed is None else sampling.seed)
        self._thrown: deque[float] = deque()

    def rows(self, ids: list[int], drafted: Sequence[int]) -> list["Row"]:
        """For the token after `ids`, and after each of those drafted if it comes true. ids: prompt and answer."""
        while len(self._thrown) <= len(drafted):
            self._thrown.append(self._dice.random())
        throws = islice(self._thrown, len(drafted) + 1)
        return [Row(self, [*ids, *drafted[:count]], thrown) for count, thrown in enumerate(throws)]

    def use(self, count: int) -> None:
        """So many picks were taken; the rest of the throws is for those to come."""
        for _ in range(count):
            self._thrown.popleft()

    def steer(self, logits: torch.Tensor, before: Sequence[int]) -> None:
        """Bias and guard, in place. Logits (vocab)."""
        if len(self._biased):
            logits[self._biased] += self._bias
        if self._guard is not None:
            # Four bytes make a character, and a token is one or more.
            begun = unfinished(b"".join(self._vocabulary.pieces[number] for number in before[-3:]))
            for part in filter(None, self._guard.forbidden(begun)):
                logits[torch.frombuffer(part, dtype=torch.int64)] = -torch.inf

    def repeated(self, before: Sequence[int]) -> dict[int, float]:
        """What DRY takes from each token's logit."""
        multiplier, base, allowed = self._dry
        if not multiplier:
            return {}
        found = dry.runs(before, self._vocabulary.breakers, int(allowed))
        return {number: min(multiplier * base ** (length - allowed), _MOST_DRY) for number, length in found.items()}


@dataclass(frozen=True)
class Row:
    """What one row of logits is for. before: prompt, answer, and drafts up to here; thrown: the dice, from 0 to 1."""

    sampler: Sampler
    before: Sequence[int]
    thrown: float


def pick(rows: Sequence[Row], logits: torch.Tensor) -> list[int | None]:
    """One token for each row of logits (rows, vocab); None where bias and guard leave none to choose."""
    logits = _adjusted(rows, logits)
    found: list[int | None] = [None] * len(rows)
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(min(row.sampler.top_k, logits.shape[1]), []).append(place)
    for top_k, places in groups.items():
        group = logits if len(places) == len(rows) else logits[places]
        picks = _greedy(group) if top_k == 1 else _drawn([rows[place] for place in places], group, top_k)
        for place, number in zip(places, picks, strict=True):
            found[place] = number
    return found


def _greedy(logits: torch.Tensor) -> list[int | None]:
    best, ids = logits.max(1)
    return [_if_any(number, score) for number, score in zip(ids.tolist(), best.tolist(), strict=True)]


def _drawn(rows: Sequence[Row], logits: torch.Tensor, top_k: int) -> list[int | None]:
    best, ids = logits.topk(top_k)
    scores: NDArray[np.float64] = best.double().numpy()
    highest = scores[:, :1]
    scores = scores - np.where(np.isinf(highest), 0, highest)
    wishes = np.array([(row.sampler.temperature, row.sampler.top_p, row.sampler.min_p, row.thrown) for row in rows])
    temperature, top_p, min_p, thrown = (column[:, None] for column in wishes.T)
    chances = np.exp(scores)
    sums = chances.cumsum(1)
    # The first is always kept; another as long as those before it have less than top_p.
    is_kept = (sums - chances < top_p * sums[:, -1:]) & (chances >= min_p)
    is_kept[:, 0] = True
    with np.errstate(over="ignore"):  # so cold that only the best is left
        sums = np.where(is_kept, np.exp(scores / temperature), 0).cumsum(1)
    places = np.minimum((sums <= thrown * sums[:, -1:]).sum(1), top_k - 1)
    numbers = ids.numpy()[np.arange(len(rows)), places].tolist()
    return [_if_any(number, score) for number, score in zip(numbers, highest[:, 0].tolist(), strict=True)]


def _if_any(number: int, highest: float) -> int | None:
    return None if highest == -np.inf else number


def _adjusted(rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.float32, copy=True)
    for row, own in zip(rows, logits, strict=True):
        row.sampler.steer(own, row.before)
    _penalize(rows, logits)
    _hold_back(rows, logits)
    return logits


def _penalize(rows: Sequence[Row], logits: torch.Tensor) -> None:
    found = [
        (place, number, row.sampler.penalty)
        for place, row in enumerate(rows)
        if row.sampler.penalty != 1
        for number in set(row.before[-_PENALTY_WINDOW:])
    ]
    if found:
        where, penalties = _entries(found)
        before = logits[where]
        logits[where] = torch.where(before > 0, before / penalties, before * penalties)


def _hold_back(rows: Sequence[Row], logits: torch.Tensor) -> None:
    """By DRY."""
    found = [
        (place, number, amount)
        for place, row in enumerate(rows)
        for number, amount in row.sampler.repeated(row.before).items()
    ]
    if found:
        where, amounts = _entries(found)
        logits[where] -= amounts


def _entries(found: list[tuple[int, int, float]]) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """found: row, token, amount; each token of a row once."""
    places, ids, amounts = zip(*found, strict=True)
    return (torch.tensor(places), torch.tensor(ids)), torch.tensor(amounts)
