"""A pass over Korean text in which the weights are fitted: each matrix at the moment when its inputs are there.

So the decoder's own code decides the order, inputs are those that already fitted layers give, and one matrix is there
at a time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from dure.gguf import Gguf
from dure_worker.engines.ark.attention import Segment
from dure_worker.engines.ark.blocks import Codes
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_worker.engines.ark.config import DecoderConfig
from dure_worker.engines.ark.kv_cache import KvCache
from dure_worker.engines.ark.linear import Linear
from dure_worker.engines.ark.packed_file import PackedFile

# Written for this: nothing is measured on it.
TEXT = Path(__file__).with_name("calibration.txt")
_WINDOW = 512

Make = Callable[[str, torch.Tensor], Linear]


def run(source: Gguf, config: DecoderConfig, vectors: dict[str, torch.Tensor], embedding: Codes, make: Make) -> None:
    """vectors: norms and the like, by their names in a packed file. Calls make(name, inputs) once for each matrix."""
    from dure_worker.engines.ark.loading import decoder  # noqa: PLC0415 - it imports what packs

    ids = ChatTokenizer(source).plain(TEXT.read_text("utf-8"))
    rows, places = torch.unique(torch.tensor(ids), return_inverse=True)
    tensors = vectors | _rows(embedding, rows)
    starts = range(0, len(ids) - 1, _WINDOW)
    segments = [Segment(slot, 0, places[start : start + _WINDOW].tolist()) for slot, start in enumerate(starts)]

    def awaited(name: str) -> Linear:
        return cast("Linear", lambda x: make(name, x)(x))

    decoder(PackedFile(tensors, {}), config, awaited).forward(segments, KvCache(config, len(segments), _WINDOW))


def _rows(embedding: Codes, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the tokens that occur, under their new numbers."""
    codes, scales = (torch.from_numpy(each)[wanted] for each in (embedding.codes, embedding.scales))
    return {"embedding.codes": codes.view(len(wanted), scales.shape[1], -1), "embedding.scales": scales[:, :, None]}
