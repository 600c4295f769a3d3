"""The ark engine's decoder computes what the makers of each family define, however its rows are cut and mixed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dure import gguf
from dure.memory_plan import Precision
from dure_workshop import convert
from dure_workshop.trim.checkpoint_files import Checkpoint
from tiny_decoder import TinyDecoder

torch = pytest.importorskip("torch", reason="the extra `ark` is not installed")
pytest.importorskip("auto_round_kernel", reason="the extra `ark` is not installed")

from dure_worker.engines.ark.attention import Segment  # noqa: E402
from dure_worker.engines.ark.decoder import Decoder  # noqa: E402
from dure_worker.engines.ark.kv_cache import KvCache  # noqa: E402
from dure_worker.engines.ark.loading import load  # noqa: E402

KINDS = ("qwen2", "qwen3", "llama")
IDS = [(number * 37) % 250 for number in range(96)]


def loaded(folder: Path, tiny: TinyDecoder) -> Decoder:
    target = folder / "model.gguf"
    convert.convert(Checkpoint.read(tiny.write(folder / "checkpoint")), target, Precision.Q8_0)
    return load(gguf.read(target))


def wanted(tiny: TinyDecoder, ids: list[int]) -> np.ndarray:
    head = tiny.weights.get("lm_head.weight", tiny.weights["model.embed_tokens.weight"])
    return tiny.states(ids)[-1] @ head.T


def nearness(found: np.ndarray, target: np.ndarray) -> float:
    return float(found @ target / np.linalg.norm(found) / np.linalg.norm(target))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_what_the_makers_define(tmp_path: Path, kind: str) -> None:
    tiny = TinyDecoder.make(kind)
    decoder = loaded(tmp_path, tiny)
    cache = KvCache(decoder.config, 1, 128)
    found = decoder.forward([Segment(0, 0, IDS)], cache)[0].numpy()
    assert nearness(found, wanted(tiny, IDS)) > 0.998


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_a_prompt_in_chunks_and_beside_another_gives_the_same(tmp_path: Path, kind: str, chunk: int) -> None:
    tiny = TinyDecoder.make(kind)
    decoder = loaded(tmp_path, tiny)
    alone = decoder.forward([Segment(0, 0, IDS)], KvCache(decoder.config, 1, 128))[0].numpy()
    cache = KvCache(decoder.config, 3, 128)
    other = IDS[::-1]
    for start in range(0, len(IDS), chunk):
        segments = [
            Segment(2, start, IDS[start : start + chunk]),
            Segment(0, start // chunk, [other[start // chunk]]),
        ]
        found = decoder.forward(segments, cache)[0].numpy()
    assert nearness(found, alone) > 0.9999


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return loaded(tmp_path_factory.mktemp("small"), TinyDecoder.make("qwen2"))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    mates=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    slot=st.integers(0, 4),
)
def test_logits_hardly_depend_on_cuts_slots_and_neighbours(
    small: Decoder, cuts: list[int], mates: list[int], slot: int
) -> None:
    """Equal to the bit where the kernels sum in one order, as on all CPUs seen; the stated tolerance is 2 % of the
    logits' spread.

    cuts: lengths of chunks, taken in turn; mates: how many other slots compute a token beside each chunk.
    """
    whole = small.forward([Segment(0, 0, IDS)], KvCache(small.config, 1, 128))[0]
    cache = KvCache(small.config, 5, 128)
    others = [number for number in range(5) if number != slot]
    start = turn = 0
    lengths = [0] * 5
    while start < len(IDS):
        piece = IDS[start : start + cuts[turn % len(cuts)]]
        beside = [
            Segment(number, lengths[number], [IDS[-1 - lengths[number]]])
            for number in others[: mates[turn % len(mates)]]
        ]
        mine = Segment(slot, start, piece)
        segments = [mine, *beside] if len(piece) == 1 else [*beside, mine]
        found = small.forward(segments, cache)[segments.index(mine)]
        for each in beside:
            lengths[each.slot] += 1
        start, turn = start + len(piece), turn + 1
    assert float((found - whole).abs().max() / whole.std()) < 0.02
