"""What AutoRound chose is in the file, number by number, and ark holds it in as many bits."""

import argparse
import gc
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dure import gguf
from dure.errors import ModelError, ModelUnsupported, SettingsError
from dure.gguf import Gguf, TensorType
from dure.settings import Settings

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")
pytest.importorskip("auto_round", reason="the extra `workshop` is not installed")

from dure_worker.engines.ark import loading  # noqa: E402
from dure_worker.engines.ark.attention import Segment  # noqa: E402
from dure_worker.engines.ark.blocks import codes  # noqa: E402
from dure_worker.engines.ark.chat_tokenizer import ChatTokenizer  # noqa: E402
from dure_worker.engines.ark.kv_cache import KvCache  # noqa: E402
from dure_worker.engines.ark.packed_file import PackedFile  # noqa: E402
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, Recipe, pack  # noqa: E402
from dure_worker.engines.hf.loading import load  # noqa: E402
from dure_workshop import commands  # noqa: E402
from dure_workshop.convert import name_of  # noqa: E402
from dure_workshop.dequantize import Floats, rows  # noqa: E402
from dure_workshop.quantize import autoround  # noqa: E402
from dure_workshop.quantize.autoround import Rounded, matrices, rounded_by_autoround  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

TEXT = "두레는 hello 123 漢字 か Ж. " * 40
LENGTH, GROUP = 32, 64
STEP = 2.0**-9  # between the weights that the reference's file can hold
# By how many bits it is rounded to: of two architectures, one of which turns its queries and keys in pairs.
KINDS = {4: "qwen2", 3: "llama", 2: "qwen2"}
IDS = [(number * 37) % 250 for number in range(64)]


@pytest.fixture(scope="module", autouse=True)
def _quick_collection() -> Iterator[None]:
    """AutoRound collects garbage many times a layer; what is there before needs no look."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("something comes over the network")

    monkeypatch.setattr(socket.socket, "connect", refused)


@dataclass(frozen=True)
class Run:
    """What went in and came out; own: the weights that AutoRound's own modules had at the end, by the file's names."""

    source: Gguf
    found: Gguf
    own: dict[str, "torch.Tensor"]
    told: list[tuple[int, int]]
    num_tokens: int


def model_of(kind: str) -> ReferenceModel:
    """One whose groups differ in size: by a factor of four from the smallest to the largest."""
    found = ReferenceModel.make(kind)
    dice = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in found.model.parameters():
            if weight.ndim > 1:
                blocks = weight.view(-1, GROUP)
                largest = torch.randint(30, 121, (len(blocks), 1), generator=dice)
                blocks.copy_((torch.rand(blocks.shape, generator=dice) * 2 - 1).mul(largest).round() * STEP)
    return found


def made(bits: int, folder: Path, seed: int = 0) -> Run:
    source = gguf.read(model_of(KINDS[bits]).write(folder / "model.gguf"))
    own: dict[str, torch.Tensor] = {}
    told: list[tuple[int, int]] = []

    def recorded(name: str, module: Any, bits: int, order: list[int] | None) -> Rounded:
        weight = module.weight.detach().clone()
        own[name] = weight if order is None else weight[order]
        return taken(name, module, bits, order)

    taken = autoround._taken
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(autoround, "_taken", recorded)
        num_tokens = rounded_by_autoround(
            source, folder / "new.gguf", bits, GROUP, TEXT, iterations=10, num_samples=6, length=LENGTH, seed=seed,
            on_progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
    return Run(source, gguf.read(folder / "new.gguf"), own, told, num_tokens)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    return {bits: made(bits, tmp_path_factory.mktemp(f"{bits}-bits")) for bits in autoround.BITS}


def all_rows(file: Gguf, name: str) -> Floats:
    return rows(file, file.tensors[name], list(range(file.tensors[name].num_rows)))


@pytest.mark.parametrize("bits", autoround.BITS)
def test_the_file_has_the_weights_that_it_chose(runs: dict[int, Run], bits: int) -> None:
    run = runs[bits]
    assert run.own.keys() == {each.name for each in matrices(run.source)}
    for name, own in run.own.items():
        # Its modules hold the products of codes and scales in 16 bits.
        assert torch.equal(torch.from_numpy(all_rows(run.found, name)).bfloat16(), own), name


@pytest.mark.parametrize("bits", autoround.BITS)
def test_a_group_has_one_scale_and_codes_of_these_bits(runs: dict[int, Run], bits: int) -> None:
    file = runs[bits].found
    used = set()
    for tensor in matrices(file):
        assert tensor.type is TensorType.Q4_0
        found = codes(b"".join(gguf.rows(file, tensor)), tensor.type, tensor.shape[0])
        assert found.merged().group >= GROUP
        used |= set(np.unique(found.codes).tolist())
    assert used == set(range(-(1 << bits - 1), 1 << bits - 1))


@pytest.mark.parametrize("bits", autoround.BITS)
def test_all_else_keeps_its_bytes(runs: dict[int, Run], bits: int) -> None:
    run = runs[bits]
    assert run.found.values == run.source.values
    assert run.found.tensors.keys() == run.source.tensors.keys()
    for name in run.source.tensors.keys() - run.own.keys():
        before, after = (b"".join(gguf.rows(each, each.tensors[name])) for each in (run.source, run.found))
        assert before == after, name


@pytest.mark.parametrize("bits", autoround.BITS)
def test_ark_holds_it_in_as_many_bits_and_computes_with_its_weights(
    runs: dict[int, Run], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_pack", pack)
    file = runs[bits].found
    info = PackedFile.open(loading.packed(file.path, AS_IN_THE_FILE)).info
    assert {tuple(each[2:]) for name, each in info.items() if name != "head"} == {(bits, GROUP, "bf16")}
    decoder = loading.load(file)
    found = decoder.forward([Segment(0, 0, IDS, len(IDS))], KvCache(decoder.config, 1, len(IDS))).numpy()
    model = load(file.path, "float32").model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if (place := name_of(name, file.path)) in runs[bits].own:
                # The reader of transformers, against what the file has.
                assert sorted(weight.flatten().tolist()) == sorted(all_rows(file, place).flatten().tolist())
        wanted = model(torch.tensor([IDS])).logits[0].numpy()
    # The kernels round activations to 8 bits.
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


def test_fewer_bits_are_a_smaller_packed_file(runs: dict[int, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_pack", pack)
    sizes = {}
    for bits, run in runs.items():
        tensors = PackedFile.open(loading.packed(run.found.path, AS_IN_THE_FILE)).tensors
        sizes[bits] = sum(tensors[f"{number}.gate_up"].numel() for number in range(2))
    assert sizes[2] < sizes[3] < sizes[4]
    weights = 2 * 512 * 128
    assert (sizes[4] - sizes[2]) * 8 == pytest.approx(2 * weights, rel=0.1)


@pytest.mark.parametrize("bits", [2, 3])
def test_a_recipe_with_as_many_bits_leaves_it_as_it_is(
    runs: dict[int, Run], bits: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading, "_pack", pack)
    path = runs[bits].found.path
    for recipe, name in ((AS_IN_THE_FILE, "file"), (Recipe(bits, 32), "recipe")):
        pack(path, tmp_path / name, recipe)
    assert (tmp_path / "recipe").read_bytes() == (tmp_path / "file").read_bytes()


def nearest(numbers: Floats, bits: int) -> Floats:
    """Each weight for itself, as AutoRound begins: the largest of a group is the code furthest from zero."""
    grouped = numbers.reshape(-1, GROUP)
    largest = np.take_along_axis(grouped, np.abs(grouped).argmax(1)[:, None], 1)
    scales = largest / -(1 << bits - 1)
    rounded = np.round(grouped / scales).clip(-(1 << bits - 1), (1 << bits - 1) - 1) * scales
    return np.asarray(rounded.reshape(numbers.shape), np.float32)


@pytest.mark.parametrize("bits", autoround.BITS)
def test_outputs_over_the_text_are_nearer_than_with_weights_rounded_one_by_one(runs: dict[int, Run], bits: int) -> None:
    run = runs[bits]
    ids = autoround._pieces(run.source, TEXT, 6, LENGTH)
    model = load(run.source.path, "float32").model
    with torch.inference_mode():
        wanted = model(ids).logits
        learnt = load(run.found.path, "float32").model(ids).logits
        for name, weight in model.named_parameters():
            if ".layers." in name and weight.ndim > 1:
                weight.copy_(torch.from_numpy(nearest(weight.numpy(), bits)))
        plain = model(ids).logits
    assert torch.dist(learnt, wanted) < 0.85 * torch.dist(plain, wanted)


def test_how_far_it_is_and_how_much_was_read_is_told(runs: dict[int, Run]) -> None:
    assert runs[4].told == [(1, 2), (2, 2)]
    assert runs[4].num_tokens == 6 * LENGTH


def test_the_same_seed_gives_the_same_file(runs: dict[int, Run], tmp_path: Path) -> None:
    again = made(2, tmp_path)
    assert again.found.path.read_bytes() == runs[2].found.path.read_bytes()


def test_its_own_bar_is_there_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auto_round.compressors import orchestrator

    shown = orchestrator.tqdm
    source = gguf.read(ReferenceModel.make("qwen2").write(tmp_path / "model.gguf"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounded_by_autoround(
            source, tmp_path / "new.gguf", 4, 64, TEXT, iterations=1, num_samples=1, length=LENGTH, on_progress=stopped
        )
    assert orchestrator.tqdm is shown
    assert {each.name for each in tmp_path.iterdir()} == {"model.gguf"}


class Module:
    """As AutoRound leaves one."""

    def __init__(self, scale: float, weight: float = 1.0) -> None:
        self.scale = torch.full((2, 1), scale)
        self.weight = torch.full((2, 32), weight)


@pytest.mark.parametrize(
    "broken", [Module(float("nan")), Module(1.0, float("nan")), Module(0.0), Module(1.0, 8.0), Module(1e9, 1e9)]
)
def test_what_is_no_number_of_these_bits_is_refused_by_name(broken: Module) -> None:
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight: AutoRound found no numbers for it"):
        autoround._taken("blk.0.ffn_up.weight", broken, 4, None)


@pytest.fixture
def source(tmp_path: Path) -> Gguf:
    return gguf.read(ReferenceModel.make("qwen2").write(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"bits": 5}, SettingsError, "weights of 4, 3, 2 bits"),
        ({"group": 96}, SettingsError, "groups of 128, 64, 32 weights"),
        ({"text": "두레"}, SettingsError, "tokens, and a piece of it 32: give more"),
        ({"iterations": 0}, SettingsError, "iterations"),
    ],
)
def test_what_cannot_be_rounded_so_is_refused(
    source: Gguf, given: dict[str, Any], error: type[Exception], told: str
) -> None:
    target = source.path.with_name("new.gguf")
    plain = {"bits": 4, "group": 32, "text": TEXT, "length": LENGTH}
    with pytest.raises(error, match=told):
        rounded_by_autoround(source, target, **plain | given)
    assert not target.exists()


def test_pieces_are_taken_evenly(source: Gguf) -> None:
    ids = torch.tensor(ChatTokenizer(source).plain(TEXT))
    found = autoround._pieces(source, TEXT, 3, LENGTH)
    there = len(ids) // LENGTH
    assert there > 6
    starts = [0, there // 3 * LENGTH, 2 * there // 3 * LENGTH]
    assert torch.equal(found, torch.stack([ids[start : start + LENGTH] for start in starts]))
    assert len(autoround._pieces(source, TEXT, 10_000, LENGTH)) == there


def test_a_group_that_does_not_divide_is_refused_with_one_that_does(tmp_path: Path) -> None:
    narrow = ReferenceModel.make("qwen2", hidden_size=160, num_attention_heads=5, num_key_value_heads=1)
    source = gguf.read(narrow.write(tmp_path / "model.gguf"))
    with pytest.raises(SettingsError, match=r"blk\..* has rows of 160 weights, no multiple of 64: take groups of 32"):
        rounded_by_autoround(source, tmp_path / "new.gguf", 4, 64, TEXT)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    source = gguf.read(ReferenceModel.make("gptneox").write(tmp_path / "model.gguf"))
    with pytest.raises(ModelUnsupported, match=r"is gptneox; AutoRound is there for gemma3, llama, .*--method import"):
        rounded_by_autoround(source, tmp_path / "new.gguf", 4, 64, TEXT)


def test_a_missing_package_is_named_with_its_remedy(source: Gguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "auto_round", None)
    with pytest.raises(SettingsError, match=r"needs one more package: pip install 'dure\[workshop\]'"):
        rounded_by_autoround(source, source.path.with_name("new.gguf"), 4, 64, TEXT, length=LENGTH)


def quantized(source: Gguf, **given: Any) -> dict[str, Any]:
    text = source.path.with_name("text.txt")
    text.write_text(TEXT, "utf-8")
    options = {
        "model": str(source.path), "out": source.path.with_name("new.gguf"), "text": [text],
        "method": "autoround", "bits": 3.0, "group": None, "iterations": 2, "importance": None, "target_mb": None,
        "preset": None, "max_ppl_loss": None, "plain": False,
    }  # fmt: skip
    settings = Settings(home=source.path.parent)
    return commands.run_quantize(argparse.Namespace(**options | given), settings, Console(quiet=True))


@pytest.mark.parametrize(("bits", "group"), [(3.0, 128), (2.0, 32)])
def test_the_command_makes_the_file(source: Gguf, bits: float, group: int) -> None:
    found = quantized(source, bits=bits)
    file = gguf.read(Path(found["out"]))
    assert found["bytes"] == file.path.stat().st_size
    assert found["kinds"] == {f"Q4_0 ({bits:g} bits, groups of {group})": 14}
    assert found["bits_per_weight"][1] < found["bits_per_weight"][0]
    assert found["tokens_of_text"] % 256 == 0
    assert found["tokens_of_text"] > 0
    with pytest.raises(ModelError, match="is there already: choose another --out"):
        quantized(source)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"bits": None}, "needs --bits: 4, 3, 2"),
        ({"bits": 2.5}, "needs --bits: 4, 3, 2"),
        ({"target_mb": 100.0}, "--target-mb cannot go with"),
        ({"plain": True, "preset": "2bit"}, "--preset, --plain cannot go with"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_options_that_do_not_fit_are_refused(source: Gguf, given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        quantized(source, **given)
    assert not source.path.with_name("new.gguf").exists()
