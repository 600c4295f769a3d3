"""Bars of each engine against the baseline. Needs matplotlib, of the extra `bench`."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison.table import METRICS, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("prefill", "decode_1", "decode_8", "mixed")
# Okabe and Ito's colours, which people who see few colours tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_WIDTH = 0.8  # of a group of bars
# Of a label, so that the line at 1 does not run through it.
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
FORMATS = ("svg", "png")


def draw(found: list[Measured], target: Path) -> list[Path]:
    """Beside each other, one field a model. Returns the files: target with each of FORMATS."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "dure"  # the same figures make the same file
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, fields = plt.subplots(1, len(found), figsize=(7.2 * len(found), 4.2), squeeze=False, layout="constrained")
    names = list(dict.fromkeys(name for measured in found for name in measured.ratios()))
    for field, measured in zip(fields[0], found, strict=True):
        _bars(field, measured, names)
    handles, labels = fields[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4 * len(found)), frameon=False)
    paths = [target.with_suffix(f".{ending}") for ending in FORMATS]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def _bars(field: "Axes", measured: Measured, names: list[str]) -> None:
    ratios = measured.ratios()
    width = _WIDTH / max(1, len(names))
    for number, name in enumerate(names):
        places = [group - _WIDTH / 2 + (number + 0.5) * width for group in range(len(SHOWN))]
        values = [ratios.get(name, {}).get(metric, 0.0) for metric in SHOWN]
        bars = field.bar(places, values, width * 0.92, label=name, color=_COLOURS[number % len(_COLOURS)])
        field.bar_label(
            bars, [f"{value:.1f}" if value else "–" for value in values], padding=2, fontsize=8, bbox=_BEHIND
        )
    field.axhline(1, color="#333333", linewidth=1, linestyle="--", zorder=0.5, label=f"{measured.baseline} = 1")
    field.set_xticks(range(len(SHOWN)), [METRICS[metric].title.replace(", ", "\n", 1) for metric in SHOWN])
    field.set_title(measured.model, loc="left", fontsize=11)
    field.set_ylabel(f"times {measured.baseline}")
    field.spines[["top", "right"]].set_visible(False)
    field.tick_params(axis="x", length=0)
    field.margins(y=0.1)
