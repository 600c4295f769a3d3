"""How well a model foresees a text in the ark engine: the same windows and scored tokens as in `perplexity`.

Needs torch and the kernels (extra `torch`).
"""

import torch

from dure.gguf import Gguf
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.decoder import Decoder
from dure_worker.engines.ark.kv_cache import KvCache
from dure_workshop.perplexity import CONTEXT, WINDOW, OnProgress, Perplexity, begin, encoded, num_bytes, windows
from dure_workshop.trim.gguf_file import GgufModel

# Logits of this many tokens are there at a time: 78 MB with 152,000 tokens.
_CHUNK = 128


def ark_perplexity(
    source: Gguf, decoder: Decoder, text: str, on_progress: OnProgress = lambda done, total: None
) -> Perplexity:
    """Of the decoder that was made of that file. on_progress(windows done, of all). Raises SettingsError."""
    model = GgufModel(source)
    ids, start = encoded(model, text), begin(source)
    cache = KvCache(decoder.config, 1, WINDOW + len(start))
    nll, pieces = 0.0, list(windows(len(ids)))
    for done, (first, scored, end) in enumerate(pieces):
        nll += _nll(decoder, cache, start + ids[first:end], end - scored)
        on_progress(done + 1, len(pieces))
    targets = ids[CONTEXT:]
    return Perplexity(len(targets), num_bytes(model.vocabulary, targets), nll)


def _nll(decoder: Decoder, cache: KvCache, ids: list[int], num_scored: int) -> float:
    """Negative log-likelihood in nats of the last `num_scored` tokens."""
    found = 0.0
    first = len(ids) - 1 - num_scored  # whose logits are of the first scored one
    for at in range(0, len(ids) - 1, _CHUNK):
        chunk = ids[at : min(at + _CHUNK, len(ids) - 1)]
        num_wanted = min(len(chunk), at + len(chunk) - first)
        # A chunk before them all is still asked for one row, which counts for nothing.
        logits = decoder.forward([Segment(0, at, chunk, max(num_wanted, 1))], cache)
        if num_wanted > 0:
            targets = torch.tensor(ids[at + len(chunk) - num_wanted + 1 : at + len(chunk) + 1])
            found += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return found
