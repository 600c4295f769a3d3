"""Each family that the ark engine runs computes what transformers does, on small random models of the same weights.

The stated tolerance: the largest error of a logit is below 2 % of the logits' spread where the kernels multiply in
float32, as keys, values and queries are bfloat16 (0.3 to 0.9 % were seen). Kernels that quantize activations to int8
(AVX512-VNNI) add theirs: 15 %.
"""

from pathlib import Path

import numpy as np
import pytest

from dure import engines, gguf

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")
transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")

import tiny_transformer  # noqa: E402
from dure.memory_plan import Precision  # noqa: E402
from dure_worker.engines.ark import loading  # noqa: E402
from dure_worker.engines.ark.attention import Segment  # noqa: E402
from dure_worker.engines.ark.config import DecoderConfig  # noqa: E402
from dure_worker.engines.ark.decoder import Decoder  # noqa: E402
from dure_worker.engines.ark.kv_cache import KvCache  # noqa: E402
from dure_worker.engines.ark.packed_file import PackedFile  # noqa: E402
from dure_worker.engines.ark.packing import pack  # noqa: E402
from dure_workshop import convert  # noqa: E402
from dure_workshop.trim.checkpoint_files import Checkpoint  # noqa: E402
from reference_model import KINDS, WINDOW, ReferenceModel  # noqa: E402

IDS = [(number * 37) % 250 for number in range(3 * WINDOW)]
CONTEXT = 64


def error(found: "torch.Tensor", wanted: np.ndarray) -> float:
    """The largest, as a share of the logits' spread."""
    return float(np.abs(found.numpy() - wanted).max() / wanted.std())


def tolerance() -> float:
    flags = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    return 0.15 if "avx512_vnni" in flags else 0.02


def decoder(folder: Path, reference: ReferenceModel) -> Decoder:
    weights = reference.write(folder / "model.gguf")
    pack(weights, folder / "packed.safetensors")
    return loading.decoder(PackedFile.open(folder / "packed.safetensors"), DecoderConfig.of_gguf(gguf.read(weights)))


def test_every_family_of_the_engine_is_checked() -> None:
    assert set(KINDS) == engines.ARK


@pytest.mark.parametrize(
    ("kind", "changes"),
    [*((kind, {}) for kind in KINDS), ("gptneox", {"use_parallel_residual": False})],
    ids=[*KINDS, "gptneox in sequence"],
)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str, changes: dict[str, bool]) -> None:
    reference = ReferenceModel.make(kind, **changes)
    made = decoder(tmp_path, reference)
    cache = KvCache(made.config, 3, CONTEXT)
    wanted = reference.logits(IDS)
    whole = made.forward([Segment(1, 0, IDS, len(IDS))], cache)
    assert error(whole, wanted) < tolerance()
    # Token by token beside another, and in chunks.
    half = len(IDS) // 2
    found = [made.forward([Segment(2, 0, IDS[:half], half)], cache)]
    for place in range(half, len(IDS)):
        pair = [Segment(0, place - half, [IDS[place - half]]), Segment(2, place, [IDS[place]])]
        found.append(made.forward(pair, cache)[1:])
    assert error(torch.cat(found), wanted) < tolerance()


def test_the_window_is_there_and_not_everywhere(tmp_path: Path) -> None:
    """Proved: what lies before every window is still felt, through the layers that look to the beginning."""
    reference = ReferenceModel.make("gemma3")
    made = decoder(tmp_path, reference)
    changed = [IDS[0] + 1, *IDS[1:]]
    cache = KvCache(made.config, 1, CONTEXT)
    first, second = (made.forward([Segment(0, 0, ids)], cache) for ids in (IDS, changed))
    assert not torch.equal(first, second)
    assert [made.config.window(layer) for layer in range(7)] == [WINDOW] * 5 + [0, WINDOW]


@pytest.mark.parametrize("has_parallel_residual", [True, False])
def test_a_checkpoint_of_gpt_neox_becomes_a_file_that_computes_the_same(
    tmp_path: Path,
    has_parallel_residual: bool,
) -> None:
    """As Polyglot-ko has it. Rounding the weights to 8 bits is felt, an order of rows that is wrong would be more."""
    folder = tiny_transformer.write(tmp_path / "neox", "gpt_neox", spread=0.1)
    tiny_transformer.change(folder, "config.json", use_parallel_residual=has_parallel_residual)
    weights = tmp_path / "model.gguf"
    convert.convert(Checkpoint.read(folder), weights, Precision.Q8_0)
    pack(weights, tmp_path / "packed.safetensors")
    made = loading.decoder(PackedFile.open(tmp_path / "packed.safetensors"), DecoderConfig.of_gguf(gguf.read(weights)))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(torch.tensor([IDS])).logits[0].numpy()
    found = made.forward([Segment(0, 0, IDS, len(IDS))], KvCache(made.config, 1, CONTEXT))
    cosine = float((found.numpy() * wanted).sum() / np.linalg.norm(found.numpy()) / np.linalg.norm(wanted))
    assert cosine > 0.999
