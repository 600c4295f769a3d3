"""`dure doctor`: is this machine, and the Redis it uses, fit to serve?"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dure import artifact, catalog, memory_plan, model_names, run_file
from dure.catalog import CatalogModel
from dure.cli_shared import JsonOption, RedisOption, cell, checking, plain_table, print_json, say
from dure.doctor import machine, weights
from dure.doctor.check import Check, Status, of_error, ok
from dure.doctor.engine import check_engine
from dure.engine_report import EngineReport
from dure.errors import ModelError, SettingsError
from dure.memory_plan import Load, Plan
from dure.settings import Settings

_MARKS = {Status.OK: ("✓", "green"), Status.WARN: ("!", "bold yellow"), Status.BAD: ("✗", "bold red")}
_KOREAN = {
    "packages": "패키지",
    "state folder": "상태 폴더",
    "disk": "디스크",
    "memory": "메모리",
    "port": "포트",
    "embedded server": "내장 서버",
    "model": "모델",
    "engine": "엔진",
    "redis rules": "Redis 규칙",
    "redis disk": "Redis 기록",
    "redis memory": "Redis 메모리",
    "latency": "응답 시간",
    "clock": "시계",
    "workers": "작업기",
    "jobs": "작업",
}


def doctor(
    model: Annotated[str | None, typer.Option(help="The model that is to be served here. Default: DURE_MODEL.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="DURE_GATEWAY_PORT", help="The API.")] = 8000,
    web_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="DURE_GATEWAY_WEB_PORT", help="The chat page.")
    ] = 5000,
    flower_port: Annotated[int, typer.Option(min=1, max=65535, help="Flower.")] = 5555,
    host: Annotated[str, typer.Option(envvar="DURE_GATEWAY_HOST", help="Where API and page listen.")] = "127.0.0.1",
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read the model's file through, which takes a while.")
    ] = False,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine and its Redis: what is wrong, and what to do about it. Exit status 1 if anything is bad."""
    settings = Settings.read(None, **({"model": model} if model else {}))
    served = None if settings.model == catalog.SCRIPTED else artifact.find(settings.model, settings.models_dir)
    ports = {
        "--port (DURE_GATEWAY_PORT)": (host, port),
        "--web-port (DURE_GATEWAY_WEB_PORT)": (host, web_port),
        "--flower-port": ("127.0.0.1", flower_port),
    }
    engine = _engine(served)
    checks = [
        *_machine_checks(settings, served, engine, ports),
        _model_check(settings, served, quick=quick),
        *_engine_checks(settings, engine),
        *_redis_checks(redis, settings.model),
    ]
    if as_json:
        print_json([_json(check) for check in checks])
    else:
        Console().print(_table(checks))
        say("\n" + _summary(checks))
    if any(check.status is Status.BAD for check in checks):
        raise typer.Exit(1)


def _machine_checks(
    settings: Settings,
    served: CatalogModel | None,
    engine: EngineReport | SettingsError | None,
    ports: dict[str, tuple[str, int]],
) -> Iterator[Check]:
    running = run_file.read(settings.home)
    own_ports = machine.ports_of(running.pid) | {running.port} if running else set()
    yield machine.check_python()
    yield machine.check_packages()
    yield machine.check_home(settings.home)
    yield machine.check_disk(settings.home, weights.fetch_bytes(settings.models_dir, served))
    planned = _planned(settings, served, engine if isinstance(engine, EngineReport) else None)
    yield machine.check_memory(machine.measured_memory(), planned, is_serving=running is not None)
    yield machine.check_cpu(*machine.measured_cpu())
    for option, (host, port) in ports.items():
        yield machine.check_port(option, host, port, own_ports, machine.is_dure_port)


def _engine(served: CatalogModel | None) -> EngineReport | SettingsError | None:
    """None: the scripted model. An error: with these settings no worker would start."""
    try:
        return EngineReport.of_worker(served.name) if served else None
    except SettingsError as error:
        return error


def _engine_checks(settings: Settings, engine: EngineReport | SettingsError | None) -> Iterator[Check]:
    if isinstance(engine, SettingsError):
        yield of_error("engine", engine)
    elif engine is not None:
        yield check_engine(engine, settings.models_dir / settings.model)


def _planned(settings: Settings, served: CatalogModel | None, engine: EngineReport | None) -> Plan | None:
    """The larger one where the engine is not chosen yet; None without weights, or where they cannot be read (said
    elsewhere).
    """
    if served is None:
        return None
    load = engine.load if engine else Load()
    plans = []
    for name in engine.possible if engine else ["llama"]:
        with contextlib.suppress(ModelError):
            found = model_names.subject(served.name, settings.models_dir, name)
            plans.append(memory_plan.plan(found.weights_bytes, found.shape, replace(load, engine=name)))
    return max(plans, key=lambda plan: plan.rss, default=None)


def _model_check(settings: Settings, served: CatalogModel | None, *, quick: bool) -> Check:
    if quick or served is None:
        return weights.check_model(settings.models_dir, served, None)
    with checking(served.num_bytes) as advance:
        return weights.check_model(settings.models_dir, served, advance)


def _redis_checks(named: str | None, model: str) -> list[Check]:
    try:
        from dure import cluster, embedded_redis  # noqa: PLC0415 - redis is optional
        from dure.doctor import redis_server  # noqa: PLC0415
    except ImportError:
        return [of_error("redis", SettingsError("cannot be looked at: pip install 'dure[gateway,worker]'"))]
    # What they would log is said by the checks.
    logging.getLogger("dure").setLevel(logging.CRITICAL)
    address = cluster.find_redis(named)
    program = machine.check_server_program(embedded_redis.find_server, is_needed=address is None or address.is_from_up)
    if address is None:
        return [program, ok("redis", "none is named: `dure up` will start the embedded one")]
    return [program, *redis_server.check_redis(address, model)]


def _table(checks: list[Check]) -> Table:
    table = plain_table("", "항목\ncheck", "결과\nfound")
    table.columns[1].no_wrap = True
    table.columns[2].overflow = "fold"
    for check in checks:
        mark, style = _MARKS[check.status]
        table.add_row(Text(mark, style), cell(_title(check.name)), _finding(check, style))
    return table


def _finding(check: Check, style: str) -> Text:
    lines = [cell(check.found)]
    lines += [cell(f"→ {advice}", style) for advice in (check.remedy.ko, check.remedy.en) if advice]
    return Text("\n").join(lines)


def _title(name: str) -> str:
    korean = _KOREAN.get(name.rstrip(" 0123456789"), "")
    return f"{korean} / {name}" if korean else name


def _summary(checks: list[Check]) -> str:
    count = Counter(check.status for check in checks)
    num_bad, num_warn = count[Status.BAD], count[Status.WARN]
    if not num_bad and not num_warn:
        return "문제가 없습니다. / All is well."
    return f"고칠 것 {num_bad}건, 살필 것 {num_warn}건. / {num_bad} to repair, {num_warn} to look at."


def _json(check: Check) -> dict[str, str]:
    return {
        "name": check.name,
        "status": check.status.value,
        "found": check.found,
        "remedy": check.remedy.en,
        "remedy_ko": check.remedy.ko,
    }
