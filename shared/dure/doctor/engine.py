"""The engine that a worker would take here, and why."""

from pathlib import Path

from dure.doctor.check import Check, Remedy, ok, warn
from dure.engine_report import EngineReport


def check_engine(report: EngineReport, folder: Path) -> Check:
    """folder: of the model, where the measurement is kept."""
    if report.engine == "auto":
        return ok("engine", f"not chosen yet: {report.reason}")
    found = f"{report.engine}: {report.reason}"
    if report.failures:
        command = f"`rm '{folder / 'engine.json'}'`"
        return warn(
            "engine",
            found,
            Remedy(f"if its cause is gone, let the next start measure again: {command}",
                   f"원인을 없앴으면 다음에 켤 때 다시 재게 하세요: {command}"),
        )  # fmt: skip
    return ok("engine", found)
