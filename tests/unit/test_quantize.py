"""Columns that count, bits where they gain most, and the file that comes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dure import gguf
from dure.errors import ModelCorrupt, SettingsError
from dure.gguf import BLOCKS, TensorType

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_workshop.calibrate import Importance, calibrate  # noqa: E402
from dure_workshop.dequantize import WRITABLE, Floats, dequantize, quantize, read_by_runtime, rounded, rows  # noqa: E402
from dure_workshop.quantize.gguf_file import requantized, size_of  # noqa: E402
from dure_workshop.quantize.mixture import Option, least_bytes, matrices, mix, options  # noqa: E402
from dure_workshop.trim.gguf_file import GgufModel  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

TEXT = "두레는 hello 123 漢字 か Ж. " * 40
READ_BY_NUMPY = [TensorType.Q4_0, TensorType.Q5_0, TensorType.Q8_0, TensorType.Q4_K, TensorType.Q6_K]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReferenceModel, gguf.Gguf]:
    made = ReferenceModel.make("qwen2", tie_word_embeddings=True)
    path = made.write(tmp_path_factory.mktemp("reference") / "model.gguf")
    return made, gguf.read(path)


@pytest.fixture(scope="module")
def importance(reference: tuple[ReferenceModel, gguf.Gguf]) -> Importance:
    return calibrate(reference[1], TEXT)


def numbers(num_rows: int = 8, row_weights: int = 512) -> Floats:
    return np.random.default_rng(3).normal(size=(num_rows, row_weights)).astype(np.float32)


@pytest.mark.parametrize("kind", READ_BY_NUMPY)
def test_the_runtime_reads_what_numpy_reads(kind: TensorType) -> None:
    given = numbers()
    assert np.allclose(rounded(given, kind), dequantize(quantize(given, kind), kind, 512), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(WRITABLE - {TensorType.F32, TensorType.F16, TensorType.BF16}))
def test_importance_lowers_the_error_of_what_counts(kind: TensorType) -> None:
    given = numbers(32)
    worth = np.ones(512, np.float32)
    worth[::7] = 100

    def error(left: Floats) -> float:
        return float((((given - left).astype(np.float64)) ** 2 * worth).sum())

    plain, weighed = error(rounded(given, kind)), error(rounded(given, kind, worth))
    assert 0 < weighed <= plain
    # Q8_0 has no choice to make.
    assert weighed < 0.97 * plain or kind is TensorType.Q8_0


def test_importance_is_what_comes_into_each_matrix(
    reference: tuple[ReferenceModel, gguf.Gguf], importance: Importance
) -> None:
    made, source = reference
    seen: dict[str, Any] = {}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down"}  # fmt: skip

    def record(name: str) -> Any:
        return lambda module, given: seen.__setitem__(name, seen.get(name, 0) + given[0].double().square().sum((0, 1)))

    for number, layer in enumerate(made.model.model.layers):
        for part, told in parts.items():
            layer.get_submodule(part).register_forward_pre_hook(record(f"blk.{number}.{told}.weight"))
    made.model.lm_head.register_forward_pre_hook(record("token_embd.weight"))
    segmenter = GgufModel(source).segmenter
    assert segmenter is not None
    ids = segmenter.encode(TEXT)
    for start in range(0, len(ids), 512):
        made.logits(ids[start : start + 512])
    assert importance.num_tokens == len(ids)
    for name, total in seen.items():
        wanted = (total / len(ids)).numpy()
        assert importance.columns[name] == pytest.approx(wanted, rel=0.1, abs=0.02 * float(wanted.mean())), name
    assert np.array_equal(importance.columns["blk.0.attn_q.weight"], importance.columns["blk.0.attn_v.weight"])


def test_importance_is_kept(
    reference: tuple[ReferenceModel, gguf.Gguf], importance: Importance, tmp_path: Path
) -> None:
    source = reference[1]
    importance.write(tmp_path / "found", source, TEXT)
    found = Importance.read(tmp_path / "found", source)
    assert found.num_tokens == importance.num_tokens
    assert found.columns.keys() == importance.columns.keys()
    assert all(np.array_equal(found.columns[name], each) for name, each in importance.columns.items())


def test_importance_of_another_model_is_refused(importance: Importance, tmp_path: Path) -> None:
    other = gguf.read(ReferenceModel.make("llama").write(tmp_path / "other.gguf"))
    importance.write(tmp_path / "found", other, TEXT)
    with pytest.raises(SettingsError, match=r"is of another model .* `dure workshop calibrate`"):
        Importance.read(tmp_path / "found", other)


def test_what_is_no_importance_is_refused(reference: tuple[ReferenceModel, gguf.Gguf], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Importance.read(tmp_path / "nowhere", reference[1])
    (tmp_path / "found").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelCorrupt, match="no importance: make it"):
        Importance.read(tmp_path / "found", reference[1])


def test_no_text_is_refused(reference: tuple[ReferenceModel, gguf.Gguf]) -> None:
    with pytest.raises(SettingsError, match="the text is empty"):
        calibrate(reference[1], "")


def test_more_bits_lose_less(reference: tuple[ReferenceModel, gguf.Gguf], importance: Importance) -> None:
    source = reference[1]
    for tensor in matrices(source):
        found = options(source, tensor, importance)
        losses, sizes = [option.loss for option in found], [option.num_bytes for option in found]
        assert losses == sorted(losses, reverse=True)
        assert sizes == sorted(set(sizes))
        # What it is already, at no loss and at its own size.
        assert (found[-1].kind, found[-1].loss, found[-1].num_bytes) == (TensorType.Q8_0, 0, tensor.num_bytes)


def made_up(*steps: tuple[int, float]) -> list[Option]:
    return [Option(TensorType.Q4_0, num_bytes, loss) for num_bytes, loss in steps]


def test_bits_go_where_they_gain_most(reference: tuple[ReferenceModel, gguf.Gguf]) -> None:
    source = reference[1]
    names = [tensor.name for tensor in matrices(source)][:3]
    others = sum(tensor.num_bytes for name, tensor in source.tensors.items() if name not in names)
    choices = dict(
        zip(
            names,
            [made_up((10, 0.5), (20, 0.1)), made_up((10, 0.5), (30, 0.4)), made_up((10, 0.2), (12, 0.1), (14, 0.09))],
            strict=True,
        )
    )

    def sizes(most: int) -> list[int]:
        return [option.num_bytes for option in mix(source, choices, others + most).values()]

    assert sizes(30) == [10, 10, 10]
    assert sizes(32) == [10, 10, 12]
    # The best does not fit, the next does.
    assert sizes(39) == [10, 10, 14]
    assert sizes(42) == [20, 10, 12]
    assert sizes(43) == [20, 10, 12]
    assert sizes(10**6) == [20, 30, 14]
    with pytest.raises(SettingsError, match=r"too few: model\.gguf needs .*`dure model trim`"):
        sizes(29)


def test_the_file_is_as_it_was_chosen(
    reference: tuple[ReferenceModel, gguf.Gguf], importance: Importance, tmp_path: Path
) -> None:
    source = reference[1]
    choices = {tensor.name: options(source, tensor, importance) for tensor in matrices(source)}
    most = size_of(source).num_bytes * 3 // 4
    mixture = mix(source, choices, most)
    steps: list[tuple[int, int]] = []
    requantized(source, tmp_path / "new.gguf", mixture, importance, 2, lambda *step: steps.append(step))
    found = gguf.read(tmp_path / "new.gguf")
    assert found.tensors.keys() == source.tensors.keys()
    assert {name: found.tensors[name].type for name in mixture} == {name: one.kind for name, one in mixture.items()}
    assert len({one.kind for one in mixture.values()}) > 1
    assert most * 0.9 < size_of(found).num_bytes <= most
    assert steps[-1][0] == steps[-1][1]
    for name, tensor in source.tensors.items():
        new = found.tensors[name]
        before, after = (b"".join(gguf.rows(*each)) for each in ((source, tensor), (found, new)))
        if new.type is tensor.type:
            assert after == before, name
        else:
            numbers = rows(source, tensor, list(range(tensor.num_rows)))
            assert np.array_equal(
                read_by_runtime(after, new.type, tensor.shape[0]), rounded(numbers, new.type, importance.columns[name])
            ), name


def test_bits_count_every_tensor(reference: tuple[ReferenceModel, gguf.Gguf]) -> None:
    source = reference[1]
    size = size_of(source)
    assert size.num_weights == sum(parameter.numel() for parameter in reference[0].model.parameters())
    assert size.bits_per_weight > 8 * BLOCKS[TensorType.Q8_0][1] / BLOCKS[TensorType.Q8_0][0]


def test_what_it_costs_at_least_is_told(reference: tuple[ReferenceModel, gguf.Gguf]) -> None:
    source = reference[1]
    names = [tensor.name for tensor in matrices(source)][:2]
    others = sum(tensor.num_bytes for name, tensor in source.tensors.items() if name not in names)
    choices = dict(zip(names, [made_up((10, 0.5), (20, 0.1)), made_up((30, 0.5))], strict=True))
    assert least_bytes(source, choices) == others + 40
