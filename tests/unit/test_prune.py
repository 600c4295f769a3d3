"""What is left out of a model is what counts least, and what stays is as it was."""

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console

import reference_model
from dure import gguf
from dure.errors import ModelError, ModelUnsupported, SettingsError
from dure.gguf import TensorType, Value, ValueType
from dure.settings import Settings

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_worker.engines.ark import calibration, loading, packing  # noqa: E402
from dure_worker.engines.hf.loading import load  # noqa: E402
from dure_workshop import texts  # noqa: E402
from dure_workshop.calibrate import Importance  # noqa: E402
from dure_workshop.dequantize import Floats, quantize  # noqa: E402
from dure_workshop.prune import command, support  # noqa: E402
from dure_workshop.prune.cut import Cut  # noqa: E402
from dure_workshop.prune.gguf_file import pruned  # noqa: E402
from dure_workshop.prune.masks import Pattern, masked  # noqa: E402
from dure_workshop.prune.plan import Plan, Wanted, plans  # noqa: E402
from dure_workshop.prune.probe import Measured, Probe  # noqa: E402
from dure_workshop.prune.structure import Structure, numbers  # noqa: E402
from dure_workshop.prune.workplace import Workplace, workplace  # noqa: E402
from dure_workshop.trim.gguf_file import GgufModel  # noqa: E402
from reference_model import FFN, HEAD_DIM, HEADS, ReferenceModel  # noqa: E402

TEXT = "두레는 hello 123 漢字 か Ж. " * 40
IDS = [104, 101, 260, 10, 33, 7, 264, 90]
WIDE = 2 * FFN
LAYERS = 4

Reference = tuple[ReferenceModel, gguf.Gguf]


def made(folder: Path, kind: str = "qwen2", **changes: Any) -> Reference:
    model = ReferenceModel.make(kind, **changes)
    return model, gguf.read(model.write(folder / "model.gguf"))


@pytest.fixture(autouse=True)
def packing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: to start one for each file takes seconds."""
    monkeypatch.setattr(loading, "_pack", packing.pack)


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return made(tmp_path, num_hidden_layers=LAYERS, tie_word_embeddings=True)


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reference:
    """Of a width that can be halved."""
    monkeypatch.setattr(reference_model, "FFN", WIDE)
    return made(tmp_path, num_hidden_layers=LAYERS, intermediate_size=WIDE, tie_word_embeddings=True)


def blocks(*wanted: int) -> list[int]:
    """Channels of whole blocks."""
    return [block * 32 + at for block in wanted for at in range(32)]


def scattered(seed: int = 3, number: int = 96) -> list[int]:
    return sorted(np.random.default_rng(seed).choice(FFN, number, replace=False).tolist())


def remove(model: ReferenceModel, cut: Cut) -> None:
    """From the reference as its makers define it."""
    layers = model.model.model.layers
    with torch.no_grad():
        for number, kept in (cut.channels or {}).items():
            gone = sorted(set(range(layers[number].mlp.down_proj.in_features)) - set(kept))
            layers[number].mlp.down_proj.weight[:, gone] = 0
        for number, kept in (cut.heads or {}).items():
            for head in set(range(HEADS)) - set(kept):
                layers[number].self_attn.o_proj.weight[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0
    for place, number in enumerate(cut.layers):
        layers[number].self_attn.layer_idx = place
    model.model.model.layers = torch.nn.ModuleList(layers[number] for number in cut.layers)
    model.model.config.num_hidden_layers = len(cut.layers)


def logits_of(path: Path) -> Floats:
    with torch.inference_mode():
        found: Floats = load(path, "float32").model(torch.tensor([IDS])).logits[0].numpy()
    return found


def raw(source: gguf.Gguf, name: str) -> bytes:
    return b"".join(gguf.rows(source, source.tensors[name]))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_what_is_cut_is_as_if_it_were_not_computed(tmp_path: Path, kind: str) -> None:
    model, source = made(tmp_path, kind, num_hidden_layers=LAYERS)
    cut = Cut([0, 2, 3], {0: blocks(0, 3, 7), 2: blocks(1, 2, 5), 3: blocks(0, 1, 2)})
    pruned(source, tmp_path / "new.gguf", cut)
    before = model.logits(IDS)
    remove(model, cut)
    wanted = model.logits(IDS)
    assert logits_of(tmp_path / "new.gguf") == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert float(np.abs(before - wanted).max()) > 1


def test_heads_that_are_cut_are_as_if_they_were_not_computed(tmp_path: Path) -> None:
    model, source = made(tmp_path, "gemma3")
    cut = Cut(list(range(7)), heads={layer: [layer % 2, 2 + (layer + 1) % 2] for layer in range(7)})
    pruned(source, tmp_path / "new.gguf", cut)
    before = model.logits(IDS)
    remove(model, cut)
    wanted = model.logits(IDS)
    assert logits_of(tmp_path / "new.gguf") == pytest.approx(wanted, rel=0.02, abs=0.03)
    assert float(np.abs(before - wanted).max()) > 0.2


def test_what_stays_keeps_its_bytes(reference: Reference, tmp_path: Path) -> None:
    source = reference[1]
    kept = {1: scattered(1), 3: scattered(2)}
    pruned(source, tmp_path / "new.gguf", Cut([1, 3], kept))
    found = gguf.read(tmp_path / "new.gguf")
    for new, old in enumerate([1, 3]):
        for part in ("attn_q.weight", "attn_q.bias", "attn_output.weight", "attn_norm.weight", "ffn_norm.weight"):
            assert raw(found, f"blk.{new}.{part}") == raw(source, f"blk.{old}.{part}")
        for part in ("ffn_gate.weight", "ffn_up.weight"):
            tensor = source.tensors[f"blk.{old}.{part}"]
            assert raw(found, f"blk.{new}.{part}") == b"".join(gguf.rows(source, tensor, kept[old]))
    for name in ("token_embd.weight", "output_norm.weight"):
        assert raw(found, name) == raw(source, name)
    assert not any(name.startswith(("blk.2.", "blk.3.")) for name in found.tensors)


def test_columns_between_others_are_rounded_once(reference: Reference, tmp_path: Path) -> None:
    source, kept = reference[1], scattered()
    pruned(source, tmp_path / "new.gguf", Cut(list(range(LAYERS)), dict.fromkeys(range(LAYERS), kept)))
    found = gguf.read(tmp_path / "new.gguf")
    for layer in range(LAYERS):
        old, new = (each.tensors[f"blk.{layer}.ffn_down.weight"] for each in (source, found))
        wanted = numbers(source, old, list(range(old.num_rows)))[:, kept]
        assert (new.shape, new.type) == ((len(kept), old.num_rows), TensorType.Q8_0)
        assert raw(found, new.name) == quantize(wanted, TensorType.Q8_0)


def test_the_file_says_what_is_left(reference: Reference, tmp_path: Path) -> None:
    source = reference[1]
    number = ValueType.INT32
    source.values["qwen2.of_each_layer"] = Value(ValueType.ARRAY, [10, 11, 12, 13], number)
    source.values["qwen2.of_other_things"] = Value(ValueType.ARRAY, [10, 11], number)
    source.values["general.size_label"] = Value(ValueType.STRING, "0.5B")
    steps: list[tuple[int, int]] = []
    cut = Cut([1, 3], {1: blocks(0), 3: blocks(1)})
    pruned(source, tmp_path / "new.gguf", cut, lambda *step: steps.append(step))
    found = gguf.read(tmp_path / "new.gguf")
    assert (found.hyper("block_count"), found.hyper("feed_forward_length")) == (2, 32)
    assert found.hyper("of_each_layer") == [11, 13]
    assert found.hyper("of_other_things") == [10, 11]
    assert found.get("general.size_label") is None
    assert steps[-1][0] == steps[-1][1]


def test_layers_of_different_widths_are_not_made_alike(reference: Reference, tmp_path: Path) -> None:
    source = reference[1]
    source.values["qwen2.feed_forward_length"] = Value(ValueType.ARRAY, [FFN] * LAYERS, ValueType.INT32)
    with pytest.raises(ModelUnsupported, match="differ in width: prune its depth"):
        pruned(source, tmp_path / "new.gguf", Cut([0], {0: blocks(0)}))
    assert not (tmp_path / "new.gguf").exists()


@pytest.mark.parametrize("kind", reference_model.KINDS)
def test_the_probe_foresees_what_the_file_does(tmp_path: Path, kind: str) -> None:
    _, source = made(tmp_path, kind)
    num_layers = Structure.of(source).shape.layers
    layers = list(range(num_layers)) if kind == "gemma3" else list(range(num_layers - 1))
    cut = Cut(layers, dict.fromkeys(layers, blocks(0, 2, 3, 6)))
    probe = Probe(source, tmp_path)
    whole = probe.perplexity(Cut(list(range(num_layers))), TEXT)
    foreseen = probe.perplexity(cut, TEXT)
    assert probe.perplexity(Cut(list(range(num_layers))), TEXT) == whole
    folder = tmp_path / "new"
    folder.mkdir()
    pruned(source, folder / "new.gguf", cut)
    found = Probe(gguf.read(folder / "new.gguf"), folder).perplexity(Cut(list(range(len(layers)))), TEXT)
    changed = abs(foreseen.nll_nats - whole.nll_nats)
    assert changed > 0.005 * whole.nll_nats
    assert found.nll_nats == pytest.approx(foreseen.nll_nats, abs=0.1 * changed)


def test_what_counts_is_measured_as_it_is_defined(reference: Reference, tmp_path: Path) -> None:
    model, source = reference
    steps: list[tuple[int, int]] = []
    found = Probe(source, tmp_path).measure(TEXT, lambda *step: steps.append(step))
    segmenter = GgufModel(source).segmenter
    assert segmenter is not None
    ids = segmenter.encode(TEXT)
    influence, squares = np.zeros(LAYERS), np.zeros((LAYERS, FFN))
    attended = np.zeros((LAYERS, HEADS * HEAD_DIM))

    def record(sums: Any) -> Any:
        def add(_: Any, given: Any) -> None:
            sums.__iadd__(given[0].double().square().sum((0, 1)).numpy())

        return add

    states: list[Any] = []
    for number, layer in enumerate(model.model.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(record(squares[number]))
        layer.self_attn.o_proj.register_forward_pre_hook(record(attended[number]))
        layer.register_forward_hook(lambda _, given, out: states.append((given[0], out)))
    for start in range(0, len(ids), 512):
        states.clear()
        model.logits(ids[start : start + 512])
        for number, (into, out) in enumerate(states):
            cos = torch.nn.functional.cosine_similarity(into[0], out[0], dim=-1)
            influence[number] += float((1 - cos).sum())
    layers = model.model.model.layers
    columns = np.stack([layer.mlp.down_proj.weight.square().sum(0).numpy(force=True) for layer in layers])
    of_heads = np.stack([layer.self_attn.o_proj.weight.square().sum(0).numpy(force=True) for layer in layers])
    energies = (attended * of_heads).reshape(LAYERS, HEADS, HEAD_DIM).sum(2) / len(ids)
    channels = squares * columns / len(ids)
    assert found.num_tokens == len(ids)
    assert found.influence == pytest.approx(influence / len(ids), rel=0.05, abs=0.01)
    assert found.channels == pytest.approx(channels, rel=0.15, abs=0.02 * float(channels.mean()))
    assert found.heads == pytest.approx(energies, rel=0.1)
    assert len(set(np.argsort(found.influence)[:2]) & set(np.argsort(influence)[:2])) == 2
    assert steps[-1] == (len(steps), len(steps))
    found.write(tmp_path / "kept.npz")
    again = Measured.read(tmp_path / "kept.npz")
    assert (again.influence == found.influence).all()
    assert (again.channels == found.channels).all()
    assert (again.heads == found.heads).all()
    assert again.num_tokens == found.num_tokens


def test_the_least_goes() -> None:
    channels = np.array([[4, 1, 3, 2], [1, 2, 3, 4], [9, 9, 9, 9]], np.float32)
    heads = np.array([[1, 2, 9, 8], [4, 3, 1, 2], [0, 1, 1, 0]], np.float32)
    found = Measured(np.array([0.3, 0.1, 0.2], np.float32), channels, heads, 1)
    assert found.cut(1, 2, 2, 2) == Cut([0, 2], {0: [0, 2], 2: [0, 1]}, {0: [1, 2], 2: [1, 2]})
    assert found.cut(0, 4, 4, 2) == Cut([0, 1, 2])
    assert found.cut(2, 4, 4, 2) == Cut([0])


def test_nothing_to_measure_is_refused(reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the text is empty"):
        Probe(reference[1], tmp_path).measure("")


def test_parameters_are_counted_as_the_model_has_them(reference: Reference) -> None:
    model, source = reference
    found = Structure.of(source)
    assert found.num_parameters == sum(each.numel() for each in model.model.parameters())
    assert not found.is_repeated


def test_an_output_that_repeats_the_embedding_is_counted_once(tmp_path: Path) -> None:
    model, own = made(tmp_path)
    assert Structure.of(own).num_parameters == sum(each.numel() for each in model.model.parameters())
    with torch.no_grad():
        # Its own largest code first in each block, as the file's writer wants it, and most others equal.
        model.model.lm_head.weight.copy_(model.model.model.embed_tokens.weight)
    repeated = Structure.of(gguf.read(model.write(tmp_path / "repeated.gguf")))
    assert repeated.is_repeated
    assert repeated.num_parameters == Structure.of(own).num_parameters - model.model.lm_head.weight.numel()


def test_what_is_not_known_is_refused(reference: Reference, tmp_path: Path) -> None:
    source = reference[1]
    source.tensors["blk.1.ffn_gate_exps.weight"] = source.tensors["blk.1.ffn_gate.weight"]
    source.tensors["blk.1.ffn_gate_exps.weight"] = gguf.Tensor("blk.1.ffn_gate_exps.weight", (32,), TensorType.F32, 0)
    with pytest.raises(ModelUnsupported, match=r"blk\.1\.ffn_gate_exps\.weight, which is not known"):
        Structure.of(source)
    del source.tensors["blk.1.ffn_gate_exps.weight"]
    del source.tensors["blk.1.attn_q.bias"]
    with pytest.raises(ModelUnsupported, match="differ in size"):
        Structure.of(source)


def test_plans_go_from_width_to_depth(wide: Reference, tmp_path: Path) -> None:
    source = wide[1]
    structure = Structure.of(source)
    # Room for half of each layer's width; whole layers then fit into less of them.
    most = structure.after(LAYERS, FFN, HEADS)
    found = plans(structure, most, Wanted(), can_drop=True)
    assert [(each.num_dropped, each.num_channels) for each in found] == [(0, FFN), (1, FFN), (2, WIDE)]
    assert all(each.num_parameters <= most for each in found)
    for plan in found:
        layers = list(range(LAYERS - plan.num_dropped))
        channels = None if plan.num_channels == WIDE else {layer: list(range(plan.num_channels)) for layer in layers}
        pruned(source, tmp_path / "new.gguf", Cut(layers, channels))
        assert Structure.of(gguf.read(tmp_path / "new.gguf")).num_parameters == plan.num_parameters
    assert plans(structure, most, Wanted(), can_drop=False) == found[:1]
    assert plans(structure, most, Wanted(layers=1), can_drop=True) == found[1:2]
    assert plans(structure, most, Wanted(ffn=FFN), can_drop=True) == found[:1]


def test_too_little_is_refused(wide: Reference) -> None:
    structure = Structure.of(wide[1])
    with pytest.raises(SettingsError, match=r"must stay; choose a smaller --ratio, or a smaller --vocab"):
        plans(structure, structure.vocabulary, Wanted(), can_drop=True)
    with pytest.raises(SettingsError, match="must stay"):
        plans(structure, structure.after(LAYERS, 0, HEADS), Wanted(), can_drop=False)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(layers=LAYERS), rf"--layers 4: of 4 layers 1 to {LAYERS - 1} can go"),
        (Wanted(layers=0), "can go"),
        (Wanted(layers=-1), "can go"),
        (Wanted(ffn=100), f"choose a multiple of 256 up to {FFN}"),
        (Wanted(ffn=WIDE), "choose a multiple of 256"),
        (Wanted(ffn=0), "choose a multiple of 256"),
        (Wanted(heads=1), "choose a multiple of 2 below 4"),
        (Wanted(heads=4), "choose a multiple of 2 below 4"),
    ],
)
def test_what_cannot_be_is_refused(wide: Reference, wanted: Wanted, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        wanted.check(Structure.of(wide[1]))


def test_what_is_too_narrow_already_says_what_else_can_go(reference: Reference) -> None:
    with pytest.raises(SettingsError, match="too narrow already"):
        Wanted(ffn=FFN).check(Structure.of(reference[1]))


def test_what_an_engine_would_not_load_is_refused(tmp_path: Path) -> None:
    found = {}
    for kind in reference_model.KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        source = made(folder, kind)[1]
        found[kind] = source, Structure.of(source)
    for kind in ("llama", "qwen2", "qwen3", "gptneox"):
        with pytest.raises(ModelUnsupported, match=r"not every engine would load .* prune --ffn or --layers"):
            support.check_heads(*found[kind])
    support.check_heads(*found["gemma3"])
    with pytest.raises(ModelUnsupported, match=r"without one the others would change; prune its width"):
        support.check_depth(*found["gemma3"])
    support.check_depth(*found["qwen2"])


def weighed(source: gguf.Gguf) -> Importance:
    """Made up: each column of each matrix counts otherwise."""
    dice = np.random.default_rng(4)
    names = [name for name, tensor in source.tensors.items() if len(tensor.shape) > 1]
    return Importance(
        {name: dice.gamma(0.5, size=source.tensors[name].shape[0]).astype(np.float32) for name in names}, 1
    )


@pytest.mark.parametrize("text", ["0.5", "0.25", "2:4"])
def test_zeros_are_where_they_cost_least(reference: Reference, tmp_path: Path, text: str) -> None:
    source = reference[1]
    importance, pattern = weighed(source), Pattern.read(text)
    zeros = masked(source, tmp_path / "new.gguf", importance, pattern)
    found = gguf.read(tmp_path / "new.gguf")
    assert found.path.stat().st_size == source.path.stat().st_size
    assert raw(found, gguf.EMBEDDING) == raw(source, gguf.EMBEDDING)
    share = pattern.share or 0.5
    total = 0
    for name, tensor in source.tensors.items():
        if name not in importance.columns or name == gguf.EMBEDDING:
            assert raw(found, name) == raw(source, name)
            continue
        rows = list(range(tensor.num_rows))
        before, after = numbers(source, tensor, rows), numbers(found, found.tensors[name], rows)
        worth = np.abs(before) * np.sqrt(importance.columns[name])
        if pattern.share is None:
            before, after, worth = (each.reshape(-1, 4) for each in (before, after, worth))
        is_zero = after == 0
        total += tensor.num_weights
        assert (is_zero.sum(1) >= int(share * is_zero.shape[1])).all()
        # Of each row the least kept is worth no less than the most that went.
        went = np.where(is_zero & (before != 0), worth, 0).max(1)
        stayed = np.where(is_zero, np.inf, worth).min(1)
        assert (went <= stayed).all(), name
        assert np.allclose(after, np.where(is_zero, 0, before), rtol=0.01, atol=0.01), name
    assert zeros.num_weights == total
    assert share <= zeros.num_zeros / zeros.num_weights < share + 0.02


def test_kinds_without_a_zero_are_written_as_one_with(tmp_path: Path, wide: Reference) -> None:
    source = wide[1]
    name = "blk.0.ffn_down.weight"
    tensor = source.tensors[name]
    as_k = quantize(numbers(source, tensor, list(range(tensor.num_rows))), TensorType.Q4_K)
    path = tmp_path / "k.gguf"
    whole = bytearray(source.path.read_bytes())
    at = source.data_start + tensor.offset
    whole[at : at + len(as_k)] = as_k
    path.write_bytes(whole)
    tensors = source.tensors | {name: gguf.Tensor(name, tensor.shape, TensorType.Q4_K, tensor.offset)}
    changed = gguf.Gguf(path, source.values, tensors, source.data_start)
    zeros = masked(changed, tmp_path / "new.gguf", weighed(source), Pattern.read("0.5"))
    assert gguf.read(tmp_path / "new.gguf").tensors[name].type is TensorType.Q8_0
    assert zeros.num_zeros / zeros.num_weights >= 0.5


@pytest.mark.parametrize("text", ["1:2", "0", "1", "1.5", "-0.5", "nan", "half"])
def test_a_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"--wanda {text}: say 2:4, or a share"):
        Pattern.read(text)


def given(source: gguf.Gguf, out: Path, **changes: Any) -> argparse.Namespace:
    plain: dict[str, Any] = dict.fromkeys(["ratio", "layers", "ffn", "heads", "wanda", "original_params"])
    plain |= {"vocab": 0, "text": []}
    return argparse.Namespace(model=str(source.path), out=out, **plain | changes)


def run(source: gguf.Gguf, out: Path, **changes: Any) -> dict[str, Any]:
    return command.run(given(source, out, **changes), Settings.read(), Console(quiet=True))


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a few hundred tokens."""
    (tmp_path / "text.txt").write_text(TEXT)
    monkeypatch.setattr(calibration, "TEXT", tmp_path / "text.txt")
    monkeypatch.setattr(texts, "own", lambda name: TEXT)


@pytest.mark.usefixtures("short")
def test_half_of_a_model_goes_the_way_that_costs_least(wide: Reference, tmp_path: Path) -> None:
    source, out = wide[1], tmp_path / "half.gguf"
    before = Structure.of(source)
    report = run(source, out, ratio=0.5)
    found = Structure.of(gguf.read(out))
    parameters = report["parameters"]
    assert json.loads(json.dumps(report)) == report
    assert found.num_parameters == parameters["left"] <= before.num_parameters // 2
    assert (
        parameters["original"] - sum(parameters[each] for each in ("vocabulary", "depth", "width", "heads"))
        == (parameters["left"])
    )
    assert parameters["share_gone"] >= 0.5
    best = min(report["candidates"], key=lambda each: float(each["perplexity"]))
    assert best["num_dropped"] == len(report["layers_dropped"]) == LAYERS - found.shape.layers
    assert best["num_channels"] == found.shape.ffn == report["channels"][1]
    assert len(report["candidates"]) > 1
    assert report["bytes"] == [source.path.stat().st_size, out.stat().st_size]
    # The text that was judged is here the one that is reported.
    assert report["perplexity"][1] == pytest.approx(best["perplexity"], rel=0.03)
    assert sorted(path.name for path in tmp_path.glob(".*prune*")) == []


@pytest.mark.usefixtures("short")
def test_what_is_named_goes(wide: Reference, tmp_path: Path) -> None:
    report = run(wide[1], tmp_path / "new.gguf", layers=1, ffn=FFN)
    found = Structure.of(gguf.read(tmp_path / "new.gguf"))
    assert (found.shape.layers, found.shape.ffn) == (LAYERS - 1, FFN)
    assert report["layers"] == [LAYERS, LAYERS - 1]
    assert report["parameters"]["depth"] == found.of_layer + WIDE * found.of_channel + HEADS * found.of_head


@pytest.mark.usefixtures("short")
def test_the_vocabulary_goes_first(wide: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dure_workshop.trim.choice.PAD_TO", 1)
    source, out = wide[1], tmp_path / "new.gguf"
    num_tokens = gguf.num_tokens(source)
    report = run(source, out, layers=1, vocab=num_tokens - 10)
    found = gguf.read(out)
    assert gguf.num_tokens(found) < num_tokens
    gone = Structure.of(source).vocabulary - Structure.of(found).vocabulary
    assert report["parameters"]["vocabulary"] == gone > 0
    with pytest.raises(SettingsError, match=r"alone need .* choose --vocab"):
        run(source, tmp_path / "none.gguf", layers=1, vocab=64)


@pytest.mark.usefixtures("short")
def test_what_was_trimmed_before_counts_from_the_original(wide: Reference, tmp_path: Path) -> None:
    source = wide[1]
    now = Structure.of(source).num_parameters
    report = run(source, tmp_path / "new.gguf", ratio=0.5, original_params=int(1.5 * now))
    assert report["parameters"]["vocabulary"] == int(1.5 * now) - now
    assert 0.5 <= report["parameters"]["share_gone"] < 0.75
    with pytest.raises(SettingsError, match=r"the source alone has .* before its vocabulary was trimmed"):
        run(source, tmp_path / "other.gguf", ratio=0.5, original_params=now - 1)
    with pytest.raises(SettingsError, match=r"which is enough; choose a larger --ratio"):
        run(source, tmp_path / "other.gguf", ratio=0.1, original_params=2 * now)


@pytest.mark.usefixtures("short")
def test_a_run_that_was_stopped_goes_on(wide: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = wide[1], tmp_path / "half.gguf"
    asked: list[Cut] = []
    plain = Probe.perplexity

    def counted(self: Probe, cut: Cut, *rest: Any) -> Any:
        asked.append(cut)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(self, cut, *rest)

    monkeypatch.setattr(Probe, "perplexity", counted)
    with pytest.raises(KeyboardInterrupt):
        run(source, out, ratio=0.5)
    assert not out.exists()
    monkeypatch.setattr(Probe, "measure", lambda *_: pytest.fail("what counts was measured already"))
    report = run(source, out, ratio=0.5)
    # The first is known, the second is tried again; then the whole model and the result.
    assert len(asked) == 2 + len(report["candidates"]) - 1 + 2
    assert out.exists()


def stopped(out: Path, about: dict[str, Any], work: Any) -> Path:
    """In a workplace that is left before all is done."""
    with suppress(KeyboardInterrupt), workplace(out, about) as place:
        work(place)
        raise KeyboardInterrupt
    return Path(place.folder)


def test_steps_of_something_else_do_not_count(tmp_path: Path) -> None:
    out, seen = tmp_path / "out.gguf", []

    def work(place: Workplace) -> None:
        seen.append((place.get("a"), (place.folder / "trimmed.gguf").exists()))
        place.add("a", 5)
        (place.folder / "trimmed.gguf").touch()

    stopped(out, {"vocab": 1}, work)
    stopped(out, {"vocab": 1}, work)
    stopped(out, {"vocab": 2}, work)
    folder = stopped(out, {"vocab": 2}, work)
    (folder / "steps.json").write_text("{")
    with workplace(out, {"vocab": 2}) as place:
        work(place)
    assert seen == [(None, False), (5, True), (None, False), (5, True), (None, False)]
    assert list(tmp_path.iterdir()) == []


def test_two_do_not_make_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    folder = tmp_path / ".out.gguf.prune"
    folder.mkdir()
    with (
        FileLock(folder / ".lock"),
        pytest.raises(ModelError, match="another process is making"),
        workplace(out, {}),
    ):
        pytest.fail("it was let in")
    with pytest.raises(SettingsError, match="no such folder"), workplace(tmp_path / "no" / "out.gguf", {}):
        pytest.fail("it was let in")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing is to go: say --ratio, --layers, --ffn or --heads"),
        ({"ratio": 0.0}, "--ratio 0.0: choose a share"),
        ({"ratio": 1.0}, "--ratio 1.0: choose a share"),
        ({"ratio": float("nan")}, "choose a share"),
        ({"ratio": 0.999}, "must stay; choose a smaller --ratio"),
        ({"layers": 9}, "--layers 9: of 4 layers"),
        ({"heads": 2}, "not every engine would load"),
        ({"wanda": "0.5", "ratio": 0.5}, "--wanda makes weights zero and leaves none out"),
        ({"wanda": "3:4"}, "--wanda 3:4: say 2:4"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(wide: Reference, tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises((SettingsError, ModelUnsupported), match=said):
        run(wide[1], tmp_path / "new.gguf", **changes)
    assert not (tmp_path / "new.gguf").exists()


def test_what_is_there_already_stays(wide: Reference, tmp_path: Path) -> None:
    (tmp_path / "new.gguf").write_text("mine")
    with pytest.raises(ModelError, match=r"is there already: choose another --out"):
        run(wide[1], tmp_path / "new.gguf", layers=1)
    assert (tmp_path / "new.gguf").read_text() == "mine"


@pytest.mark.usefixtures("short")
def test_a_mask_says_that_it_gains_nothing(wide: Reference, tmp_path: Path) -> None:
    source = wide[1]
    report = run(source, tmp_path / "new.gguf", wanda="2:4")
    assert report["bytes"] == [source.path.stat().st_size] * 2
    assert report["num_zeros"] / report["num_weights"] >= 0.5
    assert "zeros gain nothing here" in report["gain"]


def test_a_plan_without_a_ratio_is_what_was_named(wide: Reference) -> None:
    structure = Structure.of(wide[1])
    assert Wanted(layers=1).plan(structure) == Plan(1, WIDE, HEADS, structure.after(LAYERS - 1, WIDE, HEADS))
