"""`python -m benchmarks.comparison.limits`: what the machine allows, so that the distance to it is seen.

One stream reads every weight once a token: memory bandwidth over these bytes is its ceiling, unless guesses are checked
several at once. The kernels alone say how much of a pass the matrices take. Reads a list of [name, path] as JSON from
standard input, and prints one JSON object.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison.child import pin
from benchmarks.comparison.contestants import CONTESTANTS, Contestant
from dure import gguf

_BUFFER_BYTES = 1 << 30  # far more than any CPU's last cache
_BLOCK_BYTES = 1 << 24  # so much a thread takes at once: they end together
_NUM_READS = 5
_NUM_PASSES = 10
ROWS = (1, 8)


def bandwidth(num_threads: int) -> float:
    """Bytes a second that so many threads read; the best of several, since whatever disturbs makes it less."""
    buffer = np.ones(_BUFFER_BYTES // 8, np.int64)
    blocks = np.array_split(buffer, _BUFFER_BYTES // _BLOCK_BYTES)
    with ThreadPoolExecutor(num_threads) as pool:
        return max(_BUFFER_BYTES / _seconds(lambda: list(pool.map(np.sum, blocks))) for _ in range(_NUM_READS))


def gguf_bytes(path: Path) -> int:
    """Bytes of a GGUF file that one token reads: all but the embedding, of which it takes a row, unless that is the
    output too.
    """
    return sum(tensor.num_bytes for tensor in _read_whole(path))


def bf16_bytes(path: Path) -> int:
    return 2 * sum(tensor.num_weights for tensor in _read_whole(path))


def _read_whole(path: Path) -> list[gguf.Tensor]:
    tensors = gguf.read(path).tensors
    return [one for name, one in tensors.items() if name != gguf.EMBEDDING or gguf.OUTPUT not in tensors]


class Kernels:
    """All matrices of a model in the ark engine's packed form."""

    def __init__(self, path: Path, weights: str, num_threads: int) -> None:
        import torch  # noqa: PLC0415 - not there without the extra

        from dure_worker.engines.ark.loading import matrix, packed  # noqa: PLC0415
        from dure_worker.engines.ark.packed_file import PackedFile  # noqa: PLC0415
        from dure_worker.engines.ark.packing import RECIPES  # noqa: PLC0415

        torch.set_num_threads(num_threads)
        file = PackedFile.open(packed(path, RECIPES[weights]))
        self._linears = [matrix(file, name) for name in file.info]
        self._ones = torch.ones

    @property
    def num_bytes(self) -> int:
        return sum(linear.blob.nbytes for linear in self._linears)

    def pass_ms(self, num_rows: int) -> float:
        """One after another, as a pass has them; the best of several."""
        rows = [self._ones(num_rows, linear.k) for linear in self._linears]

        def run() -> None:
            for linear, x in zip(self._linears, rows, strict=True):
                linear(x)

        run()
        return min(_seconds(run) for _ in range(_NUM_PASSES)) * 1e3


def of(one: Contestant, path: Path, num_threads: int) -> dict[str, Any]:
    """bytes_a_token, None where that is not known; kernel_ms by number of rows."""
    if one.engine == "ark":
        kernels = Kernels(path, one.weights, num_threads)
        return {
            "bytes_a_token": kernels.num_bytes,
            "kernel_ms": {str(num_rows): kernels.pass_ms(num_rows) for num_rows in ROWS},
        }
    if one.weights:
        return {"bytes_a_token": bf16_bytes(path) if one.weights == "bf16" else None, "kernel_ms": {}}
    return {"bytes_a_token": gguf_bytes(path), "kernel_ms": {}}


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison.limits", description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    pin(options.threads)
    found = {name: of(CONTESTANTS[name], Path(path), options.threads) for name, path in json.loads(sys.stdin.read())}
    print(json.dumps({"bytes_a_s": bandwidth(options.threads), "engines": found}))


if __name__ == "__main__":
    main()
