"""What the commands have in common: options, the way to Redis, and how they print."""

import contextlib
import json
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dure.errors import SettingsError

if TYPE_CHECKING:
    from dure.cluster import Cluster

RedisOption = Annotated[
    str | None,
    typer.Option(
        envvar="DURE_REDIS_URL",
        help="The cluster's Redis: redis://:password@host:port/0. Default: that of this machine's `dure up`.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value instead of a table.")]

_STEPS = ((86400, "d"), (3600, "h"), (60, "min"))


def require(module: str, extras: str) -> None:
    """Raises SettingsError where an optional package is missing."""
    try:
        __import__(module)
    except ImportError:
        raise SettingsError(f"this command needs more packages: pip install 'dure[{extras}]'") from None


@contextlib.contextmanager
def opened(redis_url: str | None) -> Iterator["Cluster"]:
    """The cluster at that address, else that of this machine's `dure up`. Raises DureError with a remedy."""
    require("redis", "gateway,worker")
    from dure.cluster import open_cluster  # noqa: PLC0415 - redis is optional

    with open_cluster(redis_url) as cluster:
        yield cluster


@contextlib.contextmanager
def checking(num_bytes: int) -> Iterator[Callable[[int], None]]:
    """Hashing 1.1 GB takes seconds, on an old disk a minute: somebody who waits wants to see it move."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("모델 확인 / Checking the model", total=num_bytes)
        yield lambda num_more: progress.advance(task, num_more)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def say(text: str) -> None:
    """A line for people. It is not broken, so that ids and commands in it can be copied."""
    Console().print(cell(text), soft_wrap=True)


def cell(text: object, style: str = "") -> Text:
    """Text as it stands: brackets are no markup, and what others wrote cannot steer this terminal."""
    letters = str(text)
    return Text("".join("�" if _is_control(letter) else letter for letter in letters), style)


def plain_table(*headers: str) -> Table:
    """A table without lines between columns. A header may have two lines: Korean above, English below."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="ellipsis")
    return table


def duration(seconds: float) -> str:
    """Rounded as people say it: 42 s, 3 min, 2 h, 5 d."""
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _is_control(letter: str) -> bool:
    return letter not in "\n\t" and unicodedata.category(letter) == "Cc"
