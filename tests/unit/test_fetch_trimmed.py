"""A model that is made here from another: base fetched, vocabulary cut, checked, and the base let go again."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import tiny_gguf
from dure import artifact, catalog, gguf
from dure.catalog import CatalogModel, Trimming
from dure.errors import ModelCorrupt, ModelError, ModelUnavailable
from dure.settings import Settings
from dure_workshop.fetch import Fetcher, is_verified
from dure_workshop.trim.gguf_file import trim

SIZE = 10_000


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CatalogModel, CatalogModel]:
    """Base and trimmed model in a catalogue of their own; the base's file lies in the user's folder."""
    own = tmp_path / "own"
    own.mkdir()
    tiny_gguf.write(own / "base.gguf")
    trim(gguf.read(own / "base.gguf"), tmp_path / "made.gguf", {"korean"}, SIZE)
    base, made = (own / "base.gguf").read_bytes(), (tmp_path / "made.gguf").read_bytes()
    common = {"title": "가짜", "licence": "Apache-2.0"}
    found = (
        CatalogModel(
            "base", filename="base.gguf", num_bytes=len(base), sha256=sha(base), hub_repository="x/y", **common
        ),
        CatalogModel(
            "made", filename="made.gguf", num_bytes=len(made), sha256=sha(made),
            made_by=Trimming("base", ("korean",), SIZE), **common,
        ),
    )  # fmt: skip
    monkeypatch.setattr(catalog, "CATALOG", {model.name: model for model in found})
    return found


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(tmp_path: Path, model: CatalogModel) -> Path:
    settings = Settings.read({}, home=tmp_path / "home", hub_url="", model_source=tmp_path / "own")
    return Fetcher(settings, Console(file=io.StringIO())).fetch(model)


def test_it_is_made_from_its_base_which_then_goes(tmp_path: Path, models: tuple[CatalogModel, CatalogModel]) -> None:
    path = fetch(tmp_path, models[1])
    assert is_verified(path, models[1])
    assert "漢字" not in str(gguf.read(path).get("tokenizer.ggml.tokens"))
    assert sorted(folder.name for folder in (tmp_path / "home" / "models").iterdir()) == ["made"]
    names = {file.name for file in path.parent.iterdir()} - {"fetch.lock"}
    assert names == {"model.gguf", "manifest.json", "verified.json"}
    manifest = artifact.read(path.parent)
    assert manifest is not None
    assert manifest.made["base_sha256"] == models[0].sha256
    assert manifest.vocabulary["han/kana"]["before"] > manifest.vocabulary["han/kana"]["after"] == 0
    assert sum(row["after"] for row in manifest.vocabulary.values()) == manifest.tokenizer["tokens"]


def test_a_base_that_was_there_before_stays(tmp_path: Path, models: tuple[CatalogModel, CatalogModel]) -> None:
    base = fetch(tmp_path, models[0])
    fetch(tmp_path, models[1])
    assert is_verified(base, models[0])


def test_one_that_was_made_elsewhere_is_taken_as_it_is(
    tmp_path: Path, models: tuple[CatalogModel, CatalogModel]
) -> None:
    (tmp_path / "made.gguf").rename(tmp_path / "own" / "made.gguf")
    (tmp_path / "own" / "base.gguf").unlink()
    assert is_verified(fetch(tmp_path, models[1]), models[1])


def test_without_its_base_it_cannot_be_had_and_the_reason_names_the_base(
    tmp_path: Path, models: tuple[CatalogModel, CatalogModel]
) -> None:
    (tmp_path / "own" / "base.gguf").unlink()
    with pytest.raises(ModelUnavailable, match="base cannot be had"):
        fetch(tmp_path, models[1])


def test_other_bytes_than_the_catalogue_names_are_not_served(
    tmp_path: Path, models: tuple[CatalogModel, CatalogModel]
) -> None:
    wrong = replace(models[1], sha256="0" * 64)
    with pytest.raises(ModelCorrupt):
        fetch(tmp_path, wrong)
    assert not (tmp_path / "home" / "models" / "made" / "model.gguf").exists()


def test_a_disk_that_is_full_half_way_leaves_nothing_half_made(
    tmp_path: Path, models: tuple[CatalogModel, CatalogModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "padding", no_space)
    with pytest.raises(ModelError, match="No space left on device"):
        fetch(tmp_path, models[1])
    assert not list((tmp_path / "home" / "models" / "made").rglob("*.gguf*"))
