"""The figures of an evaluation as Markdown tables and a plot."""

from pathlib import Path
from typing import Any

Row = dict[str, Any]


def markdown(rows: list[Row], about: list[str]) -> str:
    """One table of sizes and texts, one of tasks and one of answers where there are any; lines about the run below."""
    texts = list(rows[0].get("text", {}))
    head = ["model", "engine", "MB", "bits/weight", *(f"{name}: perplexity (bits/byte)" for name in texts)]
    if "divergence" in rows[0]:
        head += [f"{name}: KL, same top token" for name in texts]
    lines = [*_table(head, [_sizes(row, texts) for row in rows])]
    tasks = list(rows[0].get("task", {}))
    if tasks:
        chances = [
            f"{name} (n = {_of(rows, name)['num_questions']}, chance {_of(rows, name)['chance']:.0%})" for name in tasks
        ]
        lines += ["", "Accuracy ± standard error, macro F1:", ""]
        lines += _table(["model", "engine", *chances], [_scores(row, tasks) for row in rows])
    if "answers" in rows[0]:
        lines += ["", f"{rows[0]['answers']['num_answers']} answers as generated, judged by the Korean editor:", ""]
        lines += _table(["model", "engine", *_ANSWERS], [_answers(row) for row in rows])
    return "\n".join([*lines, "", *about, ""])


def _of(rows: list[Row], task: str) -> Row:
    found: Row = rows[0]["task"][task]
    return found


def _sizes(row: Row, texts: list[str]) -> list[str]:
    cells = [row["model"], row["engine"], f"{row['megabytes']:.0f}", f"{row['bits_per_weight']:.2f}"]
    cells += [f"{row['text'][name]['per_token']:.2f} ({row['text'][name]['bits_per_byte']:.3f})" for name in texts]
    if "divergence" in row:
        found = [row["divergence"][name] for name in texts]
        cells += [f"{each['kl_nats']:.4f}, {each['same_top']:.1%}" for each in found]
    return cells


def _scores(row: Row, tasks: list[str]) -> list[str]:
    found = [row["task"][name] for name in tasks]
    scores = [f"{each['accuracy']:.1%} ± {each['error']:.1%}, {each['f1']:.3f}" for each in found]
    return [row["model"], row["engine"], *scores]


# Title → name in answers.Figures, and its form.
_ANSWERS = {
    "errors per 100 sentences": ("errors_per_100_sentences", "{:.1f}"),
    "in the register asked for": ("register_kept", "{:.1%}"),
    "end complete": ("replies_complete", "{:.1%}"),
    "in circles": ("replies_with_loops", "{}"),
    "with Han or kana": ("replies_with_foreign_letters", "{}"),
    "tokens/s, roughly": ("tokens_per_s", "{:.1f}"),
}


def _answers(row: Row) -> list[str]:
    figures = row["answers"]
    cells = ["–" if figures[name] is None else form.format(figures[name]) for name, form in _ANSWERS.values()]
    return [row["model"], row["engine"], *cells]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    cleaned = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
    return [f"| {' | '.join(cells)} |" for cells in cleaned]


def plot(rows: list[Row], path: Path) -> None:
    """Quality against size, and against speed where it was measured: bits a byte of the Korean text, else the first.

    Perplexities of different vocabularies cannot be compared; by byte they can.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to load

    timed = [row for row in rows if row.get("answers", {}).get("tokens_per_s")]
    texts = list(rows[0]["text"])
    name = "korean" if "korean" in texts else texts[0]
    figure = Figure(figsize=(16, 5) if timed else (8, 5), layout="constrained")
    panels = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    _panel(panels[0], rows, name, "weights, MB (lower left is better)", lambda row: row["megabytes"])
    if timed:
        _panel(
            panels[1], timed, name, "tokens/s of one answer, roughly (lower right is better)",
            lambda row: row["answers"]["tokens_per_s"],
        )  # fmt: skip
    figure.savefig(path, dpi=120)


def _panel(axes: Any, rows: list[Row], name: str, title: str, across: Any) -> None:
    for engine in dict.fromkeys(row["engine"] for row in rows):
        found = [row for row in rows if row["engine"] == engine]
        places = [(across(row), row["text"][name]["bits_per_byte"]) for row in found]
        axes.scatter(*zip(*places, strict=True), label=engine)
        for row, place in zip(found, places, strict=True):
            axes.annotate(row["model"], place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel=title, ylabel=f"bits a byte of {name} text")
    axes.margins(x=0.3, y=0.2)
    axes.grid(alpha=0.3)
    axes.legend(title="engine")
