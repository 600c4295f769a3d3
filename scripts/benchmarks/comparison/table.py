"""Figures of all rounds into rows, ratios and Markdown."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.comparison.contestants import CONTESTANTS
from benchmarks.comparison.measures import COLD_TOKENS, PROMPT_TOKENS

# One metric of one contestant in order of rounds; None where a round has none.
Rounds = dict[str, list[float | None]]


@dataclass(frozen=True)
class Metric:
    title: str
    unit: str
    form: str = "{:.1f}"


METRICS = {
    "prefill": Metric(f"prefill, {PROMPT_TOKENS} tokens", "tokens/s", "{:.0f}"),
    "decode_1": Metric("decode, 1 stream", "tokens/s"),
    "decode_2": Metric("decode, 2 streams", "tokens/s"),
    "decode_4": Metric("decode, 4 streams", "tokens/s"),
    "decode_8": Metric("decode, 8 streams", "tokens/s"),
    "mixed": Metric("chat, all slots busy", "answers/min"),
    "mixed_ttft_p50": Metric("in it, first text, p50", "s", "{:.2f}"),
    "mixed_ttft_p95": Metric("in it, first text, p95", "s", "{:.2f}"),
    "ttft_cold": Metric(f"first text, {COLD_TOKENS} new tokens", "s", "{:.2f}"),
    "ttft_second": Metric("first text, next turn", "s", "{:.2f}"),
    "ttft_second_share": Metric("next turn / new", "", "{:.3f}"),
    "load": Metric("start to first token", "s", "{:.1f}"),
    "peak": Metric("peak memory", "MiB", "{:.0f}"),
}


@dataclass(frozen=True)
class Row:
    """spread: smallest and largest round."""

    model: str
    engine: str
    quant: str
    metric: str
    median: float
    spread: tuple[float, float]

    def __str__(self) -> str:
        form = METRICS[self.metric].form.format
        low, high = self.spread
        return form(self.median) if low == high else f"{form(self.median)} ({form(low)}–{form(high)})"


@dataclass
class Measured:
    """Of one model. rounds: by contestant and metric; missing: contestant and metric, and why it has no figure."""

    model: str
    baseline: str
    rounds: dict[str, Rounds] = field(default_factory=dict)
    missing: dict[tuple[str, str], str] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, figures: dict[str, float], missing: dict[str, str], number: int) -> None:
        """Of one process in round `number`; rounds in which a metric has no figure stay empty."""
        metrics = self.rounds.setdefault(name, {})
        for metric, value in figures.items():
            values = metrics.setdefault(metric, [])
            values += [None] * (number - len(values))
            values.append(value)
        self.missing |= {(name, metric): reason for metric, reason in missing.items()}

    def rows(self) -> list[Row]:
        return [
            _row(self.model, name, metric, [value for value in metrics[metric] if value is not None])
            for name, metrics in self.rounds.items()
            for metric in METRICS
            if metric in metrics
        ]

    def ratios(self) -> dict[str, dict[str, float]]:
        """By contestant and metric: the median of each round's ratio, since both of a round ran in the same minutes."""
        before = self.rounds.get(self.baseline, {})
        found: dict[str, dict[str, float]] = {}
        for name, metrics in self.rounds.items():
            for metric, values in metrics.items():
                pairs = [(a, b) for a, b in zip(values, before.get(metric, []), strict=False) if a and b]
                if pairs and name != self.baseline:
                    found.setdefault(name, {})[metric] = statistics.median(a / b for a, b in pairs)
        return found


def _row(model: str, name: str, metric: str, values: list[float]) -> Row:
    one = CONTESTANTS[name]
    return Row(model, name, one.quant, metric, statistics.median(values), (min(values), max(values)))


def figures_table(measured: Measured) -> list[str]:
    rows = {(row.engine, row.metric): row for row in measured.rows()}
    names = list(measured.rounds)
    lines = [f"| {measured.model} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    lines.append(f"| weights | {' | '.join(CONTESTANTS[name].quant for name in names)} |")
    for key, metric in METRICS.items():
        if any((name, key) in rows for name in names):
            title = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
            lines.append(f"| {title} | {' | '.join(str(rows.get((name, key), '–')) for name in names)} |")
    return lines


def ratios_table(measured: Measured) -> list[str]:
    ratios = measured.ratios()
    if not ratios:
        return []
    lines = [f"| {measured.model} / {measured.baseline} | {' | '.join(ratios)} |", "|---|" + "---:|" * len(ratios)]
    for key, metric in METRICS.items():
        if any(key in found for found in ratios.values()):
            values = (f"{found[key]:.2f}" if key in found else "–" for found in ratios.values())
            lines.append(f"| {metric.title} | {' | '.join(values)} |")
    return lines


def limits_table(measured: Measured) -> list[str]:
    """The ceiling of one stream, what was reached of it, and what the matrices alone would allow."""
    if not measured.limits:
        return []
    bytes_a_s = measured.limits["bytes_a_s"]
    medians = {row.engine: row.median for row in measured.rows() if row.metric == "decode_1"}
    head = f"| {measured.model}, memory read at {bytes_a_s / 1e9:.1f} GB/s"
    titles = ("MB a token", "ceiling, 1 stream", "reached", "kernels alone, 1 row", "kernels alone, 8 rows")
    lines = [f"{head} | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    for name, found in measured.limits["engines"].items():
        cells = _limit_cells(bytes_a_s, found["bytes_a_token"], medians.get(name))
        for num_rows in (1, 8):
            took_ms = found["kernel_ms"].get(str(num_rows))
            cells.append(f"{took_ms:.1f} ms, {num_rows * 1e3 / took_ms:.0f} tokens/s" if took_ms else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _limit_cells(bytes_a_s: float, num_bytes: int | None, reached: float | None) -> list[str]:
    if not num_bytes:
        return ["–", "–", "–"]
    ceiling = bytes_a_s / num_bytes
    share = f"{reached / ceiling:.0%}" if reached else "–"
    return [f"{num_bytes / 1e6:.0f}", f"{ceiling:.1f} tokens/s", share]


def missing_lines(measured: Measured) -> list[str]:
    return [f"- not measured: {name}, {metric}: {why}" for (name, metric), why in measured.missing.items()]
