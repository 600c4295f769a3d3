"""What was learnt, drawn: losses of the held-out samples by the tokens that were learnt from."""

from pathlib import Path

from matplotlib.figure import Figure

from dure_workshop.training.course import Point


def plot(curve: list[Point], path: Path, *, has_teacher: bool) -> None:
    """path: .png or .svg."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    thousands = [point["tokens"] / 1e3 for point in curve]
    if has_teacher:
        axes.plot(thousands, [point["kl"] for point in curve], "o-", label="KL to the teacher")
    axes.plot(thousands, [point["ce"] for point in curve], "s-", label="cross-entropy")
    axes.set(xlabel="thousand tokens learnt from", ylabel="nats a token, held-out samples", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
