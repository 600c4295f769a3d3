"""What each way to quantize the ark engine's weights costs: bytes, perplexity of held-out Korean, beside llama.cpp's.

Speeds are not measured here. Every file is packed, measured and deleted before the next.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import machine, texts
from benchmarks.report import footer, save
from dure import catalog, gguf
from dure.settings import Settings
from dure_worker.engines.ark.loading import load, packed
from dure_worker.engines.ark.packed_file import PackedFile
from dure_worker.engines.ark.packing import AS_IN_THE_FILE, Recipe
from dure_worker.settings import WorkerSettings
from dure_workshop.evaluate.ark_logits import ArkLogits
from dure_workshop.evaluate.likelihood import text_perplexity
from dure_workshop.fetch import Fetcher
from dure_workshop.perplexity import perplexity

RESULTS = Path("scripts/results")
MODEL = "qwen2.5-coder-0.5b-korean"
RECIPES = {
    "as in the file": AS_IN_THE_FILE,
    "int8, group 128": Recipe(8, 128),
    "int6, group 128, importance": Recipe(6, 128, method="importance"),
    "int5, group 128": Recipe(5, 128),
    "int5, group 128, importance": Recipe(5, 128, method="importance"),
    "int5, group 128, GPTQ": Recipe(5, 128, method="gptq"),
    "int4 and int5, group 32, GPTQ": Recipe(4, 32, more_bits=5, method="gptq"),
    "int4 and int5, group 128, GPTQ": Recipe(4, 128, more_bits=5, method="gptq"),
    "int4, group 128, GPTQ": Recipe(4, 128, method="gptq"),
    "int2, group 32, GPTQ": Recipe(2, 32, method="gptq"),
}


@dataclass(frozen=True)
class Row:
    """bytes_a_token: of the weights that are read for one token."""

    name: str
    bytes_a_token: int
    file_bytes: int
    per_token: float


def of_llama(path: Path, text: str, num_threads: int) -> Row:
    source = gguf.read(path)
    skipped = gguf.EMBEDDING if gguf.OUTPUT in source.tensors else ""
    read = sum(tensor.num_bytes for tensor in source.tensors.values() if tensor.name != skipped)
    found = perplexity(path, text, num_threads=num_threads).per_token
    return Row("llama engine, the file itself", read, path.stat().st_size, found)


def of_ark(name: str, path: Path, recipe: Recipe, text: str) -> Row:
    """Packed beside a link to the file, so that what a worker has packed stays."""
    with tempfile.TemporaryDirectory(prefix=".quantization-", dir=path.parent) as folder:
        link = Path(folder) / path.name
        link.symlink_to(path)
        target = packed(link, recipe)
        read = sum(
            tensor.nbytes for name, tensor in PackedFile.open(target).tensors.items() if not name.startswith("embed")
        )
        source = gguf.read(link)
        found = text_perplexity(ArkLogits(source, load(source, recipe)), text).per_token
        return Row(f"ark, {name}", read, target.stat().st_size, found)


def measure(name: str, text: str, wanted: list[str]) -> list[Row]:
    path = Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(name))
    found = [of_llama(path, text, WorkerSettings.read().num_threads)]
    for each in wanted:
        print(found[-1], flush=True)
        found.append(of_ark(each, path, RECIPES[each], text))
    return found


def table(name: str, rows: list[Row]) -> list[str]:
    head = f"| {name} | read a token | file | perplexity a token | of llama's |"
    return [
        head,
        "|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.bytes_a_token / 1e6:.0f} MB | {row.file_bytes / 1e6:.0f} MB | {row.per_token:.2f} "
            f"| {row.per_token / rows[0].per_token:.4f} |"
            for row in rows
        ),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench quantization", description=__doc__)
    parser.add_argument("--model", action="append", help=f"of the catalogue (default: {MODEL})")
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="default: all")
    parser.add_argument("--characters", type=int, default=12_000, help="of held-out text")
    parser.add_argument("--json", action="store_true", help="print the figures too")
    options = parser.parse_args()
    torch.set_num_threads(WorkerSettings.read().num_threads)
    text = texts.sample(options.characters)
    figures = {}
    chosen = "".join(f" --recipe '{name}'" for name in options.recipe or ())
    for name in options.model or [MODEL]:
        found = measure(name, text, options.recipe or list(RECIPES))
        command = f"scripts/bench quantization --model {name}{chosen} --characters {options.characters}"
        lines = [*table(name, found), *footer(command)]
        # A model has a file of its own: a run of all takes an hour.
        save(RESULTS / f"quantization-{name}.md", "\n".join(lines))
        print("\n".join(lines))
        figures[name] = [vars(row) for row in found]
    if options.json:
        print(json.dumps({"machine": machine.describe(), "models": figures}, default=str))


if __name__ == "__main__":
    main()
