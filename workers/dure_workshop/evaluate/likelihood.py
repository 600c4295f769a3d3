"""How well a model foresees a text, and how far its distribution lies from another model's."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dure.errors import SettingsError
from dure_workshop.dequantize import Floats
from dure_workshop.evaluate.logits import Logits
from dure_workshop.perplexity import CONTEXT, Perplexity, encoded, num_bytes, windows

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Divergence:
    """Of a model from a reference, means over the tokens of a text.

    kl_nats    Σ p (log p - log q), p the reference's
    same_top   share of tokens at which both find the same next token likeliest
    """

    num_tokens: int
    kl_nats: float
    same_top: float


def nll(logits: Logits, ids: list[int], num_scored: int) -> Floats:
    """Negative log-likelihood in nats of each of the last `num_scored` ids, which is not all of them."""
    targets = ids[len(ids) - num_scored :]
    found, at = [], 0
    for block in logits.blocks(ids[:-1], num_scored):
        own = targets[at : at + len(block)]
        found.append(_log_sums(block) - block[np.arange(len(own)), own])
        at += len(block)
    return np.concatenate(found)


def text_perplexity(logits: Logits, text: str, on_progress: OnProgress = lambda done, total: None) -> Perplexity:
    """The windows and scored tokens of `dure_workshop.perplexity`. on_progress(windows done, of all).

    Raises SettingsError, EngineError.
    """
    ids = encoded(logits.model, text)
    pieces = list(windows(len(ids)))
    total = 0.0
    for done, (first, scored, end) in enumerate(pieces):
        total += float(nll(logits, ids[first:end], end - scored).sum(dtype=np.float64))
        on_progress(done + 1, len(pieces))
    return Perplexity(len(ids) - CONTEXT, num_bytes(logits.model.vocabulary, ids[CONTEXT:]), total)


def divergence(
    logits: Logits, reference: Logits, text: str, on_progress: OnProgress = lambda done, total: None
) -> Divergence:
    """Of models with one vocabulary, over the same tokens as the perplexity. Raises SettingsError."""
    if logits.model.vocabulary.tokens != reference.model.vocabulary.tokens:
        raise SettingsError(
            f"{logits.model.path} and {reference.model.path} have different vocabularies: "
            "compare models that were trimmed alike, or not at all"
        )
    ids = encoded(logits.model, text)
    pieces = list(windows(len(ids)))
    kl, same = 0.0, 0
    for done, (first, scored, end) in enumerate(pieces):
        asked = (ids[first : end - 1], end - scored)
        for ours, theirs in zip(logits.blocks(*asked), reference.blocks(*asked), strict=True):
            q, p = (block - _log_sums(block)[:, None] for block in (ours, theirs))
            kl += float((np.exp(p) * (p - q)).sum(dtype=np.float64))
            same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        on_progress(done + 1, len(pieces))
    num_tokens = len(ids) - CONTEXT
    return Divergence(num_tokens, kl / num_tokens, same / num_tokens)


def _log_sums(block: Floats) -> Floats:
    """Of each row the logarithm of its exponentials' sum."""
    highest = block.max(axis=1)
    sums = np.exp(block - highest[:, None]).sum(axis=1, dtype=np.float64)
    return np.asarray(highest + np.log(sums), np.float32)
