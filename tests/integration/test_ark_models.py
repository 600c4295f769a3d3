"""Real models in the ark engine: they read text as their makers do, and foresee Korean as well as in llama.cpp."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dure import gguf
from dure_workshop.perplexity import perplexity
from dure_workshop.trim.gguf_file import GgufModel

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer
from dure_worker.engines.ark.loading import load
from dure_workshop import texts
from dure_workshop.evaluate.ark_logits import ArkLogits
from dure_workshop.evaluate.likelihood import text_perplexity

pytestmark = pytest.mark.weights

TEXT = texts.own("korean")
# What a tokenizer trips over: tokens found whole, runs of spaces, bytes, the space mark itself.
ODD = ["하나\n\n\n  둘\t<b>굵게</b> 漢字 😀 e\u0301", "<0x0A> foo_bar(3.14)", "aaaaaaaa  ▁ ▁▁a", " \n" * 9, "뷁 ㅋㅋㅋ"]
# Of the perplexity in llama.cpp.
_WITHIN = 1.03


@pytest.fixture(params=["qwen2.5-coder-0.5b-korean", "gemma-3-270m-korean"])
def weights(request: pytest.FixtureRequest, fetched: Callable[[str], Path]) -> Path:
    return fetched(request.param)


def test_text_becomes_the_tokens_of_its_makers(weights: Path) -> None:
    source = gguf.read(weights)
    tokenizer, segmenter = ChatTokenizer(source), GgufModel(source).segmenter
    assert segmenter is not None
    begin = tokenizer.plain("")
    for text in [*TEXT.splitlines(), *ODD]:
        assert tokenizer.plain(text) == begin + segmenter.encode(text), text
        # SentencePiece knows its mark of a space and a space as one.
        written = b"".join(map(tokenizer.piece, tokenizer.plain(text))).decode()
        assert written.replace("▁", " ") == text.replace("▁", " ")


def test_korean_is_foreseen_as_well_as_in_llama(weights: Path) -> None:
    text = TEXT[:1500]
    source = gguf.read(weights)
    wanted, found = perplexity(weights, text), text_perplexity(ArkLogits(source, load(source)), text)
    assert found.num_tokens == wanted.num_tokens
    assert 1 / _WITHIN < found.per_token / wanted.per_token < _WITHIN
