"""Which token comes next. The order of the steps is llama.cpp's: penalty, top-k, top-p, min-p, temperature."""

import random
import secrets
from collections.abc import Sequence

import torch

from dure.job import Sampling
from dure_worker.engines.base import chosen

_PENALTY_WINDOW = 64  # tokens


class Sampler:
    """Of one request, with dice of its own: what else is computed beside it changes nothing."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature, self._top_p = chosen(sampling, "temperature"), chosen(sampling, "top_p")
        self._top_k, self._min_p = int(chosen(sampling, "top_k")), chosen(sampling, "min_p")
        self._penalty = chosen(sampling, "repetition_penalty")
        self._dice = random.Random(secrets.randbits(64) if sampling.seed is None else sampling.seed)

    def pick(self, logits: torch.Tensor, before: Sequence[int]) -> int:
        """Logits (vocab); before: prompt and answer so far."""
        if self._penalty != 1:
            logits = self._penalized(logits, before[-_PENALTY_WINDOW:])
        if self._temperature <= 0 or self._top_k == 1:
            return int(logits.argmax())
        count = min(self._top_k or len(logits), len(logits))
        best, ids = logits.topk(count)
        chances = best.softmax(0)
        # The first is always kept; another as long as those before it have less than top_p.
        is_kept = chances.cumsum(0) - chances < self._top_p
        is_kept &= chances >= self._min_p * chances[0]
        is_kept[0] = True
        best, ids = best[is_kept], ids[is_kept]
        sums = (best / self._temperature).softmax(0).cumsum(0)
        place = int(torch.searchsorted(sums, torch.tensor([self._dice.random()], dtype=sums.dtype)))
        return int(ids[min(place, len(ids) - 1)])

    def _penalized(self, logits: torch.Tensor, recent: Sequence[int]) -> torch.Tensor:
        if not recent:
            return logits
        ids = torch.tensor(sorted(set(recent)))
        found = logits[ids]
        logits = logits.clone()
        logits[ids] = torch.where(found > 0, found / self._penalty, found * self._penalty)
        return logits
