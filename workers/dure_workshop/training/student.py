"""A model that learns: all of its weights, low-rank updates of its matrices (LoRA), or the scales of quantized ones,
against targets of its teacher.

Losses in nats a token. `kl` is that of the teacher's kept tokens and the bucket of all others (Hinton et al. 2015, with
the tail as one outcome); `ce` that of the token which really follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from dure_workshop.dequantize import Floats
from dure_workshop.training.dataset import Sample
from dure_workshop.training.teacher import Targets

Method = Literal["lora", "full", "scales"]

# Logits of so many tokens are there at a time, in forward and backward: 65 MB with 32,000 tokens in float32.
ROWS = 512
_LEAST = 1e-9  # of the bucket's probability
# The longest sample of a group to its shortest.
_MOST_FILLED = 1.5


@dataclass(frozen=True)
class Losses:
    """Sums over num_tokens learnt tokens; kl is 0 without a teacher."""

    kl: torch.Tensor
    ce: torch.Tensor
    num_tokens: int


@dataclass(frozen=True)
class Update:
    """Of a matrix of n rows and k columns: scale · b · a. a (rank, k), b (n, rank)."""

    a: Floats
    b: Floats
    scale: float


class Student:
    """model: a causal language model of transformers, whose trunk is `model.model` and whose output `lm_head`.

    method           scales: those that `training.scales.scaled` has made of it; its other weights are frozen
    rank             of the updates (LoRA); they begin as nothing, scaled by 2
    is_frugal        activations are computed again in the backward pass instead of being kept
    is_half          matrices are multiplied in bfloat16; what learns is float32, in which small updates do not vanish
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        rank: int = 16,
        seed: int = 0,
        *,
        is_frugal: bool = False,
        is_half: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.method = method
        self._is_half = is_half
        model.config.use_cache = False
        if is_frugal:
            model.activation_checkpointing_enable()
            model.enable_input_require_grads()
        if method == "lora":
            config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
            # Not get_peft_model, whose wrapper asks for what transformers deprecates.
            model = inject_adapter_in_model(config, model)
        for each in model.parameters():
            each.data = each.data.float() if each.requires_grad else each.data
        self._model = model.train()

    @property
    def learning(self) -> dict[str, torch.nn.Parameter]:
        """What is changed, by name."""
        return {name: each for name, each in self._model.named_parameters() if each.requires_grad}

    def losses(self, samples: list[Sample], targets: list[Targets] | None) -> Losses:
        """Of samples of different length, together. targets: of each, by the teacher."""
        order = sorted(range(len(samples)), key=lambda number: len(samples[number].ids))
        kl = ce = torch.zeros((), device=self._model.device)
        num_tokens = 0
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._is_half):
            for group in _alike(order, samples):
                taught = None if targets is None else [targets[number] for number in group]
                found = self._losses([samples[number] for number in group], taught)
                kl, ce, num_tokens = kl + found.kl, ce + found.ce, num_tokens + found.num_tokens
        return Losses(kl, ce, num_tokens)

    def _losses(self, samples: list[Sample], targets: list[Targets] | None) -> Losses:
        device = self._model.device
        length = max(len(sample.ids) for sample in samples)
        # Behind a sample anything may stand: a token sees only those before it.
        ids = torch.tensor([sample.ids + [0] * (length - len(sample.ids)) for sample in samples], device=device)
        states = self._model.model(input_ids=ids).last_hidden_state
        places = [
            (row, at) for row, sample in enumerate(samples) for at, learnt in enumerate(sample.is_learnt) if learnt
        ]
        rows, ats = (torch.tensor(each, device=device) for each in zip(*places, strict=True))
        before, following = states[rows, ats - 1], ids[rows, ats]
        taught = None if targets is None else _joined(targets, device)
        kl = ce = torch.zeros((), device=device)
        for start in range(0, len(places), ROWS):
            part = slice(start, start + ROWS)
            pieces = [before[part], following[part], *(each[part] for each in taught or ())]
            of_kl, of_ce = checkpoint(self._of_rows, *pieces, use_reentrant=False)
            kl, ce = kl + of_kl, ce + of_ce
        return Losses(kl, ce, len(places))

    def _of_rows(self, states: torch.Tensor, following: torch.Tensor, *taught: torch.Tensor) -> tuple[Any, Any]:
        logits = self._model.lm_head(states).float()
        ce = cross_entropy(logits, following, reduction="sum")
        if not taught:
            return torch.zeros_like(ce), ce
        ids, logs, tail = taught
        own = logits.gather(1, ids) - logits.logsumexp(1, keepdim=True)
        rest = (1 - own.exp().sum(1)).clamp_min(_LEAST).log()
        kl = (logs.exp() * (logs - own)).sum() + (tail.exp() * (tail - rest)).sum()
        return kl, ce

    def updates(self) -> Iterator[tuple[str, Update]]:
        """What has been added to each matrix, by the model's own name for it; of LoRA only."""
        for name, module in self._model.named_modules():
            if hasattr(module, "lora_A"):
                parts = (module.lora_A["default"].weight, module.lora_B["default"].weight)
                a, b = (part.detach().float().cpu().numpy() for part in parts)
                yield name, Update(a, b, module.scaling["default"])


def _alike(order: list[int], samples: list[Sample]) -> Iterator[list[int]]:
    """Numbers of samples, shortest first, in groups in which little is computed for what only fills up."""
    group: list[int] = []
    for number in order:
        if group and len(samples[number].ids) > _MOST_FILLED * len(samples[group[0]].ids):
            yield group
            group = []
        group.append(number)
    yield group


def _joined(targets: list[Targets], device: torch.device) -> list[torch.Tensor]:
    named = ([getattr(each, name) for each in targets] for name in ("ids", "logs", "tail"))
    return [torch.cat([torch.from_numpy(part) for part in parts]).to(device) for parts in named]
