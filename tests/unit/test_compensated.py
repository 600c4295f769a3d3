"""K blocks taken apart and put together; rounding that undoes in later columns what it did to earlier ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dure.gguf import TensorType

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_worker.engines.ark.blocks import Floats, NotReadable  # noqa: E402
from dure_workshop.dequantize import quantize, read_by_runtime  # noqa: E402
from dure_workshop.quantize.compensated import Inputs, Order, compensated, loss  # noqa: E402
from dure_workshop.quantize.k_blocks import KINDS, KBlocks  # noqa: E402

_KINDS = sorted(KINDS)
_COLUMNS = 512


def numbers(num_rows: int = 16) -> Floats:
    return np.random.default_rng(3).normal(size=(num_rows, _COLUMNS)).astype(np.float32)


def inputs(num_rows: int = 3000) -> "torch.Tensor":
    """Columns that hang together, some of them large."""
    random = torch.Generator().manual_seed(5)
    mixing = torch.randn(_COLUMNS, _COLUMNS, generator=random) / _COLUMNS**0.5
    sizes = torch.rand(_COLUMNS, generator=random) * 2 + 0.1
    own = torch.randn(num_rows, _COLUMNS, generator=random)
    return (own @ mixing + 0.3 * torch.randn(num_rows, _COLUMNS, generator=random)) * sizes


def order(x: "torch.Tensor", **options: int) -> Order:
    found = Inputs(x.shape[1], **options)
    for start in range(0, len(x), 700):
        found.add(x[start : start + 700])
    return found.order()


def fitted(weights: Floats, kind: TensorType, known: Order) -> Floats:
    with ThreadPoolExecutor(2) as pool:
        raw = compensated(torch.from_numpy(weights), kind, known, pool)
    return read_by_runtime(raw, kind, weights.shape[1])


def lost(x: "torch.Tensor", weights: Floats, found: Floats) -> float:
    """Share of the output's energy."""
    left = x @ torch.from_numpy(weights - found).T
    return float(left.square().sum() / (x @ torch.from_numpy(weights).T).square().sum())


@pytest.mark.parametrize("kind", _KINDS)
def test_a_block_is_put_together_to_the_byte(kind: TensorType) -> None:
    raw = quantize(numbers(), kind, np.linspace(0.1, 3, _COLUMNS, dtype=np.float32))
    found = KBlocks.of(raw, kind)
    assert found.with_codes(found.codes).raw.tobytes() == raw
    assert found.with_own(*found.own).raw.tobytes() == raw
    assert found.codes.min() == found.low
    assert found.codes.max() == found.high


@pytest.mark.parametrize("kind", _KINDS)
def test_the_runtime_reads_what_was_put_together(kind: TensorType) -> None:
    found = KBlocks.of(quantize(numbers(), kind), kind)
    random = np.random.default_rng(7)
    codes = random.integers(found.low, found.high + 1, size=found.codes.shape).astype(np.int8)
    own = [random.normal(size=each.shape).astype(np.float32) for each in found.own]
    changed = found.with_codes(codes).with_own(*own)
    assert np.array_equal(changed.codes, codes)
    assert all(np.array_equal(new, each.astype(np.float16)) for new, each in zip(changed.own, own, strict=True))
    read = read_by_runtime(changed.raw.tobytes(), kind, _COLUMNS).reshape(-1, 256)
    assert np.allclose(read, changed.numbers(), rtol=1e-6, atol=1e-6)
    of_own = sum(base * number for base, number in zip(changed.bases, changed.own, strict=True))
    assert np.allclose(read, of_own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_random_bytes_are_a_block_too(kind: TensorType) -> None:
    """Every bit of codes and small factors is where the runtime has it."""
    raw = np.random.default_rng(11).integers(0, 256, size=quantize(numbers(), kind).__len__()).astype(np.uint8)
    found = KBlocks.of(raw.tobytes(), kind).with_own(*[np.ones_like(each) for each in KBlocks.of(raw, kind).own])
    read = read_by_runtime(found.raw.tobytes(), kind, _COLUMNS).reshape(-1, 256)
    assert np.array_equal(read, found.numbers())
    assert np.array_equal(found.with_codes(found.codes).raw, found.raw)


@pytest.mark.parametrize("kind", [TensorType.Q4_0, TensorType.Q6_K, TensorType.IQ4_NL, TensorType.F16])
def test_blocks_of_another_layout_are_refused(kind: TensorType) -> None:
    with pytest.raises(NotReadable, match=rf"kind {kind.name} are no K blocks: take one of Q2_K, Q3_K, Q4_K, Q5_K"):
        KBlocks.of(bytes(210), kind)


@pytest.mark.parametrize("kind", _KINDS)
def test_less_is_lost_where_inputs_hang_together(kind: TensorType) -> None:
    weights, x = numbers(64), inputs()
    known = order(x)
    by_importance = read_by_runtime(quantize(weights, kind, known.mean_square.numpy()), kind, _COLUMNS)
    assert 0 < lost(x, weights, fitted(weights, kind, known)) < 0.85 * lost(x, weights, by_importance)


def test_what_is_lost_is_told_as_the_output_has_it() -> None:
    x, left = inputs(), torch.from_numpy(numbers())
    found, energy = Inputs(_COLUMNS), float((x @ left.T).square().sum() / len(x))
    found.add(x)
    assert loss(left, found.order(damping=1e-6)) == pytest.approx(energy, rel=1e-3)
    # Damping counts as inputs that are independent of each other.
    assert energy < loss(left, order(x)) < 1.1 * energy


def test_columns_of_two_parts_are_independent() -> None:
    """What the second part does to the output does not change what is rounded in the first."""
    weights, x = numbers(), inputs()
    known = order(x, most_columns=256)
    assert [part.columns for part in known.parts] == [slice(0, 256), slice(256, 512)]
    other = weights.copy()
    other[:, :256] *= 3
    found, changed = (fitted(each, TensorType.Q2_K, known) for each in (weights, other))
    assert np.array_equal(found[:, 256:], changed[:, 256:])
    assert not np.array_equal(found[:, :256], changed[:, :256])


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    weights, known = numbers(), order(inputs())
    alone = fitted(weights[:1], TensorType.Q3_K, known)
    assert np.allclose(alone, fitted(weights, TensorType.Q3_K, known)[:1], atol=1e-3)


@pytest.mark.parametrize("kind", _KINDS)
def test_inputs_that_say_nothing_do_no_harm(kind: TensorType) -> None:
    """Zeros; fewer rows than columns; and weights that are zero, of a whole block or all."""
    weights = numbers()
    weights[:, :256] = 0
    for x in (torch.zeros(10, _COLUMNS), inputs(8), inputs(8).clone().index_fill_(1, torch.arange(0, 512, 3), 0)):
        known = order(x)
        for given in (weights, np.zeros_like(weights)):
            found = fitted(given, kind, known)
            assert np.isfinite(found).all()
            assert not found[:, :256].any() or kind is TensorType.Q3_K
            assert np.abs(found - given).max() < 3


def test_the_order_of_summing_does_not_matter() -> None:
    x = inputs(900)
    whole = Inputs(_COLUMNS)
    whole.add(x)
    one, many = whole.order().parts[0], order(x).parts[0]
    assert torch.allclose(one.feedback, many.feedback, atol=1e-3)
    assert torch.allclose(one.worth, many.worth, rtol=1e-3)
