"""Scales learn while codes stay: numbers are the file's, gradients are right, what is written is what was learnt."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure import gguf
from dure.errors import ModelCorrupt, ModelError, ModelUnsupported, SettingsError
from dure.gguf import BLOCKS, Gguf, TensorType, Value, ValueType

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("peft", reason="the extra `workshop` is not installed")
pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")

from dure_worker.engines.hf.loading import load  # noqa: E402
from dure_workshop.dequantize import WRITABLE, Floats, quantize, read_by_runtime, rows  # noqa: E402
from dure_workshop.training.blocks import LAYOUTS, rescaled, taken_apart  # noqa: E402
from dure_workshop.training.dataset import Sample  # noqa: E402
from dure_workshop.training.scaled_linear import ScaledLinear  # noqa: E402
from dure_workshop.training.scales import scaled, written  # noqa: E402
from dure_workshop.training.student import Student  # noqa: E402
from dure_workshop.trim.gguf_file import write  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

KINDS = sorted(LAYOUTS)
WITH_MINIMA = [kind for kind in KINDS if LAYOUTS[kind].minimum is not None]
COLUMNS, ROWS = 768, 5
IDS = list(range(3, 40))


def raw_of(kind: TensorType, seed: int = 0) -> bytes:
    """Rows of any codes and any scales: what a quantizer would never write as well."""
    dice = np.random.default_rng(seed)
    weights, size = BLOCKS[kind]
    blocks = dice.integers(0, 256, (ROWS * COLUMNS // weights, size), np.uint8)
    for at in (LAYOUTS[kind].scale, LAYOUTS[kind].minimum):
        if at is not None:
            scales = dice.normal(0, 0.01, (len(blocks), 1)).astype("<f2")
            blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.tobytes()


def linear_of(kind: TensorType, dtype: torch.dtype = torch.float32) -> ScaledLinear:
    return ScaledLinear(taken_apart(raw_of(kind), kind, COLUMNS), None, dtype)


def change(linear: ScaledLinear, by: float = 0.3) -> None:
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in linear.parameters():
            each.copy_((torch.rand(each.shape, generator=dice) * 2 - 1) * by)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_runtime(kind: TensorType) -> None:
    wanted = read_by_runtime(raw_of(kind), kind, COLUMNS)
    found = linear_of(kind).weight().numpy()
    assert found.shape == (ROWS, COLUMNS)
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_every_kind_that_quantize_writes_can_learn() -> None:
    assert LAYOUTS.keys() >= WRITABLE - {TensorType.F32, TensorType.F16, TensorType.BF16}


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_with_their_own_scales_are_the_same_bytes(kind: TensorType) -> None:
    raw = raw_of(kind)
    blocks = taken_apart(raw, kind, COLUMNS)
    assert rescaled(raw, kind, blocks.scales, blocks.minima) == raw


@pytest.mark.parametrize("kind", KINDS)
def test_other_scales_change_no_other_byte(kind: TensorType) -> None:
    raw, linear = raw_of(kind), linear_of(kind)
    change(linear)
    new = rescaled(raw, kind, *linear.grown())
    wanted = linear.weight().numpy()
    # float16 keeps 11 bits, of small numbers fewer.
    assert np.abs(read_by_runtime(new, kind, COLUMNS) - wanted).max() <= 2e-3 * np.abs(wanted).max()
    places = {at + n for at in (LAYOUTS[kind].scale, LAYOUTS[kind].minimum) if at is not None for n in (0, 1)}
    before, after = (np.frombuffer(each, np.uint8).reshape(-1, BLOCKS[kind][1]) for each in (raw, new))
    assert set(np.flatnonzero((before != after).any(0)).tolist()) == places


@pytest.mark.parametrize("number", [np.inf, np.nan, 70_000.0])
def test_scales_that_float16_does_not_hold_are_refused(number: float) -> None:
    raw = raw_of(TensorType.Q2_K)
    blocks = taken_apart(raw, TensorType.Q2_K, COLUMNS)
    assert blocks.minima is not None
    blocks.minima[-1, -1] = number
    with pytest.raises(SettingsError, match="float16 holds: train again with a smaller rate"):
        rescaled(raw, TensorType.Q2_K, blocks.scales, blocks.minima)


def dense(linear: ScaledLinear, weights: int) -> torch.Tensor:
    """(columns, rows), by the formula, for autograd."""
    group = linear.in_features // len(linear.multipliers)
    codes = linear.codes.double() * linear.multipliers.double().repeat_interleave(group, 0)
    found = (linear.scales.double() * (1 + linear.scale_change)).repeat_interleave(weights, 0) * codes
    if linear.minimum_change is not None:
        assert linear.minima is not None
        assert linear.offsets is not None
        minima = (linear.minima.double() * (1 + linear.minimum_change)).repeat_interleave(weights, 0)
        found = found - minima * linear.offsets.double().repeat_interleave(group, 0)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_gradients_are_those_of_the_formula(
    kind: TensorType, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two blocks at a time, and a piece that is not whole at the end.
    monkeypatch.setattr("dure_workshop.training.scaled_linear._PIECE_WEIGHTS", 2 * BLOCKS[kind][0] * ROWS)
    linear = linear_of(kind, dtype)
    change(linear)
    dice = torch.Generator().manual_seed(1)
    given = torch.randn(2, 7, COLUMNS, generator=dice).requires_grad_()
    towards = torch.randn(2, 7, ROWS, generator=dice)
    learning = [given, *linear.parameters()]
    assert len(learning) == (3 if kind in WITH_MINIMA else 2)
    product = linear(given)
    wanted_product = given.double() @ dense(linear, BLOCKS[kind][0])
    found = torch.autograd.grad((product * towards).sum(), learning)
    wanted = torch.autograd.grad((wanted_product * towards).sum(), learning)
    assert product.dtype is dtype
    for one, other in zip((product, *found), (wanted_product, *wanted), strict=True):
        assert one.shape == other.shape
        assert (one.double() - other.double()).norm() <= tolerance * other.double().norm()


def test_autocast_says_how_a_matrix_is_multiplied() -> None:
    linear, given = linear_of(TensorType.Q3_K), torch.ones(2, COLUMNS)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(given).dtype is torch.bfloat16
    assert linear(given).dtype is torch.float32


# What the parts of the tiny models become; with a hidden size of 256, K kinds fit.
PARTS = {
    "attn_q": TensorType.Q3_K, "attn_k": TensorType.Q4_K, "attn_v": TensorType.Q5_K, "attn_output": TensorType.Q5_0,
    "ffn_gate": TensorType.Q2_K, "ffn_up": TensorType.Q2_K, "ffn_down": TensorType.Q6_K,
}  # fmt: skip


def file_of(architecture: str, folder: Path, parts: dict[str, TensorType] = PARTS) -> Gguf:
    # Transformers takes Qwen3's heads for 128 wide, whatever the file says, and the others' for a share of the whole.
    heads, head_dim = (2, 128) if architecture == "qwen3" else (8, 32)
    made = ReferenceModel.make(architecture, hidden_size=256, num_attention_heads=heads, head_dim=head_dim)
    source = gguf.read(made.write(folder / "whole.gguf"))
    # Which the reference's writer takes for granted.
    for key, number in (("embedding_length", 256), ("attention.head_count", heads), ("attention.key_length", head_dim)):
        source.values[f"{architecture}.{key}"] = Value(ValueType.UINT32, number)
    alignment = gguf.alignment_of(source.values)
    tensors = [
        replace(
            tensor, type=parts.get(tensor.name.split(".")[-2], tensor.type) if len(tensor.shape) > 1 else tensor.type
        )
        for tensor in source.tensors.values()
    ]

    def weights() -> Iterator[bytes]:
        for tensor in tensors:
            yield quantize(numbers(source, tensor.name), tensor.type)
            yield gguf.padding(tensor.num_bytes, alignment)

    (folder / "model").mkdir()
    write(folder / "model" / "model.gguf", source.values, gguf.placed(tensors, alignment), weights(), lambda *_: None)
    return gguf.read(folder / "model" / "model.gguf")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Gguf]:
    made: dict[str, Gguf] = {}

    def one(architecture: str) -> Gguf:
        if architecture not in made:
            made[architecture] = file_of(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return one


def model_of(source: Gguf) -> torch.nn.Module:
    found: torch.nn.Module = load(source.path, "float32").model
    return found


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([IDS])).logits
    return found


def numbers(source: Gguf, name: str) -> Floats:
    tensor = source.tensors[name]
    if tensor.type in (TensorType.F32, TensorType.Q8_0):
        return rows(source, tensor, list(range(tensor.num_rows)))
    return read_by_runtime(b"".join(gguf.rows(source, tensor)), tensor.type, tensor.shape[0])


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_a_model_says_the_same_with_scales_that_learn(file: Callable[[str], Gguf], architecture: str) -> None:
    model = model_of(file(architecture))
    before = logits(model)
    scaled(model, file(architecture))
    assert sum(isinstance(each, ScaledLinear) for each in model.modules()) == 2 * len(PARTS)
    assert torch.allclose(logits(model), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_what_learnt_nothing_is_the_same_file(file: Callable[[str], Gguf], architecture: str, tmp_path: Path) -> None:
    source, model = file(architecture), model_of(file(architecture))
    scaled(model, source)
    steps: list[tuple[int, int]] = []
    written(model, source, tmp_path / "new.gguf", lambda *step: steps.append(step))
    assert (tmp_path / "new.gguf").read_bytes() == source.path.read_bytes()
    num_learning = len([name for name in source.tensors if name not in gguf.VOCABULARY])
    assert steps == [(done, num_learning) for done in range(1, num_learning + 1)]


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_the_file_says_what_the_model_has_learnt(
    file: Callable[[str], Gguf], architecture: str, tmp_path: Path
) -> None:
    source, model = file(architecture), model_of(file(architecture))
    scaled(model, source)
    dice = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each.copy_(torch.randn(each.shape, generator=dice) * 0.1)
    before, wanted = logits(model_of(source)), logits(model)
    written(model, source, tmp_path / "new.gguf")
    new = gguf.read(tmp_path / "new.gguf")
    found = logits(model_of(new))
    assert (new.values, new.tensors) == (source.values, source.tensors)
    assert (found - wanted).norm() < 0.005 * (before - wanted).norm()
    for name in source.tensors:
        is_same = np.array_equal(numbers(new, name), numbers(source, name))
        assert is_same == (name in gguf.VOCABULARY), name


def samples() -> list[Sample]:
    dice = np.random.default_rng(2)
    return [Sample(dice.integers(0, 250, 12).tolist(), [False, *[True] * 11]) for _ in range(4)]


@pytest.mark.parametrize("is_half", [False, True])
def test_a_student_learns_and_its_file_has_learnt(file: Callable[[str], Gguf], tmp_path: Path, is_half: bool) -> None:
    source, model = file("qwen2"), model_of(file("qwen2"))
    scaled(model, source)
    student = Student(model, "full", is_frugal=True, is_half=is_half)
    optimizer = torch.optim.AdamW(student.learning.values(), lr=0.01, weight_decay=0)
    found = []
    for _ in range(15):
        losses = student.losses(samples(), None)
        loss = losses.ce / losses.num_tokens
        found.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found[-1] < 0.7 * found[0]
    assert all(float(each.detach().abs().max()) > 0 for each in student.learning.values())
    written(model, source, tmp_path / "new.gguf")
    read = Student(model_of(gguf.read(tmp_path / "new.gguf")), "full").losses(samples(), None)
    assert float(read.ce.detach()) / read.num_tokens < 0.75 * found[0]


def test_only_scales_and_vectors_learn(file: Callable[[str], Gguf]) -> None:
    model = model_of(file("qwen2"))
    scaled(model, file("qwen2"))
    ends = {name.rpartition(".")[2] for name, each in model.named_parameters() if each.requires_grad}
    assert ends == {"scale_change", "minimum_change", "original"}
    assert not model.get_submodule("lm_head").weight.requires_grad
    scaled_alone = model_of(file("qwen2"))
    scaled(scaled_alone, file("qwen2"), learns_vectors=False)
    ends = {name.rpartition(".")[2] for name, each in scaled_alone.named_parameters() if each.requires_grad}
    assert ends == {"scale_change", "minimum_change"}


def test_kinds_without_scales_are_left_alone(tmp_path: Path) -> None:
    source = file_of("qwen2", tmp_path, PARTS | {"ffn_up": TensorType.F32, "attn_q": TensorType.F32})
    model = model_of(source)
    scaled(model, source)
    for name, module in model.named_modules():
        if name.endswith(("up_proj", "q_proj", "lm_head")):
            assert type(module) is not ScaledLinear, name
            assert isinstance(module, torch.nn.Linear), name
        elif name.endswith("_proj"):
            assert isinstance(module, ScaledLinear), name
    written(model, source, tmp_path / "new.gguf")
    assert (tmp_path / "new.gguf").read_bytes() == source.path.read_bytes()


def test_a_file_without_scales_is_refused(tmp_path: Path) -> None:
    source = file_of("qwen2", tmp_path, dict.fromkeys(PARTS, TensorType.F32))
    with pytest.raises(SettingsError, match=r"quantize it first \(`dure workshop quantize`\)"):
        scaled(model_of(source), source)


def test_another_architecture_is_refused(file: Callable[[str], Gguf]) -> None:
    source = file("qwen2")
    value = replace(source.values["general.architecture"], value="gemma3")
    other = replace(source, values=source.values | {"general.architecture": value})
    with pytest.raises(ModelUnsupported, match="take a model of llama, qwen2, qwen3"):
        scaled(model_of(source), other)


def test_another_models_file_is_refused(file: Callable[[str], Gguf]) -> None:
    with pytest.raises(ModelCorrupt, match="is not of the model's shape: take an intact file"):
        scaled(ReferenceModel.make("qwen2").model, file("qwen2"))


def test_nothing_is_left_where_nothing_can_be_written(file: Callable[[str], Gguf], tmp_path: Path) -> None:
    source, model = file("qwen2"), model_of(file("qwen2"))
    scaled(model, source)
    with pytest.raises(ModelError, match="cannot be written"):
        written(model, source, tmp_path / "nowhere" / "new.gguf")
    with torch.no_grad():
        model.get_submodule("model.layers.0.mlp.up_proj").scale_change.fill_(1e9)
    with pytest.raises(SettingsError, match="smaller rate"):
        written(model, source, tmp_path / "new.gguf")
    assert list(tmp_path.iterdir()) == []
