"""The founding document's table, measured: memory, size, time of an answer and Korean of each way to hold a model.

Each model and engine is measured in a process of its own, one after the other, in `--rounds` that take turns; what it
is worth comes from `dure workshop evaluate`, which goes on where it was stopped.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.report import footer, save

RESULT = Path("scripts/results/founding-table.md")
# ENGINE[:WEIGHTS]=MODEL; those that `dure workshop build` makes must have been built.
SUBJECTS = (
    "llama=qwen2.5-coder-1.5b-korean",
    "ark:int4=qwen2.5-coder-1.5b-korean",
    "llama=ko-1.5b-2bit",
    "llama=qwen2.5-coder-0.5b-korean",
    "llama=ko-0.5b-int4",
    "llama=ko-0.5b-pruned50-distilled",
    "llama=qwen2.5-coder-1.5b-instruct-q4_k_m",
    "llama=qwen2.5-coder-0.5b-instruct-q4_k_m",
    "transformers:bf16=qwen2.5-coder-0.5b-korean",
    "transformers:nf4=qwen2.5-coder-0.5b-korean",
)
# What the founding document asks for.
WANTED = {"at rest, MiB": "≤ 1,229", "peak, MiB": "≤ 2,458", "short answer, s": "2–3", "tokens/s": "5–10"}

ABOUT = (
    "One process a row: engine and Korean editor, 4 slots of 2,048 tokens, all filled for the peak. A short answer is "
    "to a question for one sentence. Errors, register and ends are of answers as generated, before the editor "
    "mends them. Bits a byte compare models whose vocabularies differ; perplexity is a token's."
)

Row = dict[str, Any]


def speeds(subjects: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds; of memory the highest."""
    found: dict[str, list[dict[str, float]]] = {each: [] for each in subjects}
    for number in range(rounds):
        for each in subjects:
            engine, _, model = each.partition("=")
            command = [sys.executable, "-m", "benchmarks.one_subject", engine, model]
            told = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
            found[each].append(json.loads(told.splitlines()[-1]))
            print(f"round {number + 1}, {each}: {found[each][-1]}", flush=True)
    return {
        each: {
            name: (max if name.endswith("mib") else statistics.median)(one[name] for one in many) for name in many[0]
        }
        for each, many in found.items()
    }


def worth(subjects: list[str], options: argparse.Namespace) -> dict[str, Row]:
    """By `dure workshop evaluate`, an engine at a time."""
    found: dict[str, Row] = {}
    for engine in dict.fromkeys(each.partition("=")[0] for each in subjects):
        models = [model for name, _, model in (each.partition("=") for each in subjects) if name == engine]
        command = [
            sys.executable, "-m", "dure_workshop", "evaluate", *models, f"--engine={engine}",
            f"--answers={options.answers}", f"--out={options.folder / engine.replace(':', '-')}",
            *([f"--questions={options.questions}", f"--limit={options.limit}"] if options.questions else []),
        ]  # fmt: skip
        told = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
        for model, row in zip(models, json.loads(told.splitlines()[-1])["rows"], strict=True):
            found[f"{engine}={model}"] = row
    return found


def merged(subjects: list[str], speed: dict[str, dict[str, float]], value: dict[str, Row]) -> list[Row]:
    return [{"subject": each, **speed[each], **value[each]} for each in subjects]


def table(rows: list[Row]) -> str:
    tasks = list(rows[0].get("task", {}))
    head = [
        "model", "engine", "weights, MB", "bits/weight", "at rest, MiB", "peak, MiB", "short answer, s", "tokens/s",
        "prompt tokens/s", "Korean: bits/byte (perplexity)", "English: bits/byte", "errors/100 sentences", "register",
        "complete", *tasks,
    ]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|---|---{'|---:' * (len(head) - 2)}|"]
    wanted = [WANTED.get(name, "") for name in head[2:]]
    lines.append(f"| *the founding document* | | {' | '.join(wanted)} |")
    for row in rows:
        text, said = row["text"], row["answers"]
        cells = [
            row["model"], row["engine"], f"{row['megabytes']:,.0f}", f"{row['bits_per_weight']:.2f}",
            f"{row['at_rest_mib']:,.0f}", f"{row['peak_mib']:,.0f}", f"{row['short_s']:.1f}",
            f"{row['decode_tokens_per_s']:.1f}", f"{row['prefill_tokens_per_s']:.0f}",
            f"{text['korean']['bits_per_byte']:.3f} ({text['korean']['per_token']:.1f})",
            f"{text['english']['bits_per_byte']:.3f}", f"{said['errors_per_100_sentences']:.1f}",
            _percent(said["register_kept"]), _percent(said["replies_complete"]),
            *(_percent(row["task"][name]["accuracy"]) for name in tasks),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def plot(rows: list[Row], path: Path) -> None:
    figure = Figure(figsize=(15, 5), layout="constrained")
    panels = {
        "peak memory, MiB (4 slots × 2,048 tokens)": "peak_mib",
        "tokens/s, one answer": "decode_tokens_per_s",
        "seconds of a short answer": "short_s",
    }
    for axes, (title, name) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for number, row in enumerate(rows):
            place = (row[name], row["text"]["korean"]["bits_per_byte"])
            axes.scatter(*place, color=f"C{number % 10}", label=f"{row['model']} ({row['engine']})")
        axes.set(xlabel=title, ylabel="bits a byte of Korean text (less is better)")
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench founding", description=__doc__)
    parser.add_argument("--subject", action="append", metavar="ENGINE[:WEIGHTS]=MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=24)
    parser.add_argument("--questions", type=Path, help="folder with KoBEST's files")
    parser.add_argument("--limit", type=int, default=50, help="questions a task")
    parser.add_argument("--folder", type=Path, default=Path("founding"), help="where a run that was stopped goes on")
    options = parser.parse_args()
    subjects = options.subject or list(SUBJECTS)
    value = worth(subjects, options)
    rows = merged(subjects, speeds(subjects, options.rounds), value)
    asked = f" --questions KOBEST --limit {options.limit}" if options.questions else ""
    told = "".join(f" --subject {each}" for each in options.subject or ())
    command = f"scripts/bench founding{told} --rounds {options.rounds} --answers {options.answers}{asked}"
    plot(rows, RESULT.with_suffix(".png"))
    lines = ["# The founding document's table, measured", "", ABOUT, "", table(rows)]
    lines += [f"![]({RESULT.with_suffix('.png').name})", *footer(command)]
    save(RESULT, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
