"""What `quantize` does with its options."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dure import gguf
from dure.errors import ModelError, SettingsError
from dure.settings import Settings

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_workshop import commands
from dure_workshop.calibrate import calibrate
from dure_workshop.quantize.gguf_file import size_of
from reference_model import ReferenceModel

TEXT = "두레는 hello 123 漢字 か Ж. " * 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> gguf.Gguf:
    folder = tmp_path_factory.mktemp("reference")
    found = gguf.read(ReferenceModel.make("qwen2", tie_word_embeddings=True).write(folder / "model.gguf"))
    calibrate(found, TEXT).write(folder / "importance", found, TEXT)
    (folder / "text.txt").write_text(TEXT, "utf-8")
    return found


def quantized(source: gguf.Gguf, out: Path, **given: Any) -> dict[str, Any]:
    folder = source.path.parent
    options = {
        "model": str(source.path), "out": out, "importance": folder / "importance", "text": [folder / "text.txt"],
        "target_mb": None, "bits": None, "preset": None, "max_ppl_loss": None, "plain": False,
        "method": "importance", "iterations": None, "group": None,
    }  # fmt: skip
    settings = Settings(home=out.parent)
    return commands.run_quantize(argparse.Namespace(**options | given), settings, Console(quiet=True))


@pytest.mark.parametrize("given", [{"iterations": 20}, {"group": 32}])
def test_options_of_the_other_method_are_refused(source: gguf.Gguf, tmp_path: Path, given: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="are of --method autoround: say that, or leave them out"):
        quantized(source, tmp_path / "new.gguf", bits=4.0, **given)


class Judge:
    """A perplexity that falls with the bytes: of the source 10, of half of it 20. It fails the n-th time."""

    def __init__(self, source: gguf.Gguf, fails_at: int = 0) -> None:
        self._whole, self._fails_at = size_of(source).num_bytes, fails_at
        self.num_asked = 0

    def __call__(self, path: Path, *_: Any) -> SimpleNamespace:
        self.num_asked += 1
        if self.num_asked == self._fails_at:
            raise KeyboardInterrupt
        return SimpleNamespace(per_token=10 + 20 * (1 - size_of(gguf.read(path)).num_bytes / self._whole))


def test_errors_are_compensated_unless_it_shall_be_plain(source: gguf.Gguf, tmp_path: Path) -> None:
    found = quantized(source, tmp_path / "new.gguf", bits=6.0)
    plain = quantized(source, tmp_path / "plain.gguf", bits=6.0, plain=True)
    assert {**found, "out": 0} == {**plain, "out": 0}
    assert 5 < found["bits_per_weight"][1] <= 6
    assert found["tries"] == []
    assert (tmp_path / "new.gguf").read_bytes() != (tmp_path / "plain.gguf").read_bytes()


def test_the_smallest_file_within_the_limit_is_found(
    source: gguf.Gguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(source)
    monkeypatch.setattr(commands, "perplexity", judge)
    out = tmp_path / "new.gguf"
    found = quantized(source, out, max_ppl_loss=1.5, plain=True)
    share = size_of(gguf.read(out)).num_bytes / size_of(source).num_bytes
    assert 0.75 <= share < 0.85
    kept = [each for each in found["tries"] if each["loss"] <= 1.5]
    assert kept
    assert kept[0]["loss"] == pytest.approx(1 + 2 * (1 - share))
    # The source, then each try once.
    assert judge.num_asked == 1 + len(found["tries"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.gguf", "new.tries.json"]


def test_a_stopped_search_goes_on(source: gguf.Gguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "perplexity", Judge(source))
    (tmp_path / "whole").mkdir()
    wanted = quantized(source, tmp_path / "whole" / "new.gguf", max_ppl_loss=1.5, plain=True)
    monkeypatch.setattr(commands, "perplexity", Judge(source, fails_at=4))
    with pytest.raises(KeyboardInterrupt):
        quantized(source, tmp_path / "new.gguf", max_ppl_loss=1.5, plain=True)
    done = len(json.loads((tmp_path / "new.tries.json").read_text("utf-8"))["tries"])
    assert done == 2
    again = Judge(source)
    monkeypatch.setattr(commands, "perplexity", again)
    found = quantized(source, tmp_path / "new.gguf", max_ppl_loss=1.5, plain=True)
    assert {**found, "out": 0} == {**wanted, "out": 0}
    assert again.num_asked == 1 + len(wanted["tries"]) - done
    assert (tmp_path / "new.gguf").read_bytes() == (tmp_path / "whole" / "new.gguf").read_bytes()


def test_a_search_with_other_options_does_not_go_on(
    source: gguf.Gguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "perplexity", Judge(source))
    quantized(source, tmp_path / "new.gguf", max_ppl_loss=1.5, plain=True)
    (tmp_path / "new.gguf").unlink()
    with pytest.raises(SettingsError, match="is of another search"):
        quantized(source, tmp_path / "new.gguf", max_ppl_loss=1.5)


@pytest.mark.parametrize("given", [{}, {"bits": 4.0, "max_ppl_loss": 1.2}, {"preset": "2bit", "target_mb": 5.0}])
def test_the_size_is_said_once(source: gguf.Gguf, tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"say once how small it shall be: .*--max-ppl-loss"):
        quantized(source, tmp_path / "new.gguf", **given)


def test_a_limit_that_no_file_keeps_leaves_no_file(
    source: gguf.Gguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "perplexity", Judge(source))
    with pytest.raises(SettingsError, match="allow over 1"):
        quantized(source, tmp_path / "new.gguf", max_ppl_loss=1.0, plain=True)
    assert not list(tmp_path.glob("*.gguf"))


def test_what_is_there_is_not_overwritten(source: gguf.Gguf, tmp_path: Path) -> None:
    (tmp_path / "new.gguf").write_bytes(b"mine")
    with pytest.raises(ModelError, match="is there already"):
        quantized(source, tmp_path / "new.gguf", bits=6.0)
    assert (tmp_path / "new.gguf").read_bytes() == b"mine"
