"""What is made of a checkpoint takes far less memory than the checkpoint: it may be larger than the box."""

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_decoder import TinyDecoder

MIB = 1 << 20
WIDE = 1 << 16  # six matrices of 16 MiB
NUM_SHARDS = 2

CONVERT = """
from dure_workshop.convert import convert
convert(Checkpoint.read(Path(sys.argv[1])), Path(sys.argv[1]).with_suffix(".gguf"))
"""
TRIM = """
from dure_workshop.trim.checkpoint import trim
trim(Checkpoint.read(Path(sys.argv[1])), Path(sys.argv[1]).with_suffix(".out"), {"korean", "english"}, 320)
"""
BEFORE = """
import sys
from pathlib import Path
from dure_workshop.trim.checkpoint_files import Checkpoint
"""
AFTER = """
status = Path("/proc/self/status").read_text("utf-8")
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


def peak(work: str, folder: Path) -> int:
    """Bytes, of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + work + AFTER, str(folder)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) << 10


@pytest.mark.parametrize("work", [CONVERT, TRIM], ids=["convert", "trim"])
def test_the_peak_grows_by_less_than_one_shard(tmp_path: Path, work: str) -> None:
    """Proved: with the file read whole it grows by all of it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process's peak")
    small = TinyDecoder.make("qwen2").write(tmp_path / "small", NUM_SHARDS)
    large = TinyDecoder.make("qwen2", ffn=WIDE).write(tmp_path / "large", NUM_SHARDS)
    shard = max(path.stat().st_size for path in large.glob("*.safetensors"))
    assert shard > 30 * MIB
    assert peak(work, large) - peak(work, small) < shard
