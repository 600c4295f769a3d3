"""Engines against each other and against the machine: speed, chat under load, first text, memory, start.

One process per engine in turn, round by round, so that a machine whose speed drifts hits all of them. Threads are
pinned to as many processors. The first column is what the others are compared with: a llama.cpp server that you built
(--llama-server) with the untrimmed file, or without one the `llama` engine with that file.
"""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.comparison import contestants
from benchmarks.comparison.contest import Contest
from benchmarks.comparison.contestants import NATIVE, UNTRIMMED, Contestant
from benchmarks.comparison.summary import as_json, report
from benchmarks.report import save
from dure import catalog
from dure.catalog import CatalogModel
from dure.machine_memory import usable_cores

RESULTS = Path("scripts/results")
MODELS = ("qwen2.5-coder-0.5b-korean", "qwen2.5-coder-1.5b-korean")


def trimmed_model(name: str) -> CatalogModel:
    """By its name in the catalogue or a part of it, such as 0.5b. Raises ValueError, which lists the names."""
    chatting = [one for one in catalog.CATALOG.values() if one.made_by and not one.is_base]
    fitting = [one for one in chatting if one.name == name] or [one for one in chatting if name in one.name]
    if len(fitting) != 1:
        raise ValueError(f"no model is called {name}: choose {', '.join(one.name for one in chatting)}")
    return fitting[0]


def read_options() -> tuple[argparse.Namespace, list[CatalogModel], list[Contestant]]:
    parser = argparse.ArgumentParser(
        prog="scripts/bench engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="0.5b or 1.5b, or a trimmed model's name; twice for two")
    names = ", ".join(one for one in contestants.CONTESTANTS if one not in {NATIVE, UNTRIMMED})
    parser.add_argument("--engine", action="append", help=f"{names}; or ark, transformers. The baseline always runs")
    parser.add_argument("--rounds", type=int, help="processes of each engine; default 3, with --quick 1")
    parser.add_argument("--threads", type=int, default=usable_cores().num_threads, help="of each engine; default: all")
    parser.add_argument("--llama-server", type=Path, metavar="PATH", help="a llama.cpp server built for this CPU")
    parser.add_argument(
        "--quick", action="store_true", help="the 0.5B's main rows in three minutes once weights are packed; no memory"
    )
    parser.add_argument("--plot", action="store_true", help="draw the ratios, SVG and PNG (extra `bench`)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    try:
        models = [trimmed_model(name) for name in options.model or (MODELS[:1] if options.quick else MODELS)]
        wanted = contestants.chosen(
            options.engine or [], has_server=options.llama_server is not None, is_quick=options.quick
        )
    except ValueError as error:
        parser.error(str(error))
    if options.llama_server and not os.access(options.llama_server, os.X_OK):
        parser.error(f"--llama-server {options.llama_server} is no program: build one with cmake --target llama-server")
    if options.plot and not find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: .venv/bin/pip install 'matplotlib>=3.9,<4'")
    return options, models, wanted


def command(arguments: list[str], server: Path | None) -> str:
    """As one would type it elsewhere: where the server lies is of this machine."""
    said = " ".join(["scripts/bench engines", *arguments])
    return said.replace(str(server), "PATH") if server else said


def main() -> None:
    options, models, wanted = read_options()
    load_average = os.getloadavg()[0]
    if load_average > usable_cores().num_threads:
        print(f"warning: the load average is {load_average:.1f}: something else runs here, and no figure is worth much")
    found = []
    for model in models:
        print(model.name, flush=True)
        contest = Contest(model, wanted, options)
        found.append(contest.measure())
        print(f"what was packed is kept for the next time, delete it when you like: {contest.folder}", flush=True)
        # A model has a file of its own: a run of all takes an hour.
        text = report(found[-1:], options, command(sys.argv[1:], options.llama_server), load_average)
        result = RESULTS / f"engines-{model.name}{'-quick' if options.quick else ''}.md"
        save(result, text)
        print(text)
        if options.plot:
            from benchmarks.comparison.plot import draw  # noqa: PLC0415 - of the extra `bench`

            print("\n".join(f"drawn: {path}" for path in draw(found[-1:], result)))
    if options.json:
        print(as_json(found))
    if any((name, "all") in measured.missing for measured in found for name in _named(options, wanted)):
        raise SystemExit(1)


def _named(options: argparse.Namespace, wanted: list[Contestant]) -> list[str]:
    """Without these the benchmark failed: what was asked for by name, and what all are compared with."""
    return [one.name for one in wanted if options.engine or one is wanted[0]]


if __name__ == "__main__":
    main()
