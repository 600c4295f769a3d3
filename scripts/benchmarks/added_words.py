"""What added Korean words save and cost without training: tokens, and bits a byte of held-out text."""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks import texts
from benchmarks.report import footer, save
from dure import catalog
from dure.settings import Settings
from dure_workshop.fetch import Fetcher
from dure_workshop.trim.added import MOST_WORSE, Added, add_words
from dure_workshop.trim.gguf_file import GgufModel

RESULT = Path("scripts/results/added-words.md")
MODELS = ("qwen2.5-coder-0.5b-korean",)


def measure(name: str, number: int, num_characters: int) -> Added:
    source = GgufModel.read(Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(name)))
    text = "\n".join(piece for kind in texts.KINDS for piece in texts.training(kind))
    with tempfile.TemporaryDirectory(prefix="dure-words-", dir=source.path.parent) as folder:
        target = Path(folder) / "model.gguf"
        return add_words(source, target, text, texts.sample(num_characters), number, most_worse=float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench added-words", description=__doc__)
    parser.add_argument("--model", action="append", help="a model of the catalogue")
    parser.add_argument("--words", type=int, action="append", help="how many are added")
    parser.add_argument("--characters", type=int, default=6_000, help="of held-out text")
    options = parser.parse_args()
    rows = []
    for name in options.model or MODELS:
        for number in options.words or (8, 64, 256):
            found = measure(name, number, options.characters)
            bits = f"{found.before.bits_per_byte:.4f} → {found.after.bits_per_byte:.4f}"
            verdict = "kept" if found.worse <= MOST_WORSE else "refused"
            rows.append(f"| {name} | {number} | {found.tokens_saved:.1%} | {bits} ({found.worse:+.1%}) | {verdict} |")
            print(rows[-1], ", ".join(found.words[:8]), flush=True)
    head = f"| model | words | tokens saved | bits a byte | by the limit of {MOST_WORSE:.1%} |"
    text = "\n".join([head, "|---|---:|---:|---|---|", *rows, *footer("scripts/bench added-words")])
    save(RESULT, text)
    print(text)


if __name__ == "__main__":
    main()
