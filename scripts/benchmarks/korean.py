"""What the Korean editor mends and what it harms: clean text untouched, errors corrected by kind, milliseconds.

Clean text and the particles that are broken on purpose come from the data folder beside this checkout, or from files of
your own. A corrected text counts only if it is exactly the right one; whatever else was changed counts as harm.
"""

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, texts
from benchmarks.report import footer, save
from dure_worker.korean import josa, misspellings, parser, readings
from dure_worker.korean.editor import edit, edited

RESULT = Path("scripts/results/korean.md")
_SEED = 7
_LONGEST, _SHORTEST = 200, 10
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_KINDS = ("josa", "misspellings")
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


def clean_sentences(number: int) -> list[str]:
    """Of prose, documentation and everyday talk that was proofread."""
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
            for match in josa._CANDIDATE.finditer(sentence)
            if readings.final(match["word"]) is not None
            and (found := parsed.starting_at(match.start("josa")))
            and found.tag.startswith("J")
            and found.form == match["josa"]
        ]
        if places:
            start, end = dice.choice(places)
            pairs.append((sentence[:start] + josa._OTHER[sentence[start:end]] + sentence[end:], sentence))
    return pairs


def own_pairs() -> list[tuple[str, str]]:
    return [(f"그 {wrong}", f"그 {right}".rstrip()) for wrong, (right, _) in misspellings.entries().items()]


def by_final_consonant(text: str) -> str:
    """What a pattern alone does, without a parser."""
    return josa._CANDIDATE.sub(
        lambda match: (
            match["word"] + josa._agreeing(match["josa"], readings.final(match["word"])) + (match["tail"] or "")
        ),
        text,
    )


def by_kiwi(text: str) -> str:
    """Kiwi's own morphemes joined anew, and its spacing."""
    kiwi = parser._kiwi()
    joined: str = kiwi.space(kiwi.join(kiwi.tokenize(text)))
    return joined


EDITORS: dict[str, Edit] = {
    "dure": edit,
    "final consonant alone": by_final_consonant,
    "Kiwi, join and space": by_kiwi,
    "nothing": lambda text: text,
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
    options.add_argument("--show", type=int, default=0, help="print so many clean sentences that were changed")
    options.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = options.parse_args()
    parser.load()
    clean = given.clean.read_text("utf-8").splitlines() if given.clean else clean_sentences(given.sentences)
    pairs = {"pairs": _read_pairs(given.pairs)} if given.pairs else {}
    if not given.clean and not given.pairs:
        pairs = dict(zip(_KINDS, (broken_particles(clean), own_pairs()), strict=True))
    found = {name: scored(editor, clean, pairs) for name, editor in EDITORS.items()}
    times = milliseconds(clean)
    _show(clean, given.show)
    lines = _table(found, len(clean), {kind: len(each) for kind, each in pairs.items()})
    lines += ["", f"A sentence takes {times['ms_p50']:.1f} ms (p50), {times['ms_p99']:.1f} ms (p99)."]
    lines += footer(f"scripts/bench korean --sentences {given.sentences}")
    print("\n".join(lines))
    if not given.clean and not given.pairs:
        save(RESULT, "\n".join(lines))
    if given.json:
        print(json.dumps({"machine": machine.describe(), **found["dure"], **times}, ensure_ascii=False, default=str))


def _table(found: dict[str, dict[str, Any]], num_clean: int, num_pairs: dict[str, int]) -> list[str]:
    heads = [f"{kind}, {number}: precision / recall / F0.5" for kind, number in num_pairs.items()]
    lines = [f"| | {' | '.join([f'clean, {num_clean}: untouched', *heads])} |", "|---|" + "---:|" * (1 + len(heads))]
    for name, figures in found.items():
        kinds = [" / ".join(f"{value:.3f}" for value in each.values()) for each in figures["by_kind"].values()]
        lines.append(f"| {name} | {' | '.join([format(figures['clean_untouched'], '.2%'), *kinds])} |")
    return lines


def _show(clean: list[str], number: int) -> None:
    for sentence in clean:
        changed = [each for part in edited(sentence) for each in part.edits]
        if changed and number > 0:
            number -= 1
            print(sentence, [(each.kind, each.before, each.after) for each in changed])


if __name__ == "__main__":
    main()
