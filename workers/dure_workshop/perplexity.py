"""How well a model foresees a text, without torch: states by the serving runtime, logits and their sums by numpy.

Windows of 512 tokens; the first 64 of each are context only and are scored in the window before it. So each token is
scored once, with at least 64 before it, and the first 64 of the text are not scored. Needs numpy (extra `workshop`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dure import gguf
from dure.errors import SettingsError
from dure.gguf import Gguf
from dure_workshop.dequantize import Floats, rows
from dure_workshop.hidden_states import HiddenStates
from dure_workshop.trim.gguf_file import GgufModel
from dure_workshop.trim.text import Encoder
from dure_workshop.trim.vocabulary import Vocabulary

WINDOW = 512
CONTEXT = 64
# More tell little more, and activations of one layer would not fit into 3 GB beside a matrix of a 1.5B.
MOST_TOKENS = 12_288
_BLOCK = 4096  # rows of the output matrix, and positions, that are multiplied at a time

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Perplexity:
    """nll_nats is the sum over num_tokens scored tokens, which spell num_bytes of UTF-8.

    Only bits_per_byte compares models whose vocabularies differ.
    """

    num_tokens: int
    num_bytes: int
    nll_nats: float

    @property
    def per_token(self) -> float:
        return math.exp(self.nll_nats / self.num_tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nll_nats / math.log(2) / self.num_bytes


def perplexity(
    path: Path, text: str, on_progress: OnProgress = lambda done, total: None, num_threads: int = 2
) -> Perplexity:
    """on_progress(steps done, of all). Raises SettingsError, ModelError, EngineError."""
    model = GgufModel.read(path)
    source, ids = model.source, encoded(model, text)
    pieces = list(windows(len(ids)))
    num_blocks = math.ceil(gguf.num_tokens(source) / _BLOCK)
    total = len(pieces) + num_blocks
    states, start = [], begin(source)
    with HiddenStates(path, WINDOW + len(start), num_threads) as runtime:
        for done, (first, scored, end) in enumerate(pieces):
            found = runtime.of(start + ids[first : end - 1])
            states.append(found[len(start) + scored - first - 1 :])
            on_progress(done + 1, total)
    targets = ids[CONTEXT:]
    nll = _nll(source, np.concatenate(states), targets, lambda done: on_progress(len(pieces) + done, total))
    return Perplexity(len(targets), num_bytes(model.vocabulary, targets), float(nll.sum()))


def encoder_of(model: GgufModel) -> Encoder:
    if model.segmenter is None:
        raise SettingsError(f"texts of a {model.pre} vocabulary cannot be segmented here: take another model")
    return model.segmenter


def encoded(model: GgufModel, text: str) -> list[int]:
    ids = encoder_of(model).encode(text)
    if len(ids) <= CONTEXT:
        raise SettingsError(f"the text has {len(ids)} tokens, and {CONTEXT} are context: give a longer one")
    return ids


def begin(source: Gguf) -> list[int]:
    """What the model expects before each text."""
    wants = source.get("tokenizer.ggml.add_bos_token", False)
    return [source.get("tokenizer.ggml.bos_token_id")] if wants else []


def windows(num_tokens: int) -> Iterator[tuple[int, int, int]]:
    """(first token, first scored, end) of each."""
    for scored in range(CONTEXT, num_tokens, WINDOW - CONTEXT):
        yield scored - CONTEXT, scored, min(scored - CONTEXT + WINDOW, num_tokens)


def spread(ids: list[int]) -> list[list[int]]:
    """Windows to learn from what a model computes: all of a text, of a long one MOST_TOKENS evenly over it."""
    starts, most = list(range(0, len(ids), WINDOW)), MOST_TOKENS // WINDOW
    if len(starts) > most:
        starts = [starts[number * len(starts) // most] for number in range(most)]
    return [ids[start : start + WINDOW] for start in starts]


def _nll(source: Gguf, states: Floats, targets: list[int], on_progress: Callable[[int], None]) -> Floats:
    """Negative log-likelihood of each target: log of the sum of exponentials over all rows, less the target's own."""
    tensor = source.tensors.get(gguf.OUTPUT) or source.tensors[gguf.EMBEDDING]
    highest = np.full(len(states), -np.inf)
    sums, own = np.zeros(len(states)), np.zeros(len(states))
    wanted = np.array(targets)
    for number, first in enumerate(range(0, tensor.num_rows, _BLOCK)):
        numbers = list(range(first, min(first + _BLOCK, tensor.num_rows)))
        matrix = rows(source, tensor, numbers).T
        for start in range(0, len(states), _BLOCK):
            part = slice(start, start + _BLOCK)
            logits = states[part] @ matrix
            here = np.nonzero((wanted[part] >= first) & (wanted[part] <= numbers[-1]))[0]
            own[start + here] = logits[here, wanted[part][here] - first]
            new = np.maximum(highest[part], logits.max(axis=1))
            sums[part] *= np.exp(highest[part] - new)
            sums[part] += np.exp(logits - new[:, None].astype(np.float32)).sum(axis=1, dtype=np.float64)
            highest[part] = new
        on_progress(number + 1)
    return np.asarray(highest + np.log(sums) - own, np.float32)


def num_bytes(vocabulary: Vocabulary, ids: list[int]) -> int:
    return sum(len(vocabulary.meaning(number) or b"") for number in ids)
