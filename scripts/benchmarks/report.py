"""What every table ends with, and where tables go."""

from pathlib import Path

from benchmarks import machine

READMES = (Path("README.md"), Path("README.ko.md"))


def footer(command: str) -> list[str]:
    """Lines under a table: the machine, versions, date and command."""
    about = machine.describe()
    lines = ["", "{processor}, {cores} cores, {memory}, {system}, Python {python}.".format(**about)]
    return [*lines, "{packages}. {date}.".format(**about), "", f"`{command}`", ""]


def save(result: Path, text: str, *, in_readmes: bool = False) -> None:
    """Into scripts/results/, and between the marks of that name in the READMEs."""
    result.write_text(text, encoding="utf-8")
    for readme in READMES if in_readmes else ():
        put_between_marks(readme, result.stem, text)


def put_between_marks(path: Path, name: str, text: str) -> None:
    before, rest = path.read_text("utf-8").split(f"<!-- {name} -->")
    _, after = rest.split(f"<!-- /{name} -->")
    path.write_text(f"{before}<!-- {name} -->\n{text}<!-- /{name} -->{after}", encoding="utf-8")
