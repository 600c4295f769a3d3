"""What the Korean editor mends and what it harms: clean text untouched, errors corrected by kind, milliseconds.

Single mistakes, clean sentences and registers are the project's own (korean_sets, written by hand). More clean text and
particles broken on purpose, come from the data folder beside this checkout where there is one. Or give your own files.
A corrected text counts only if it is exactly the right one; whatever else was changed counts as harm.
"""

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import machine, texts
from benchmarks.report import footer, save
from dure_worker.korean import josa, misspellings, parser, readings
from dure_worker.korean.editor import edit
from dure_worker.korean.endings import Register

RESULT = Path("scripts/results/korean.md")
SETS = Path(__file__).parent / "korean_sets"
_SEED = 7
_LONGEST, _SHORTEST = 200, 10
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_BETA2 = 0.25  # F0.5: harm counts for more than what is left

Edit = Callable[[str], str]


@dataclass
class Score:
    """right: corrected as wanted; harmed: changed otherwise; left: not changed."""

    right: int = 0
    harmed: int = 0
    left: int = 0

    def add(self, before: str, after: str, wanted: str) -> None:
        self.right += after == wanted
        self.left += after == before
        self.harmed += after not in (before, wanted)

    @property
    def figures(self) -> dict[str, float]:
        total, changed = self.right + self.harmed + self.left, self.right + self.harmed
        precision, recall = self.right / max(changed, 1), self.right / max(total, 1)
        base = _BETA2 * precision + recall
        return {
            "precision": precision,
            "recall": recall,
            "f05": (1 + _BETA2) * precision * recall / base if base else 0,
        }


def own_clean() -> list[str]:
    lines = (SETS / "clean.txt").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("# ")]


def own_pairs() -> dict[str, list[tuple[str, str]]]:
    """(wrong, right) by kind."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, wrong, right in _rows("pairs.tsv"):
        found.setdefault(kind, []).append((wrong.replace("\\n", "\n"), right.replace("\\n", "\n")))
    return found


def own_registers() -> list[tuple[str, str, Register]]:
    """(said otherwise, as wanted, in which register)."""
    found = []
    for formal, polite, plain in _rows("registers.tsv"):
        others = [text for text in (plain,) if text != "-"]
        found += [(text, formal, Register.FORMAL) for text in (polite, *others)]
        found += [(text, polite, Register.POLITE) for text in (formal, *others)]
        found += [(text, plain, Register.PLAIN) for plain in others for text in (formal, polite)]
    return found


def _rows(name: str) -> list[list[str]]:
    lines = (SETS / name).read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def clean_sentences(number: int) -> list[str]:
    """Of prose, documentation and everyday talk that was proofread; none without the data folder."""
    if not texts.DATA.is_dir():
        return []
    found = list(texts.held_out("prose"))
    lines = (texts.DATA / "tatoeba-ko" / "kor.txt").read_text("utf-8").splitlines()
    found += [line.split("\t")[1] for line in lines if line.count("\t") > 1]
    for page in texts.held_out("docs"):
        found += _SENTENCES.split(page)
    kept = [line.strip() for line in found if _SHORTEST <= len(line.strip()) <= _LONGEST and "`" not in line]
    random.Random(_SEED).shuffle(kept)
    return kept[:number]


def broken_particles(sentences: Iterable[str]) -> list[tuple[str, str]]:
    """(wrong, right): in each sentence one particle for the other of its pair, where the parser sees a particle."""
    dice, pairs = random.Random(_SEED), []
    for sentence in sentences:
        parsed = parser.parse(sentence)
        places = [
            match.span("josa")
            for match in josa.candidates(sentence)
            if readings.final(match["word"]) is not None
            and (found := parsed.starting_at(match.start("josa")))
            and found.tag.startswith("J")
            and found.form == match["josa"]
        ]
        if places:
            start, end = dice.choice(places)
            pairs.append((sentence[:start] + josa.OTHER[sentence[start:end]] + sentence[end:], sentence))
    return pairs


def listed() -> list[tuple[str, str]]:
    """The list of misspellings itself."""
    return [(f"그 {wrong} 등", f"그 {right} 등") for wrong, (right, _) in misspellings.entries().items()]


def _with_particles(text: str, chosen: Callable[[str, str], str]) -> str:
    """Each particle as `chosen` of the word before it and what stands there."""
    for match in reversed(list(josa.candidates(text))):
        start, end = match.span("josa")
        text = text[:start] + chosen(match["word"], match["josa"]) + text[end:]
    return text


def by_final_consonant(text: str) -> str:
    """What a pattern alone does, without a parser."""
    return _with_particles(text, lambda word, particle: josa.agreeing(particle, readings.final(word)))


def by_kiwi(text: str) -> str:
    """Kiwi's own morphemes joined anew, and its spacing."""
    kiwi = parser.kiwi()
    written: str = kiwi.space(kiwi.join(kiwi.tokenize(text)))
    return written


def by_kss(text: str) -> str:
    from kss import Kss  # noqa: PLC0415

    spaced: str = Kss("correct_spacing")(text)
    return spaced


def by_soynlp(text: str) -> str:
    from soynlp.normalizer import repeat_normalize  # noqa: PLC0415

    normalized: str = repeat_normalize(text, num_repeats=2)
    return normalized


def by_tossi(text: str) -> str:
    from tossi import pick  # noqa: PLC0415

    return _with_particles(text, pick)


EDITORS: dict[str, Edit] = {
    "dure": edit,
    "final consonant alone": by_final_consonant,
    "Kiwi, join and space": by_kiwi,
    "nothing": lambda text: text,
}
# What each does of all this, where it is installed (.venv/bin/pip install kss soynlp tossi).
PEERS: dict[str, tuple[str, Edit]] = {
    "kss": ("kss, correct_spacing", by_kss),
    "soynlp": ("soynlp, repeat_normalize", by_soynlp),
    "tossi": ("tossi on each particle", by_tossi),
}


def scored(editor: Edit, clean: list[str], pairs: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    kinds = {}
    for kind, each in pairs.items():
        score = Score()
        for before, wanted in each:
            score.add(before, editor(before), wanted)
        kinds[kind] = score.figures
    untouched = sum(editor(sentence) == sentence for sentence in clean) / max(len(clean), 1)
    return {"clean_untouched": untouched, "by_kind": kinds}


def register_reached(rows: list[tuple[str, str, Register]]) -> float:
    """The share that is said exactly as wanted."""
    return sum(edit(text, register=register) == wanted for text, wanted, register in rows) / len(rows)


def milliseconds(sentences: list[str]) -> dict[str, float]:
    took = []
    for sentence in sentences:
        began = time.perf_counter()
        edit(sentence)
        took.append(1e3 * (time.perf_counter() - began))
    return {"ms_p50": statistics.median(took), "ms_p99": statistics.quantiles(took, n=100)[98]}


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line]
    if any(len(line) < 2 for line in lines):  # noqa: PLR2004
        raise SystemExit(f"{path}: each line is wrong TAB right")
    return [(line[0], line[1]) for line in lines]


def main() -> None:
    options = argparse.ArgumentParser(prog="scripts/bench korean", description=__doc__)
    options.add_argument("--clean", type=Path, help="sentences that are right, one a line")
    options.add_argument("--pairs", type=Path, help="lines of wrong TAB right")
    options.add_argument("--sentences", type=int, default=1500, help="of the data folder")
    options.add_argument("--show", type=int, default=0, help="print so many of what went wrong of each kind")
    options.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = options.parse_args()
    parser.load()
    more = clean_sentences(given.sentences)
    is_own = not given.clean and not given.pairs
    clean = given.clean.read_text("utf-8").splitlines() if given.clean else own_clean() + more
    pairs = {"pairs": _read_pairs(given.pairs)} if given.pairs else {}
    if is_own:
        pairs = own_pairs() | {"josa, broken on purpose": broken_particles(more), "misspellings, listed": listed()}
    registers = own_registers()
    editors = EDITORS | dict(peer for package, peer in PEERS.items() if find_spec(package))
    found = {name: scored(editor, clean, pairs) for name, editor in editors.items()}
    times = milliseconds(clean)
    reached = register_reached(registers)
    _show(clean, pairs, registers, given.show)
    lines = _table(found, len(clean), {kind: len(each) for kind, each in pairs.items()})
    lines += ["", f"A sentence takes {times['ms_p50']:.1f} ms (p50), {times['ms_p99']:.1f} ms (p99)."]
    lines += ["", f"Of {len(registers)} sentences in another register {reached:.1%} are said exactly as wanted."]
    peers = [f"{package} {version(package)}" for package in PEERS if find_spec(package)]
    lines += ["", f"Compared with {', '.join(peers)}."] if peers else []
    lines += footer(f"scripts/bench korean --sentences {given.sentences}")
    print("\n".join(lines))
    if is_own:
        save(RESULT, "\n".join(lines))
    if given.json:
        print(
            json.dumps(
                {"machine": machine.describe(), **found["dure"], "register_reached": reached, **times},
                ensure_ascii=False,
                default=str,
            )
        )


def _table(found: dict[str, dict[str, Any]], num_clean: int, num_pairs: dict[str, int]) -> list[str]:
    lines = [f"| precision / recall / F0.5 | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    untouched = [format(each["clean_untouched"], ".2%") for each in found.values()]
    lines.append(f"| clean, {num_clean}: untouched | {' | '.join(untouched)} |")
    for kind, number in num_pairs.items():
        figures = [" / ".join(f"{value:.3f}" for value in each["by_kind"][kind].values()) for each in found.values()]
        lines.append(f"| {kind}, {number} | {' | '.join(figures)} |")
    return lines


def _show(
    clean: list[str], pairs: dict[str, list[tuple[str, str]]], registers: list[tuple[str, str, Register]], number: int
) -> None:
    if not number:
        return
    done = {"clean": [(text, text, edit(text)) for text in clean]}
    done |= {kind: [(before, wanted, edit(before)) for before, wanted in each] for kind, each in pairs.items()}
    done["register"] = [(text, wanted, edit(text, register=register)) for text, wanted, register in registers]
    for kind, rows in done.items():
        for text, wanted, found in [row for row in rows if row[1] != row[2]][:number]:
            print(f"{kind}: {text} | wanted {wanted} | got {found}")


if __name__ == "__main__":
    main()
