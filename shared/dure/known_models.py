"""Korean models that a user may ask about, with their shapes: what `dure model plan` and `recommend` know of them.

Shapes are those of each model's config.json on the model hub. is_checked: that file, a copy of it or of the model's
card was read when this list was made; where it was not, `note` says what speaks for the numbers.

Scores are the makers' own. Two benchmarks cannot be compared, not even roughly: Gemma 3 1B has 30.8 on KMMLU and 19.4
on KMMLU-Redux.
"""

import difflib
import re
from dataclasses import dataclass
from functools import partial

from dure.memory_plan import Shape


@dataclass(frozen=True)
class Score:
    """A published result on a Korean benchmark, in percent."""

    benchmark: str
    percent: float
    source: str


@dataclass(frozen=True)
class KnownModel:
    """None of these can be had from a package index today. note: what speaks for an unchecked shape."""

    name: str
    title: str
    hub: str  # repository on the model hub, whose config.json gave the shape
    licence: str
    shape: Shape
    is_checked: bool
    score: Score | None = None
    note: str = ""
    is_base: bool = False  # continues text and cannot chat
    is_convertible: bool = False  # a checkpoint that `dure model add` converts itself (dure/engines.py)

    @property
    def command(self) -> str:
        """How to take it."""
        if self.is_convertible:
            return f"hf download {self.hub} --local-dir {self.name} && dure model add {self.name}"
        return f"dure model add {self.name}.gguf  # {self.hub}"


_EXAONE = "https://github.com/LG-AI-EXAONE/EXAONE-4.0 (non-reasoning mode)"
_HYPERCLOVA = "https://huggingface.co/naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-1.5B"
_GEMMA_TERMS = "Gemma terms"
_gemma_3 = partial(Shape, window=512, global_every=6, has_merges=False)

_MODELS = (
    KnownModel(
        name="kanana-1.5-2.1b",
        title="Kanana 1.5 2.1B Instruct (Kakao)",
        hub="kakaocorp/kanana-1.5-2.1b-instruct-2505",
        licence="Apache-2.0",
        shape=Shape(32, 1792, 24, 8, 128, 8064, 128_256),
        is_convertible=True,
        is_checked=True,
        score=Score("KMMLU", 45.1, "https://github.com/kakao/kanana (base model, 5-shot)"),
        note="shape read from a fine-tuned copy",
    ),
    KnownModel(
        name="exaone-4.0-1.2b",
        title="EXAONE 4.0 1.2B (LG AI Research)",
        hub="LGAI-EXAONE/EXAONE-4.0-1.2B",
        licence="EXAONE 1.2 (no commercial use)",
        shape=Shape(30, 2048, 32, 8, 64, 4096, 102_400),
        is_checked=False,
        score=Score("KMMLU-Redux", 40.4, _EXAONE),
        note="config.json was not at hand; the shape has the 1.28 billion parameters that the card states",
    ),
    KnownModel(
        name="hyperclovax-seed-1.5b",
        title="HyperCLOVA X SEED Text Instruct 1.5B (NAVER)",
        hub="naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-1.5B",
        licence="HyperCLOVA X SEED",
        shape=Shape(24, 2048, 16, 8, 128, 7168, 110_592),
        is_checked=False,
        score=Score("KMMLU", 39.3, f"{_HYPERCLOVA} (5-shot; KoBEST 64.9)"),
        note="config.json was not at hand; the shape has 1.59 billion parameters, the card says 1.5",
    ),
    KnownModel(
        name="hyperclovax-seed-0.5b",
        title="HyperCLOVA X SEED Text Instruct 0.5B (NAVER)",
        hub="naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B",
        licence="HyperCLOVA X SEED",
        shape=Shape(24, 1024, 16, 8, 128, 4096, 110_592),
        is_checked=False,
        note="config.json was not at hand; the shape has the card's 0.57 billion parameters (0.45 without embeddings)",
    ),
    KnownModel(
        name="qwen3-1.7b",
        title="Qwen3 1.7B",
        hub="Qwen/Qwen3-1.7B",
        licence="Apache-2.0",
        shape=Shape(28, 2048, 16, 8, 128, 6144, 151_936),
        is_convertible=True,
        is_checked=True,
        score=Score("KMMLU-Redux", 29.8, _EXAONE),
    ),
    KnownModel(
        name="qwen3-0.6b",
        title="Qwen3 0.6B",
        hub="Qwen/Qwen3-0.6B",
        licence="Apache-2.0",
        shape=Shape(28, 1024, 16, 8, 128, 3072, 151_936),
        is_convertible=True,
        is_checked=True,
        score=Score("KMMLU-Redux", 22.8, _EXAONE),
    ),
    KnownModel(
        name="gemma-3-1b",
        title="Gemma 3 1B Instruct",
        hub="google/gemma-3-1b-it",
        licence=_GEMMA_TERMS,
        shape=_gemma_3(26, 1152, 4, 1, 256, 6912, 262_144),
        is_checked=True,
        score=Score("KMMLU-Redux", 19.4, f"{_EXAONE}; KMMLU 30.8: {_HYPERCLOVA}"),
    ),
    KnownModel(
        name="gemma-3-270m",
        title="Gemma 3 270M Instruct",
        hub="google/gemma-3-270m-it",
        licence=_GEMMA_TERMS,
        shape=_gemma_3(18, 640, 4, 1, 256, 2048, 262_144),
        is_checked=True,
    ),
    KnownModel(
        name="lfm2-1.2b",
        title="LFM2 1.2B (Liquid AI)",
        hub="LiquidAI/LFM2-1.2B",
        licence="LFM Open 1.0",
        shape=Shape(16, 2048, 32, 8, 64, 8192, 65_536, num_conv=10),
        is_checked=True,
    ),
    KnownModel(
        name="lfm2-350m",
        title="LFM2 350M (Liquid AI)",
        hub="LiquidAI/LFM2-350M",
        licence="LFM Open 1.0",
        shape=Shape(16, 1024, 16, 8, 64, 4608, 65_536, num_conv=10),
        is_checked=True,
    ),
    KnownModel(
        name="polyglot-ko-1.3b",
        title="Polyglot-Ko 1.3B (EleutherAI; a base model, not for chat)",
        hub="EleutherAI/polyglot-ko-1.3b",
        licence="Apache-2.0",
        shape=Shape(24, 2048, 16, 16, 128, 8192, 30_080, is_tied=False, is_gated=False),
        is_checked=True,
        is_base=True,
    ),
    KnownModel(
        name="llama-3-korean-8b",
        title="Llama 3 Korean Bllossom 8B",
        hub="MLP-KTLim/llama-3-Korean-Bllossom-8B",
        licence="Llama 3",
        shape=Shape(32, 4096, 32, 8, 128, 14_336, 128_256, is_tied=False),
        is_convertible=True,
        is_checked=False,
        note="config.json was not at hand; the shape is that of Llama 3 8B, of which it is made",
    ),
)

KNOWN = {model.name: model for model in _MODELS}

# Of the catalogue's models, so that they can be planned before they are fetched. From their GGUF headers.
_QWEN_05B = (24, 896, 14, 2, 64, 4864)
_QWEN_15B = (28, 1536, 12, 2, 128, 8960)
_GEMMA_270M = (18, 640, 4, 1, 256, 2048)
_FULL, _TRIMMED = 151_936, 32_000
CATALOGUE_SHAPES = {
    "qwen2.5-coder-1.5b-korean": Shape(*_QWEN_15B, _TRIMMED, is_tied=False),
    "qwen2.5-coder-0.5b-korean": Shape(*_QWEN_05B, _TRIMMED, is_tied=False),
    "qwen2.5-coder-1.5b-instruct-q4_k_m": Shape(*_QWEN_15B, _FULL, is_tied=False),
    "qwen2.5-coder-0.5b-instruct-q4_k_m": Shape(*_QWEN_05B, _FULL, is_tied=False),
    "gemma-3-270m-korean": _gemma_3(*_GEMMA_270M, _TRIMMED),
    "gemma-3-270m-q4_k_m": _gemma_3(*_GEMMA_270M, 262_144),
}
# What a GGUF file holds beside its weights, for each token: text, kind, and the merge that made it (SentencePiece: its
# score instead, 14 bytes less).
HEADER_BYTES_PER_TOKEN = 39


def find(name: str) -> KnownModel | None:
    """By name or hub repository, however it is written: Kanana-1.5-2.1B, exaone_4.0_1.2b, Qwen/Qwen3-0.6B."""
    wanted = _plain(name)
    return next((model for model in _MODELS if wanted in {_plain(model.name), _plain(model.hub)}), None)


def nearest(name: str, others: list[str]) -> str | None:
    """The known name, or one of the others, that somebody probably meant."""
    by_plain = {_plain(each): each for each in [*others, *KNOWN]}
    found = difflib.get_close_matches(_plain(name), list(by_plain), n=1, cutoff=0.5)
    return by_plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.casefold())
