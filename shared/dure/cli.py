"""The `dure` command."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from dure import (
    __version__,
    artifact,
    catalog,
    doctor_cli,
    jobs_cli,
    model_cli,
    personas_cli,
    run_file,
    workers_cli,
    workshop_cli,
)
from dure.cli_shared import cell, require
from dure.errors import DureError
from dure.persona import DEFAULT_PERSONALITY
from dure.settings import Settings

app = typer.Typer(
    help="값싼 컴퓨터에서 돌리는 한국어 대화. / Korean chat on cheap computers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

FitOption = Annotated[
    bool,
    typer.Option(
        "--fit", help="Where the worker does not fit into memory: fewer slots, a shorter context. Else it is refused."
    ),
]


def main() -> None:
    try:
        app()
    except DureError as error:
        # One line, and brackets as they are: ids, commands and `dure[worker]` are to be copied.
        Console(stderr=True).print(Text.assemble(("dure:", "red"), " ", cell(error)), soft_wrap=True)
        sys.exit(1)


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"dure {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version  # handled by its callback


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="DURE_GATEWAY_PORT", help="The API.")] = 8000,
    web_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="DURE_GATEWAY_WEB_PORT", help="The chat page.")
    ] = 5000,
    flower_port: Annotated[int, typer.Option(min=1, max=65535, help="Flower, on loopback.")] = 5555,
    model: Annotated[str | None, typer.Option(help="Name in the catalogue; see `dure model list`.")] = None,
    workers: Annotated[int, typer.Option(min=0, max=16, help="Workers here. Each holds the model in memory.")] = 1,
    fit: FitOption = False,
    host: Annotated[
        str, typer.Option(envvar="DURE_GATEWAY_HOST", help="Address of API and page. 0.0.0.0: reachable from the LAN.")
    ] = "127.0.0.1",
    personas: personas_cli.FolderOption = None,
) -> None:
    """Start everything on this machine: Valkey, gateway, worker and Flower. Ctrl-C stops it."""
    require("redis", "gateway,worker")
    from dure import up as up_module  # noqa: PLC0415 - needs the gateway's and worker's packages

    settings = _settings(model)
    options = up_module.UpOptions(port, web_port, flower_port, workers, host, fit, personas)
    up_module.run(settings, options, Console())


@app.command()
def worker(
    redis: Annotated[
        str | None,
        typer.Option(
            envvar="DURE_REDIS_URL",
            help="The cluster's Redis: redis://:password@host:port/0. Default: that of this machine's `dure up`.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name in the catalogue.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, max=64, help="Answers at once.")] = None,
    fit: FitOption = False,
    log: Annotated[
        str | None, typer.Option(help="The worker's log file; - for this terminal. Default: in the state folder.")
    ] = None,
) -> None:
    """Lend this machine to a cluster: run one worker, watch it, and start it again when it dies, hangs or grows.

    SIGTERM lets running answers finish; SIGHUP does the same and then loads the model anew.
    """
    require("redis", "worker")
    from dure import up as up_module  # noqa: PLC0415 - needs the worker's packages

    running = run_file.read(Settings.read().home)
    if redis is None and running is not None:
        redis = running.redis_url  # a second worker on the machine of `dure up`
    environ = dict(os.environ) | ({"DURE_REDIS_URL": redis} if redis else {})
    environ |= {"DURE_WORKER_SLOTS": str(slots)} if slots else {}
    environ |= {"DURE_WORKER_FIT": "1"} if fit else {}
    settings = _settings(model, environ)
    settings.require_redis_url()
    up_module.fetch_model(settings.model)
    log_path = None if log == "-" else Path(log) if log else settings.home / "logs" / "worker.log"
    if log is None:
        up_module.require_writable(settings.home)
    up_module.run_worker(settings, environ, Console(), log_path)


@app.command()
def chat(
    url: Annotated[str | None, typer.Option(help="The gateway. Default: the one that runs on this machine.")] = None,
    style: Annotated[str, typer.Option(help="One of `dure personas`, as the gateway has them.")] = "casual",
    personality: Annotated[str, typer.Option(help="The same.")] = DEFAULT_PERSONALITY,
) -> None:
    """Talk in the terminal."""
    from dure.client import Client  # noqa: PLC0415 - the other commands need no HTTP
    from dure.terminal_chat import TerminalChat  # noqa: PLC0415

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - gives input() line editing and history

    console = Console()
    with Client(url or _local_url()) as client:
        TerminalChat(client, console, style, personality).run(lambda: input("› "))


app.command()(workers_cli.workers)
app.command()(personas_cli.personas)
app.add_typer(jobs_cli.app, name="jobs")
app.command()(doctor_cli.doctor)
app.add_typer(model_cli.app, name="model")
app.add_typer(workshop_cli.app, name="workshop")


def _settings(model: str | None, environ: dict[str, str] | None = None) -> Settings:
    settings = Settings.read(environ, **({"model": model} if model else {}))
    if settings.model != catalog.SCRIPTED:
        artifact.find(settings.model, settings.models_dir)  # a misspelt name is said now, not by a dying worker
    return settings


def _local_url() -> str:
    """Where `dure up` listens, if it runs from this user's state folder."""
    running = run_file.read(Settings.read().home)
    return f"http://127.0.0.1:{running.port if running else 8000}"
