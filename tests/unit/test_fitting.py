"""A file whose matrices are rounded for the inputs that a text gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dure import gguf
from dure.errors import ModelError, SettingsError
from dure.gguf import TensorType

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_workshop import perplexity  # noqa: E402
from dure_workshop.calibrate import Importance  # noqa: E402
from dure_workshop.dequantize import read_by_runtime, rounded, rows  # noqa: E402
from dure_workshop.quantize import gguf_file  # noqa: E402
from dure_workshop.quantize.fitting import fit  # noqa: E402
from dure_workshop.quantize.mixture import Mixture, Option  # noqa: E402
from dure_workshop.trim.gguf_file import GgufModel  # noqa: E402
from reference_model import KINDS, ReferenceModel  # noqa: E402

TEXT = "두레는 hello 123 漢字 か Ж. " * 60
# Of transformers, by the file's name of the part.
_DOWN = {"gptneox": "mlp.dense_4h_to_h"}


def down(source: gguf.Gguf) -> list[str]:
    """The only matrices of a reference model that are as wide as a K block."""
    return [name for name in source.tensors if name.endswith("ffn_down.weight")]


def encoded(source: gguf.Gguf, text: str) -> list[int]:
    segmenter = GgufModel(source).segmenter
    assert segmenter is not None
    return segmenter.encode(text)


def inputs_of_first_down(made: ReferenceModel, ids: list[int]) -> Any:
    """As transformers has them."""
    seen: list[Any] = []
    layers = made.model.gpt_neox.layers if made.kind == "gptneox" else made.model.model.layers
    module = layers[0].get_submodule(_DOWN.get(made.kind, "mlp.down_proj"))
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].detach()))
    for start in range(0, len(ids), 512):
        made.logits(ids[start : start + 512])
    hook.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_is_rounded_for_the_inputs_it_will_have(kind: str, tmp_path: Path) -> None:
    made = ReferenceModel.make(kind)
    source = gguf.read(made.write(tmp_path / "model.gguf"))
    taken: dict[str, bytes] = {}
    ids = encoded(source, TEXT)
    assert fit(source, dict.fromkeys(down(source), TensorType.Q2_K), TEXT, taken.__setitem__) == len(ids)
    assert list(taken) == down(source)
    name = down(source)[0]
    tensor = source.tensors[name]
    weights = rows(source, tensor, list(range(tensor.num_rows)))
    x = inputs_of_first_down(made, ids)
    importance = x.square().mean(0).numpy()

    def lost(found: Any) -> float:
        return float((x @ torch.from_numpy(weights - found).T).square().sum())

    plain = rounded(weights, TensorType.Q2_K, importance)
    assert 0 < lost(read_by_runtime(taken[name], TensorType.Q2_K, tensor.shape[0])) < 0.5 * lost(plain)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> gguf.Gguf:
    made = ReferenceModel.make("qwen2", tie_word_embeddings=True)
    return gguf.read(made.write(tmp_path_factory.mktemp("reference") / "model.gguf"))


@pytest.fixture
def importance(source: gguf.Gguf) -> Importance:
    return Importance({name: np.ones(each.shape[0], np.float32) for name, each in source.tensors.items()}, 1)


def mixture(source: gguf.Gguf) -> Mixture:
    """Each way to write a tensor: compensated, plain, as it is; the vocabulary too."""
    kinds = {"blk.0.ffn_down.weight": TensorType.Q3_K, "blk.1.ffn_down.weight": TensorType.Q2_K,
             "blk.0.attn_q.weight": TensorType.IQ4_NL, "blk.1.ffn_up.weight": TensorType.Q5_0,
             "blk.1.attn_k.weight": TensorType.Q8_0, "token_embd.weight": TensorType.Q4_0}  # fmt: skip
    return {name: Option(kind, 0, 0.0) for name, kind in kinds.items()}


def test_the_file_is_as_it_was_chosen(source: gguf.Gguf, importance: Importance, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    chosen, path = mixture(source), tmp_path / "new.gguf"
    gguf_file.compensated(source, path, chosen, importance, TEXT, 2, lambda *step: steps.append(step))
    found = gguf.read(path)
    assert list(found.tensors) == list(source.tensors)
    assert steps == [(done, 8) for done in range(1, 9)]
    for name, old in source.tensors.items():
        new = found.tensors[name]
        assert new.type is (chosen[name].kind if name in chosen else old.type)
        before, after = (b"".join(gguf.rows(*each)) for each in ((source, old), (found, new)))
        if new.type is old.type:
            assert after == before, name
        else:
            given = rows(source, old, list(range(old.num_rows)))
            read = read_by_runtime(after, new.type, old.shape[0])
            assert ((read - given) ** 2).sum() < 0.25 * (given**2).sum(), name
    again = tmp_path / "again.gguf"
    gguf_file.compensated(source, again, chosen, importance, TEXT)
    assert again.read_bytes() == path.read_bytes()


def test_a_long_text_is_taken_evenly(source: gguf.Gguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "MOST_TOKENS", 1024)
    kinds, taken = dict.fromkeys(down(source), TensorType.Q2_K), {}
    assert fit(source, kinds, TEXT * 3, taken.__setitem__) == 1024
    assert len(taken) == 2


def test_a_last_window_of_one_token_is_left_out(source: gguf.Gguf) -> None:
    text = "a " * 2000
    ids = encoded(source, text)
    while len(encoded(source, text)) % 512 != 1:
        text = text[:-1]
    ids = encoded(source, text)
    taken: dict[str, bytes] = {}
    assert fit(source, dict.fromkeys(down(source), TensorType.Q2_K), text, taken.__setitem__) == len(ids) - 1
    assert len(taken) == 2


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_without_anything_to_learn_from(source: gguf.Gguf, text: str) -> None:
    kinds, taken = dict.fromkeys(down(source), TensorType.Q2_K), {}
    if not text:
        with pytest.raises(SettingsError, match="the text is empty: give some thousand words"):
            fit(source, kinds, text, taken.__setitem__)
        assert not taken
    else:
        assert fit(source, kinds, text, taken.__setitem__) == 1
        assert len(taken) == 2


def test_nothing_is_left_of_a_file_that_failed(source: gguf.Gguf, importance: Importance, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the text is empty"):
        gguf_file.compensated(source, tmp_path / "new.gguf", mixture(source), importance, "")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="cannot be written"):
        gguf_file.compensated(source, tmp_path / "nowhere" / "new.gguf", mixture(source), importance, TEXT)
