"""The memory plan: what is counted, on shapes whose sizes are published, and on files that contradict themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure import catalog, gguf, known_models, memory_plan
from dure.budget import Budget
from dure.errors import ModelCorrupt
from dure.gguf import Tensor, TensorType, Value, ValueType
from dure.known_models import KNOWN
from dure.memory_plan import MIB, Load, Shape, kv_cache_bytes, plan, q4_k_m_bytes

QWEN = known_models.CATALOGUE_SHAPES["qwen2.5-coder-1.5b-instruct-q4_k_m"]
GEMMA = KNOWN["gemma-3-1b"].shape
# Of the Q4_K_M files that are on the model hub, in MB; and their billions of parameters, from the model cards.
PUBLISHED = {
    "exaone-4.0-1.2b": (812, 1.28), "qwen3-0.6b": (397, 0.596), "qwen3-1.7b": (1107, 1.72), "gemma-3-1b": (806, 1.00),
    "gemma-3-270m": (253, 0.268), "lfm2-350m": (229, 0.354), "lfm2-1.2b": (731, 1.17),
    "llama-3-korean-8b": (4920, 8.03),
    "polyglot-ko-1.3b": (None, 1.3318), "kanana-1.5-2.1b": (None, 2.09), "hyperclovax-seed-0.5b": (None, 0.57),
    "hyperclovax-seed-1.5b": (None, 1.585),
}  # fmt: skip


def tiny_values(num_tokens: int = 8, **changes: Value) -> dict[str, Value]:
    def number(value: int) -> Value:
        return Value(ValueType.UINT32, value)

    values = {
        "general.architecture": Value(ValueType.STRING, "qwen2"),
        "qwen2.block_count": number(2),
        "qwen2.embedding_length": number(64),
        "qwen2.feed_forward_length": number(128),
        "qwen2.attention.head_count": number(4),
        "qwen2.attention.head_count_kv": number(2),
        "tokenizer.ggml.tokens": Value(ValueType.ARRAY, [f"t{n}" for n in range(num_tokens)], ValueType.STRING),
    }
    return {name: value for name, value in (values | changes).items() if value.value is not None}


def tiny(path: Path, rows: int = 8, extra: tuple[str, ...] = (), **changes: Value) -> gguf.Gguf:
    values = tiny_values(**changes)
    names = ("token_embd.weight", "blk.0.ffn_gate.weight", *extra)
    tensors = gguf.placed([Tensor(name, (64, rows), TensorType.Q8_0, 0) for name in names], 32)
    size = sum(tensor.num_bytes + 32 for tensor in tensors)
    path.write_bytes(gguf.head(values, tensors) + bytes(size))
    return gguf.read(path)


@pytest.mark.parametrize("name", KNOWN)
def test_each_known_shape_has_the_parameters_and_the_file_size_that_are_published(name: str) -> None:
    megabytes, billions = PUBLISHED[name]
    shape = KNOWN[name].shape
    assert shape.num_parameters / 1e9 == pytest.approx(billions, rel=0.01)
    if megabytes:
        file = q4_k_m_bytes(shape) + known_models.HEADER_BYTES_PER_TOKEN * shape.vocab
        assert file / 1e6 == pytest.approx(megabytes, rel=0.02)


@pytest.mark.parametrize("name", known_models.CATALOGUE_SHAPES)
def test_a_models_file_is_predicted_from_its_shape_as_its_catalogue_entry_has_it(name: str) -> None:
    shape = known_models.CATALOGUE_SHAPES[name]
    file = q4_k_m_bytes(shape) + known_models.HEADER_BYTES_PER_TOKEN * shape.vocab
    assert file == pytest.approx(catalog.CATALOG[name].num_bytes, rel=0.015)


def test_every_model_of_the_catalogue_has_a_shape() -> None:
    assert set(known_models.CATALOGUE_SHAPES) == set(catalog.CATALOG)


@pytest.mark.parametrize("model", KNOWN.values(), ids=list(KNOWN))
def test_what_was_not_confirmed_says_what_speaks_for_it_and_scores_have_a_source(
    model: known_models.KnownModel,
) -> None:
    assert model.is_checked or model.note
    assert model.licence
    assert model.score is None or (0 < model.score.percent < 100 and "http" in model.score.source)


def test_the_kv_cache_is_a_key_and_a_value_of_each_layer_for_every_slots_context() -> None:
    assert kv_cache_bytes(QWEN, Load(slots=4, context=2048)) == 2 * 28 * 2 * 128 * 2 * 2048 * 4
    assert kv_cache_bytes(QWEN, Load(slots=1, context=1000)) == kv_cache_bytes(QWEN, Load(slots=1, context=1024))


def test_windowed_layers_hold_their_window_and_a_batch_and_global_ones_everything() -> None:
    assert GEMMA.num_windowed == 22
    cells = 4 * 8192 + 22 * (768 + 512)  # 512 + 64, in steps of 256; and the window once more, for the next turn
    assert kv_cache_bytes(GEMMA, Load(slots=1, context=8192)) == cells * GEMMA.kv_bytes_per_token(Load())


def test_a_context_within_the_window_costs_what_full_attention_costs_and_the_copy_of_the_window() -> None:
    full, load = replace(GEMMA, window=0), Load(slots=2, context=512)
    copies = 2 * 22 * 512 * GEMMA.kv_bytes_per_token(Load())
    assert kv_cache_bytes(GEMMA, load) == kv_cache_bytes(full, load) + copies


def test_a_vocabulary_without_merges_takes_less() -> None:
    with_merges = replace(GEMMA, has_merges=True)
    assert plan(0, GEMMA).engine < plan(0, with_merges).engine


def test_short_convolutions_have_no_kv_cache_but_a_small_state() -> None:
    lfm = KNOWN["lfm2-1.2b"].shape
    assert lfm.num_attention == 6
    per_slot = 2 * 6 * 8 * 64 * 2 * 2048 + 10 * 2 * 2048 * 4
    assert kv_cache_bytes(lfm, Load(slots=3)) == 3 * per_slot


def test_the_parts_add_up_and_the_reserve_is_not_the_workers() -> None:
    box = Budget(3 * 10**9)
    found = box.plan(10**9, QWEN, Load())
    assert found.needed == found.rss + found.margin + found.reserve
    assert found.reserve == box.reserve > 0
    assert found.korean_editor == 335 * MIB
    assert plan(10**9, QWEN, Load(has_editor=False)).korean_editor == 0
    assert Budget(found.needed).holds(found)
    assert not Budget(found.needed - 1).holds(found)


def test_the_prompt_cache_is_counted_up_to_its_limit() -> None:
    assert plan(0, QWEN, Load(prompt_cache_bytes=0)).prompt_cache == 0
    assert plan(0, QWEN, Load(slots=1, context=8192, prompt_cache_bytes=64 * MIB)).prompt_cache == 64 * MIB


@given(
    slots=st.integers(1, 63), context=st.integers(256, 60_000), more=st.integers(1, 4096),
    name=st.sampled_from(sorted(KNOWN)),
)  # fmt: skip
def test_more_slots_or_a_longer_context_never_need_less(slots: int, context: int, more: int, name: str) -> None:
    shape = KNOWN[name].shape
    here = plan(0, shape, Load(slots, context)).needed
    assert here <= plan(0, shape, Load(slots, context + more)).needed
    assert here < plan(0, shape, Load(slots + 1, context)).needed


def test_the_eight_billion_model_fits_no_small_box_and_the_default_one_does() -> None:
    big = KNOWN["llama-3-korean-8b"].shape
    assert not Budget(3 << 30).holds(plan(q4_k_m_bytes(big), big, Load(slots=1, context=512)))
    assert Budget(3 * 10**9).holds(plan(q4_k_m_bytes(QWEN), QWEN))


def test_a_files_header_gives_weights_and_shape(tmp_path: Path) -> None:
    weights, shape = memory_plan.of_gguf(tiny(tmp_path / "m.gguf", extra=("output.weight",)))
    assert weights == 3 * 8 * 68
    assert shape == Shape(2, 64, 4, 2, 16, 128, 8, is_tied=False)


@pytest.mark.parametrize(("kind", "num_bytes"), [("bf16", 2), ("nf4", 2), ("float32", 4)])
def test_transformers_unpacks_the_file_that_it_maps(tmp_path: Path, kind: str, num_bytes: int) -> None:
    source = tiny(tmp_path / "m.gguf", extra=("output.weight",))
    in_file, shape = memory_plan.of_gguf(source)
    sizes = [tensor.num_weights for tensor in source.tensors.values()]
    weights, _ = memory_plan.of_gguf(source, "transformers", kind)
    assert weights == sum(sizes) * num_bytes + max(sizes) * 4 + in_file
    load = Load(2, 512, engine="transformers", weights=kind)
    kv = 2 * 512 * shape.layers * 2 * shape.kv_heads * shape.head_dim
    assert plan(weights, shape, load).kv_cache == kv * num_bytes


def test_a_header_with_a_number_for_each_layer_tells_convolutions_by_their_lack_of_kv_heads(tmp_path: Path) -> None:
    per_layer = Value(ValueType.ARRAY, [0, 2], ValueType.INT32)
    _, shape = memory_plan.of_gguf(tiny(tmp_path / "m.gguf", **{"qwen2.attention.head_count_kv": per_layer}))
    assert (shape.num_conv, shape.kv_heads, shape.num_attention) == (1, 2, 1)


@pytest.mark.parametrize(("architecture", "window"), [("gemma3", 512), ("qwen2", 0)])
def test_a_window_counts_only_where_the_engine_bounds_its_layers(
    tmp_path: Path, architecture: str, window: int
) -> None:
    values = tiny_values(**{"qwen2.attention.sliding_window": Value(ValueType.UINT32, 512)})
    renamed = {name.replace("qwen2.", f"{architecture}."): value for name, value in values.items()}
    renamed["general.architecture"] = Value(ValueType.STRING, architecture)
    source = tiny(tmp_path / "m.gguf")
    _, shape = memory_plan.of_gguf(replace(source, values=renamed))
    assert shape.window == window


@pytest.mark.parametrize(
    "lacking",
    [
        "qwen2.block_count", "qwen2.embedding_length", "qwen2.feed_forward_length", "qwen2.attention.head_count",
        "general.architecture",
    ],
)  # fmt: skip
def test_a_file_that_does_not_say_its_shape_is_named(tmp_path: Path, lacking: str) -> None:
    nothing: dict[str, Any] = {lacking: Value(ValueType.UINT32, None)}
    with pytest.raises(ModelCorrupt, match="does not say its shape"):
        memory_plan.of_gguf(tiny(tmp_path / "m.gguf", **nothing))


@pytest.mark.parametrize("key", ["qwen2.block_count", "qwen2.attention.head_count", "qwen2.embedding_length"])
@pytest.mark.parametrize("value", [0, "many"])
def test_a_file_with_an_impossible_shape_is_named(tmp_path: Path, key: str, value: object) -> None:
    kind = ValueType.STRING if isinstance(value, str) else ValueType.UINT32
    with pytest.raises(ModelCorrupt, match="does not say its shape"):
        memory_plan.of_gguf(tiny(tmp_path / "m.gguf", **{key: Value(kind, value)}))


@pytest.mark.parametrize("rows", [7, 9])
@pytest.mark.parametrize("tensor", ["token_embd.weight", "output.weight"])
def test_rows_that_are_not_as_many_as_tokens_are_named(tmp_path: Path, rows: int, tensor: str) -> None:
    source = tiny(tmp_path / "m.gguf", extra=("output.weight",))
    broken = dict(source.tensors) | {tensor: replace(source.tensors[tensor], shape=(64, rows))}
    with pytest.raises(ModelCorrupt, match=f"{tensor} has {rows} rows for 8 tokens"):
        gguf.num_tokens(replace(source, tensors=broken))


def test_a_file_without_embeddings_is_no_language_model(tmp_path: Path) -> None:
    source = tiny(tmp_path / "m.gguf")
    with pytest.raises(ModelCorrupt, match="no embeddings"):
        memory_plan.of_gguf(replace(source, tensors={}))


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Kanana-1.5-2.1B", "kanana-1.5-2.1b"), ("exaone_4.0_1.2B", "exaone-4.0-1.2b"), ("qwen3 0.6b", "qwen3-0.6b"),
        ("Qwen/Qwen3-0.6B", "qwen3-0.6b"), ("HyperCLOVAX-SEED-0.5B", "hyperclovax-seed-0.5b"),
        ("Gemma-3-270M", "gemma-3-270m"), ("Polyglot-ko-1.3B", "polyglot-ko-1.3b"), ("LFM2-350M", "lfm2-350m"),
    ],
)  # fmt: skip
def test_a_known_model_is_found_however_its_name_is_written(typed: str, name: str) -> None:
    found = known_models.find(typed)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("typed", ["", "qwen", "gpt-4", "/", "케이"])
def test_a_name_that_is_none_finds_nothing(typed: str) -> None:
    assert known_models.find(typed) is None


def test_the_nearest_name_is_offered_and_none_where_nothing_is_near() -> None:
    assert known_models.nearest("kanana-1.5-2b", []) == "kanana-1.5-2.1b"
    assert known_models.nearest("qwen2.5-coder-1.5b-koraen", list(catalog.CATALOG)) == "qwen2.5-coder-1.5b-korean"
    assert known_models.nearest("zzz", list(catalog.CATALOG)) is None


@pytest.mark.parametrize(("engine", "least", "most"), [("llama", 0.5, 0.55), ("ark", 0.5, 0.55)])
def test_eight_bits_take_half_the_cache(engine: str, least: float, most: float) -> None:
    whole, half = (plan(1, GEMMA, Load(engine=engine, kv_bits=bits)).kv_cache for bits in (16, 8))
    assert least < half / whole < most
