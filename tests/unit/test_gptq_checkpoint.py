"""Checkpoints quantized by GPTQ or AutoRound become GGUF files, and packed weights, that hold the same numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dure import gguf, safetensors
from dure.errors import ModelCorrupt, ModelUnsupported
from dure.gguf import TensorType
from dure.safetensors import Tensor
from dure_workshop import convert
from dure_workshop.dequantize import rows
from dure_workshop.gptq_checkpoint import Packing
from dure_workshop.trim.checkpoint_files import Checkpoint
from tiny_decoder import TinyDecoder

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
AUTO_ROUND = {"quant_method": "auto-round", "bits": 4, "sym": True, "packing_format": "auto_round:auto_gptq"}
IDS = [(number * 37) % 250 for number in range(40)]
DTYPES = {"<i4": "I32", "<f2": "F16", "<u2": "BF16"}


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (rows, n) into words, the lowest bits first; along the rows."""
    per_word = 32 // bits
    grouped = codes.astype(np.uint32).reshape(-1, per_word, codes.shape[1])
    shifts = (np.arange(per_word, dtype=np.uint32) * bits)[None, :, None]
    return np.bitwise_or.reduce(grouped << shifts, axis=1).view("<i4")


class Quantized:
    """A decoder whose matrices have random codes: as a checkpoint in the public format, and as the numbers it means."""

    def __init__(self, told: dict[str, Any], *, group: int = 64, offset: int = 1, kind: str = "qwen2") -> None:
        dice, bits = np.random.default_rng(3), told["bits"]
        plain = TinyDecoder.make(kind)
        self.told, self.files, numbers = told, dict[str, np.ndarray](), dict(plain.weights)
        for name, weight in plain.weights.items():
            if "_proj.weight" not in name:
                self.files[name] = (weight.view(np.uint32) >> 16).astype("<u2")
                continue
            n, k = weight.shape
            codes = dice.integers(0, 1 << bits, (k, n))
            zeros = (
                dice.integers(1, 1 << bits, (k // group, n))
                if not told["sym"]
                else np.full((k // group, n), 1 << bits - 1)
            )
            scales = dice.uniform(0.01, 0.03, (k // group, n)).astype("<f2")
            stem = name.removesuffix(".weight")
            self.files[f"{stem}.qweight"] = packed(codes, bits)
            self.files[f"{stem}.qzeros"] = packed((zeros - offset).T, bits).T
            self.files[f"{stem}.scales"] = scales
            self.files[f"{stem}.g_idx"] = (np.arange(k) // group).astype("<i4")
            found = (codes - zeros.repeat(group, 0)) * scales.repeat(group, 0).astype(np.float32)
            numbers[name] = np.ascontiguousarray(found.T, dtype=np.float32)
        self.decoder = replace(plain, weights=numbers)

    def write(self, folder: Path) -> Path:
        self.decoder.write(folder)
        for old in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
            old.unlink()
        tensors = safetensors.placed(
            Tensor(name, DTYPES[each.dtype.str], each.shape, 0) for name, each in self.files.items()
        )
        raw = b"".join(np.ascontiguousarray(each).tobytes() for each in self.files.values())
        (folder / "model.safetensors").write_bytes(safetensors.head(tensors, {"format": "pt"}) + raw)
        config = self.decoder.config() | {"quantization_config": self.told}
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        return folder


def converted(quantized: Quantized, folder: Path) -> gguf.Gguf:
    target = folder / "model.gguf"
    convert.convert(Checkpoint.read(quantized.write(folder / "checkpoint")), target)
    return gguf.read(target)


@pytest.mark.parametrize(
    ("told", "offset", "kind"),
    [
        (GPTQ, 1, TensorType.Q4_0),
        (GPTQ | {"checkpoint_format": "gptq_v2"}, 0, TensorType.Q4_0),
        (GPTQ | {"sym": False}, 1, TensorType.Q5_0),
        (GPTQ | {"bits": 2, "sym": False}, 1, TensorType.Q5_0),
        (GPTQ | {"bits": 8}, 1, TensorType.Q8_0),
        (AUTO_ROUND, 1, TensorType.Q4_0),
        (AUTO_ROUND | {"packing_format": "auto_round"}, 0, TensorType.Q4_0),
    ],
)
def test_every_weight_stays_the_number_that_it_was(
    tmp_path: Path, told: dict[str, Any], offset: int, kind: TensorType
) -> None:
    quantized = Quantized(told, offset=offset)
    source = converted(quantized, tmp_path)
    for part, name in (("self_attn.k_proj", "attn_k"), ("mlp.gate_proj", "ffn_gate"), ("mlp.down_proj", "ffn_down")):
        tensor = source.tensors[f"blk.1.{name}.weight"]
        wanted = quantized.decoder.weights[f"model.layers.1.{part}.weight"]
        assert tensor.type is kind
        assert np.array_equal(rows(source, tensor, list(range(len(wanted)))), wanted)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_both_engines_compute_from_it_what_it_means(tmp_path: Path, kind: str) -> None:
    """Llama's rows change places."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")
    from dure_worker.engines.ark.attention import Segment
    from dure_worker.engines.ark.kv_cache import KvCache
    from dure_worker.engines.ark.loading import load
    from dure_workshop.hidden_states import HiddenStates

    quantized = Quantized(GPTQ, kind=kind)
    source = converted(quantized, tmp_path)
    states = quantized.decoder.states(IDS)
    with HiddenStates(source.path, 64, 2) as runtime:
        assert nearness(runtime.of(IDS)[-1], states[-1]) > 0.998
    decoder = load(source)
    found = decoder.forward([Segment(0, 0, IDS)], KvCache(decoder.config, 1, 64))[0]
    weights = quantized.decoder.weights
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    assert nearness(found.numpy(), states[-1] @ head.T) > 0.998
    assert torch.isfinite(found).all()


def nearness(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    "told",
    [{"bits": 3}, {"quant_method": "awq"}, {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}],
)
def test_other_packings_are_refused_by_name(told: dict[str, Any]) -> None:
    with pytest.raises(ModelUnsupported, match="GPTQ or AutoRound"):
        Packing.of({"quantization_config": GPTQ | told})


def damaged(quantized: Quantized, part: str) -> np.ndarray:
    name = f"model.layers.0.self_attn.o_proj.{part}"
    quantized.files[name] = quantized.files[name].copy()
    return quantized.files[name]


def test_columns_in_the_order_of_their_activation_are_refused(tmp_path: Path) -> None:
    quantized = Quantized(GPTQ)
    damaged(quantized, "g_idx")[0] = 1
    with pytest.raises(ModelUnsupported, match="desc_act"):
        converted(quantized, tmp_path)


def test_a_symmetric_checkpoint_with_another_zero_point_is_refused(tmp_path: Path) -> None:
    quantized = Quantized(GPTQ)
    damaged(quantized, "qzeros")[:] = 0
    with pytest.raises(ModelUnsupported, match="zero points"):
        converted(quantized, tmp_path)


def test_scales_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    quantized = Quantized(GPTQ)
    damaged(quantized, "scales")[0, 0] = np.nan
    with pytest.raises(ModelCorrupt, match="o_proj: its scales"):
        converted(quantized, tmp_path)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    quantized = Quantized(GPTQ)
    del quantized.files["model.layers.0.self_attn.o_proj.scales"]
    with pytest.raises(ModelCorrupt, match=r"o_proj\.scales"):
        converted(quantized, tmp_path)
