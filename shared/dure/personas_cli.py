"""`dure personas`: how an answer may speak."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dure import persona
from dure.cli_shared import JsonOption, cell, plain_table, print_json
from dure.persona import Personas, Title
from dure.settings import Settings

FolderOption = Annotated[
    Path | None,
    typer.Option(
        envvar="DURE_GATEWAY_PERSONAS",
        help="Folder of your own styles and personalities. Default: `personas` in the state folder, if it is there.",
    ),
]
_REGISTERS = {"formal": "합쇼체 / formal", "polite": "해요체 / polite", "plain": "해체 / plain"}


def personas(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """The styles and personalities that a gateway would offer. Exit status 1 if a file cannot be used, and why."""
    own = persona.own_folder(folder, Settings.read().home)
    found = persona.load(own)
    if as_json:
        print_json(found.listed())
    else:
        Console().print(_table(found, own))


def _table(found: Personas, own: Path | None) -> Table:
    table = plain_table("종류\nkind", "이름\nname", "제목\ntitle", "말투\nspeaks", "출처\nfrom")
    table.columns[1].no_wrap = True
    table.columns[4].overflow = "fold"

    def add(kind: str, folder: str, name: str, title: Title, speaks: str) -> None:
        path = own / folder / f"{name}.toml" if own else None
        origin = path if path and path.exists() else "dure"
        table.add_row(*map(cell, (kind, name, f"{title.ko} / {title.en}", speaks, origin)))

    for name, style in found.styles.items():
        add("style", "styles", name, style.title, _REGISTERS[style.speaks])
    for name, personality in found.personalities.items():
        add("personality", "personalities", name, personality.title, personality.style)
    return table
