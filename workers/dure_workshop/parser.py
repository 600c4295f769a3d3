"""The command lines of `python -m dure_workshop`; `dure model` and `dure workshop` write them, and so do recipes."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from dure.errors import SettingsError
from dure.memory_plan import Precision

# The others are `dure model`'s.
OF_THE_WORKSHOP = ("evaluate", "calibrate", "quantize", "prune", "answer", "distil", "adapt", "build")
METHODS = ("lora", "full", "scales")

_Commands = Any  # argparse keeps the name of its class to itself


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; {' '.join(self.format_usage().split())}")


def parser() -> argparse.ArgumentParser:
    """Raises SettingsError instead of leaving the program."""
    found = _Parser(prog="python -m dure_workshop")
    commands = found.add_subparsers(dest="command", required=True)
    _of_models(commands)
    _of_judging(commands)
    _of_shrinking(commands)
    _of_teaching(commands)
    built = commands.add_parser("build")
    built.add_argument("recipe")
    built.add_argument("--given", action="append", default=[])
    built.add_argument("--out", type=Path)
    built.add_argument("--dry-run", action="store_true")
    return found


def _of_models(commands: _Commands) -> None:
    fetch = commands.add_parser("fetch")
    fetch.add_argument("name", metavar="MODEL")
    own = commands.add_parser("add")
    own.add_argument("source")
    own.add_argument("--name")
    own.add_argument("--file")
    own.add_argument("--precision", choices=[each.value for each in Precision], default=Precision.Q4_K_M.value)
    measured = commands.add_parser("bench")
    measured.add_argument("name", metavar="MODEL")
    measured.add_argument("--repeats", type=int, default=5)
    cut = commands.add_parser("trim")
    cut.add_argument("source", type=Path)
    cut.add_argument("--out", type=Path, required=True)
    cut.add_argument("--keep", default="korean,english")
    cut.add_argument("--size", type=int, default=32_000)
    cut.add_argument("--add-words", type=int, default=0)
    cut.add_argument("--text", type=Path, action="append", default=[])


def _of_judging(commands: _Commands) -> None:
    judged = commands.add_parser("evaluate")
    judged.add_argument("models", metavar="MODEL", nargs="+")
    judged.add_argument("--engine", action="append")
    judged.add_argument("--text", action="append", type=Path)
    judged.add_argument("--questions", type=Path)
    judged.add_argument("--limit", type=_number)
    judged.add_argument("--reference")
    judged.add_argument("--answers", type=int, default=0)
    judged.add_argument("--seed", type=int, default=1)
    judged.add_argument("--out", type=Path, default=Path("evaluation"))
    weighed = commands.add_parser("calibrate")
    weighed.add_argument("model", metavar="MODEL")
    weighed.add_argument("--text", action="append", type=Path, default=[])
    weighed.add_argument("--out", type=Path, required=True)


def _of_shrinking(commands: _Commands) -> None:
    smaller = commands.add_parser("quantize")
    smaller.add_argument("model", metavar="MODEL")
    smaller.add_argument("--out", type=Path, required=True)
    smaller.add_argument("--importance", type=Path)
    smaller.add_argument("--text", action="append", type=Path, default=[])
    smaller.add_argument("--target-mb", type=float)
    smaller.add_argument("--bits", type=float)
    smaller.add_argument("--preset", choices=["2bit"])
    smaller.add_argument("--max-ppl-loss", type=float)
    smaller.add_argument("--plain", action="store_true")
    smaller.add_argument("--method", choices=("importance", "autoround"), default="importance")
    smaller.add_argument("--iterations", type=int)
    smaller.add_argument("--group", type=int)
    fewer = commands.add_parser("prune")
    fewer.add_argument("model", metavar="MODEL")
    fewer.add_argument("--out", type=Path, required=True)
    fewer.add_argument("--ratio", type=float)
    for name in ("--layers", "--ffn", "--heads", "--original-params"):
        fewer.add_argument(name, type=int)
    fewer.add_argument("--vocab", type=int, default=32_000)
    fewer.add_argument("--wanda")
    fewer.add_argument("--text", action="append", type=Path, default=[])


def _of_teaching(commands: _Commands) -> None:
    asked = commands.add_parser("answer")
    asked.add_argument("model", metavar="MODEL")
    asked.add_argument("--prompts", type=Path, required=True)
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--style", action="append")
    asked.add_argument("--engine")
    asked.add_argument("--candidates", type=_number, default=1)
    asked.add_argument("--max-tokens", type=_number, default=256)
    asked.add_argument("--most-characters", type=_number, default=600)
    asked.add_argument("--seed", type=int, default=0)
    for name, length in (("distil", 256), ("adapt", 512)):
        taught = commands.add_parser(name)
        taught.add_argument("model", metavar="MODEL")
        taught.add_argument("--data", action="append", type=Path, required=True)
        taught.add_argument("--held-out", action="append", type=Path, default=[])
        taught.add_argument("--out", type=Path, required=True)
        taught.add_argument("--method", choices=METHODS, default=METHODS[0])
        taught.add_argument("--rank", type=_number, default=16)
        taught.add_argument("--steps", type=_number)
        taught.add_argument("--batch", type=_number, default=8)
        taught.add_argument("--length", type=_number, default=length)
        taught.add_argument("--rate", type=float)
        taught.add_argument("--samples", type=_number)
        taught.add_argument("--every", type=_number, default=25)
        taught.add_argument("--frugal", action="store_true")
        taught.add_argument("--seed", type=int, default=0)
        if name == "distil":
            taught.add_argument("--teacher", required=True)
            taught.add_argument("--teacher-engine", default="llama")
            taught.add_argument("--ce-share", type=float, default=0.1)
            taught.add_argument("--kept", type=_number, default=64)
        else:
            taught.add_argument("--answers", type=int, default=12)


def _number(text: str) -> int:
    """Of something that there must be."""
    found = int(text)
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few: choose 1 or more")
    return found
