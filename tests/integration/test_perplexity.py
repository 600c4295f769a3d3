"""The 0.5B's perplexity of Korean text: the runtime agrees, trimming does not worsen it, and damage is seen."""

import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from dure import gguf
from dure.errors import SettingsError
from dure_workshop import texts
from dure_workshop.dequantize import rows
from dure_workshop.hidden_states import HiddenStates
from dure_workshop.perplexity import CONTEXT, WINDOW, perplexity
from dure_workshop.trim.gguf_file import GgufModel, trim

pytestmark = pytest.mark.weights

TEXT = texts.own("korean")
SIZE = 32_000


@pytest.fixture(scope="module")
def trimmed(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trim") / "model.gguf"
    trim(gguf.read(small_model), path, {"korean", "english"}, SIZE)
    return path


def tokens_of(path: Path, text: str) -> list[str]:
    model = GgufModel.read(path)
    assert model.segmenter is not None
    return [model.vocabulary.tokens[number] for number in model.segmenter.encode(text)]


def test_trimming_does_not_make_korean_less_likely(small_model: Path, trimmed: Path) -> None:
    steps: list[tuple[int, int]] = []
    before = perplexity(small_model, TEXT)
    after = perplexity(trimmed, TEXT, lambda done, total: steps.append((done, total)))
    tokens = tokens_of(trimmed, TEXT)
    assert tokens == tokens_of(small_model, TEXT)
    assert len(tokens) > 2 * WINDOW  # else the windows are not tried
    assert (after.num_tokens, after.num_bytes) == (before.num_tokens, before.num_bytes)
    assert after.num_tokens == len(tokens) - CONTEXT
    assert after.per_token <= 1.005 * before.per_token
    assert after.per_token > 0.9 * before.per_token  # far better would mean that something is not counted
    assert after.bits_per_byte == pytest.approx(math.log2(after.per_token) * after.num_tokens / after.num_bytes)
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))


def test_rows_in_the_wrong_order_are_clearly_worse(trimmed: Path, tmp_path: Path) -> None:
    text = "\n".join(TEXT.splitlines()[:12])
    source = gguf.read(trimmed)
    tensor = source.tensors[gguf.OUTPUT]
    order = list(range(tensor.num_rows))
    random.Random(1).shuffle(order)
    damaged = tmp_path / "damaged.gguf"
    shutil.copyfile(trimmed, damaged)
    with damaged.open("r+b") as file:
        file.seek(source.data_start + tensor.offset)
        file.writelines(gguf.rows(source, tensor, order))
    assert perplexity(damaged, text).per_token > 10 * perplexity(trimmed, text).per_token


def test_the_likelihoods_are_those_by_which_the_runtime_chooses(trimmed: Path) -> None:
    import xllamacpp

    model = GgufModel.read(trimmed)
    assert model.segmenter is not None
    ids = model.segmenter.encode(TEXT.splitlines()[0])[:-1]
    tensor = model.source.tensors[gguf.OUTPUT]
    with HiddenStates(trimmed, WINDOW, 2) as runtime:
        logits = rows(model.source, tensor, list(range(tensor.num_rows))) @ runtime.of(ids)[-1]
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(trimmed), 512, 1
    params.fit_params, params.ui, params.verbosity = False, False, -1
    params.cpuparams.n_threads = 2
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": ids, "n_predict": 1, "n_probs": 5, "temperature": 0})
    first = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    likelihoods = logits - np.logaddexp.reduce(logits)
    assert first[0]["id"] == int(logits.argmax())
    for found in first:
        # The runtime rounds states to 8 bits before this product.
        assert likelihoods[found["id"]] == pytest.approx(found["logprob"], abs=0.15)


def test_a_text_without_a_token_to_score_is_refused(small_model: Path) -> None:
    with pytest.raises(SettingsError, match="give a longer one"):
        perplexity(small_model, "짧은 글.")
