"""The 0.5B in fewer bits through the command: as small as it was asked, and better for knowing which columns count."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dure import gguf
from dure_workshop import texts
from dure_workshop.perplexity import perplexity

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_workshop.calibrate import Importance
from dure_workshop.quantize.gguf_file import requantized, size_of
from dure_workshop.quantize.mixture import matrices, mix, options

pytestmark = pytest.mark.weights

MODEL = "qwen2.5-coder-0.5b-korean"
BITS = 4.7
TEXT = texts.own("korean")[:1500]


def dure(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("dure")), "workshop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(fetched: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    fetched(MODEL)
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def importance(folder: Path) -> Path:
    told = dure("calibrate", MODEL, f"--out={folder / 'importance.safetensors'}", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["num_tokens"] > 1000
    return folder / "importance.safetensors"


@pytest.fixture(scope="module")
def smaller(folder: Path, importance: Path) -> dict[str, Any]:
    told = dure(
        "quantize", MODEL, f"--out={folder / 'small.gguf'}", f"--importance={importance}", f"--bits={BITS}", "--json"
    )
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def test_it_is_as_small_as_it_was_asked(smaller: dict[str, Any], folder: Path) -> None:
    size = size_of(gguf.read(folder / "small.gguf"))
    assert BITS - 0.1 < size.bits_per_weight <= BITS
    assert smaller["bits_per_weight"][1] == round(size.bits_per_weight, 4)
    assert smaller["bytes"] == (folder / "small.gguf").stat().st_size


def test_knowing_which_columns_count_helps(
    smaller: dict[str, Any], folder: Path, fetched: Callable[[str], Path]
) -> None:
    """The same bits by an importance that is the same everywhere, and what Korean text costs."""
    assert smaller["bytes"]
    weights = fetched(MODEL)
    source = gguf.read(weights)
    known = Importance.read(folder / "importance.safetensors", source)
    blind = Importance({name: np.ones_like(each) for name, each in known.columns.items()}, 0)
    choices = {tensor.name: options(source, tensor, blind) for tensor in matrices(source)}
    requantized(source, folder / "blind.gguf", mix(source, choices, int(size_of(source).num_weights * BITS / 8)), blind)
    before, with_it, without = (
        perplexity(path, TEXT).per_token for path in (weights, folder / "small.gguf", folder / "blind.gguf")
    )
    assert before < with_it < without
    assert with_it < 1.15 * before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say once how small it shall be: --target-mb, --bits or --preset"),
        (["--bits=4", "--preset=2bit"], "say once how small"),
        (["--target-mb=20"], "20 MB are too few"),
        (["--bits=4", "--text=/nowhere.txt"], "--text /nowhere.txt cannot be read"),
        (["--bits=4", "--importance=/nowhere"], "/nowhere cannot be read"),
        (["--preset=1bit"], "invalid choice: '1bit'"),
    ],
)
def test_what_cannot_be_done_is_said(importance: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = arguments
    if not any(each.startswith(("--importance", "--text")) for each in arguments):
        given = [*arguments, f"--importance={importance}"]
    told = dure("quantize", MODEL, f"--out={tmp_path / 'small.gguf'}", *given)
    assert told.returncode == 1
    assert message in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "small.gguf").exists()


def test_what_is_there_is_not_overwritten(importance: Path, tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"mine")
    told = dure("quantize", MODEL, f"--out={tmp_path / 'small.gguf'}", f"--importance={importance}", "--bits=4.7")
    assert told.returncode == 1
    assert "is there already" in told.stderr
    assert (tmp_path / "small.gguf").read_bytes() == b"mine"
