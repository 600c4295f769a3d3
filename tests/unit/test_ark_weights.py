"""Packed weights: without loss where that is promised, better with calibration, made again or refused where broken."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dure import gguf
from dure.errors import EngineError, ModelCorrupt, ModelError
from dure.gguf import TensorType
from dure.memory_plan import Precision
from dure_workshop import convert
from dure_workshop.dequantize import dequantize, quantize
from dure_workshop.trim.checkpoint_files import Checkpoint
from tiny_decoder import TinyDecoder

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
ark = pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_worker.engines.ark import fit, loading, packed_file  # noqa: E402
from dure_worker.engines.ark.attention import Segment  # noqa: E402
from dure_worker.engines.ark.blocks import Codes, codes  # noqa: E402
from dure_worker.engines.ark.gptq import Inputs, compensated  # noqa: E402
from dure_worker.engines.ark.kv_cache import KvCache  # noqa: E402
from dure_worker.engines.ark.linear import Linear  # noqa: E402
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, Recipe, pack  # noqa: E402

IDS = [(number * 37) % 250 for number in range(96)]
N, K = 96, 256


def numbers(seed: int = 1, shape: tuple[int, int] = (N, K)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unpacked(linear: Linear) -> np.ndarray:
    """(n, k), by the library's own function."""
    found = ark.unpack_weight(
        linear.blob,
        torch.float32,
        linear.n,
        linear.k,
        linear.group,
        "int8",
        f"int{linear.bits}",
        linear.scales,
        asym=False,
    )
    return np.asarray(found.T if found.shape == (linear.k, linear.n) else found)


@pytest.mark.parametrize("kind", [TensorType.Q4_0, TensorType.Q5_0, TensorType.Q8_0])
def test_blocks_without_minima_keep_every_number(kind: TensorType) -> None:
    raw = quantize(numbers(), kind)
    assert np.array_equal(unpacked(Linear.packed(codes(raw, kind, K))), dequantize(raw, kind, K))


def test_neighbours_with_one_scale_are_one_group() -> None:
    found = Codes(
        np.arange(K, dtype=np.int8)[None] % 8, np.repeat([[0.5, 0.25]], K // 64, 1).astype(np.float32), None, 4
    )
    assert found.merged().group == K // 2
    assert np.array_equal(found.merged().numbers(), found.numbers())
    alternating = Codes(found.codes, np.tile([[0.5, 0.25]], K // 64).astype(np.float32), None, 4)
    assert alternating.merged().group == alternating.group


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 0, 2), (-2, 1, 2), (-3, 0, 3), (0, 2, 3), (-4, 3, 3), (-8, 7, 4), (0, 8, 5), (-17, 0, 6), (0, 127, 8)],
)
def test_codes_say_how_few_bits_hold_them(low: int, high: int, bits: int) -> None:
    found = np.array([[low, high] + [0] * 30], np.int8)
    assert Codes(found, np.ones((1, 1), np.float32), None, 8).fewest_bits == bits


def as_codes(weights: np.ndarray) -> Codes:
    return codes(quantize(weights, TensorType.Q8_0), TensorType.Q8_0, K)


def inputs() -> "torch.Tensor":
    """Some are much larger than others, and neighbours go together."""
    dice = np.random.default_rng(2)
    mixed = dice.normal(size=(512, K)) @ (np.eye(K) + 0.5 * np.eye(K, k=1)) * np.exp(dice.normal(size=K))
    return torch.from_numpy(mixed.astype(np.float32))


def damage(found: Codes, weights: np.ndarray, x: "torch.Tensor") -> float:
    """How far the outputs are off, of their size."""
    wanted = x.numpy() @ weights.T
    return float(np.linalg.norm(x.numpy() @ found.numbers().T - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("bits", [2, 4])
def test_the_more_is_known_of_the_inputs_the_less_the_outputs_are_off(bits: int) -> None:
    exact, x = as_codes(numbers()), inputs()
    known = Inputs(x, 32)
    plain = damage(fit.fitted(exact, bits, 32), exact.numbers(), x)
    weighted = damage(fit.fitted(exact, bits, 32, known.mean_square), exact.numbers(), x)
    made_good = damage(compensated(exact, bits, 32, known), exact.numbers(), x)
    assert made_good < 0.95 * weighted
    assert weighted < 0.95 * plain


def test_rows_and_inputs_of_nothing_are_fitted_to_nothing() -> None:
    weights, x = numbers(), inputs()
    weights[3], x[:, 64:128] = 0, 0
    found = compensated(as_codes(weights), 4, 32, Inputs(x, 32))
    assert np.isfinite(found.numbers()).all()
    assert not found.numbers()[3].any()


def test_large_matrices_are_fitted_in_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, x = as_codes(numbers()), inputs()
    plain = damage(fit.fitted(exact, 4, 32), exact.numbers(), x)
    monkeypatch.setattr("dure_worker.engines.ark.gptq._MOST_COLUMNS", 96)
    known = Inputs(x, 32)
    assert [start for start, _ in known.blocks] == [0, 96, 192]
    assert damage(compensated(exact, 4, 32, known), exact.numbers(), x) < plain


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    convert.convert(
        Checkpoint.read(TinyDecoder.make("qwen2").write(tmp_path / "checkpoint")), tmp_path / "m.gguf", Precision.Q8_0
    )
    return tmp_path / "m.gguf"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing without a process of its own, which takes seconds to start."""
    monkeypatch.setattr(loading, "_pack", pack)


def logits(weights: Path, recipe: Recipe) -> np.ndarray:
    decoder = loading.load(gguf.read(weights), recipe)
    return decoder.forward([Segment(0, 0, IDS, len(IDS))], KvCache(decoder.config, 1, 128)).numpy()


@pytest.mark.usefixtures("here")
def test_a_whole_decoder_is_fitted_in_one_pass_over_the_text(weights: Path) -> None:
    exact = logits(weights, AS_IN_THE_FILE)
    plain, calibrated = (
        float(np.linalg.norm(logits(weights, Recipe(4, method=method)) - exact)) for method in ("plain", "gptq")
    )
    assert calibrated < 0.7 * plain


def broken(weights: Path, name: str, value: bytes) -> None:
    """Overwrite the first bytes of a tensor."""
    source = gguf.read(weights)
    raw = bytearray(weights.read_bytes())
    start = source.data_start + source.tensors[name].offset
    raw[start : start + len(value)] = value
    weights.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blk.1.ffn_down.weight", np.float16("nan").tobytes()),
        ("token_embd.weight", np.float16("inf").tobytes()),
        ("blk.0.attn_norm.weight", np.float32("nan").tobytes()),
    ],
)
def test_weights_that_are_no_numbers_are_refused_by_name(weights: Path, name: str, value: bytes) -> None:
    broken(weights, name, value)
    with pytest.raises(ModelCorrupt, match=f"{name} holds what is no number"):
        pack(weights, weights.with_name("packed"))
    assert not weights.with_name("packed").exists()


def test_an_error_of_the_packing_process_is_the_same_error_here(weights: Path) -> None:
    broken(weights, "blk.1.ffn_down.weight", np.float16("nan").tobytes())
    with pytest.raises(ModelCorrupt, match=r"m\.gguf: blk\.1\.ffn_down\.weight"):
        loading.packed(weights, AS_IN_THE_FILE)


def test_a_packing_process_that_is_killed_is_an_error_that_names_memory(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = weights.with_name("python")
    shell.write_text("#!/bin/sh\nkill -9 $$\n", "utf-8")
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    with pytest.raises(EngineError, match="free memory"):
        loading.packed(weights, AS_IN_THE_FILE)


@pytest.mark.parametrize("what", ["cut short", "not ours", "empty"])
@pytest.mark.usefixtures("here")
def test_a_damaged_packed_file_is_made_again(weights: Path, what: str) -> None:
    exact, path = logits(weights, AS_IN_THE_FILE), loading.packed(weights, AS_IN_THE_FILE)
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[:-64], "not ours": whole.replace(b'"dure"', b'"else"', 1), "empty": b""}[what])
    assert np.array_equal(logits(weights, AS_IN_THE_FILE), exact)
    assert path.read_bytes() == whole


def narrowed(weights: Path, name: str) -> None:
    """Codes from -2 to 1 for that tensor."""
    tensor = gguf.read(weights).tensors[name]
    blocks = np.zeros((tensor.num_bytes // 34, 34), np.int8)
    blocks[:, :2] = np.full(len(blocks), 0.5, "<f2").view(np.int8).reshape(-1, 2)
    blocks[:, 2:] = np.random.default_rng(4).integers(-2, 2, (len(blocks), 32))
    broken(weights, name, blocks.tobytes())


def test_matrices_are_packed_in_the_fewest_bits_that_hold_them(weights: Path) -> None:
    narrowed(weights, "blk.0.ffn_down.weight")
    # Fused with others, which need more.
    narrowed(weights, "blk.1.attn_q.weight")
    pack(weights, weights.with_name("packed"))
    found = packed_file.PackedFile.open(weights.with_name("packed"))
    assert found.info["0.down"][2] == 2
    assert found.info["1.down"][2] == found.info["1.qkv"][2] == 8
    source = gguf.read(weights)
    tensor = source.tensors["blk.0.ffn_down.weight"]
    wanted = dequantize(b"".join(gguf.rows(source, tensor)), tensor.type, tensor.shape[0])
    assert np.array_equal(unpacked(loading.matrix(found, "0.down")), wanted)


@pytest.mark.parametrize("changed", ["_cpu", "_FORMAT"])
@pytest.mark.usefixtures("here")
def test_packed_weights_of_another_cpu_or_release_are_not_used(
    weights: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    old = loading.packed(weights, AS_IN_THE_FILE)
    monkeypatch.setattr(loading, changed, (lambda: "flags: other") if changed == "_cpu" else loading._FORMAT + 1)
    new = loading.packed(weights, AS_IN_THE_FILE)
    assert new != old
    assert new.exists()
    assert not old.exists()


def test_a_full_disk_is_named_and_leaves_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_file.Writer, "finish", full)
    with pytest.raises(ModelError, match="No space left on device"):
        pack(weights, weights.with_name("packed"))
    assert {path.name for path in weights.parent.iterdir()} == {"checkpoint", "m.gguf"}


def test_progress_is_told_in_tenths(weights: Path) -> None:
    command = [sys.executable, "-m", "dure_worker.engines.ark.packing", str(weights), str(weights) + ".packed", "{}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = done.stdout.split("\n")
    assert told[-2] == "100 %"
    assert len(told) == 8 + 1, "one for each matrix of two layers"
