"""`dure model fetch`, `add`, `trim` and `bench`: what the workshop does, started as a program of its own."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dure import catalog, model_names
from dure.cli_shared import JsonOption, cell, plain_table, print_json, require, say
from dure.memory_plan import Precision
from dure.settings import Settings
from dure.workshop_process import run_workshop


def model_fetch(
    name: Annotated[str | None, typer.Argument(help="Default: the served model.")] = None, as_json: JsonOption = False
) -> None:
    """Have a model on this machine: copied from DURE_MODEL_SOURCE, downloaded, or made from another; sha256 checked."""
    require("filelock", "worker")
    settings = Settings.read()
    model = model_names.on_list(name or settings.model, settings.models_dir)
    run_workshop("fetch", model.name)
    path = catalog.weights_path(settings.models_dir, model)
    if as_json:
        print_json({"name": model.name, "path": str(path), "bytes": path.stat().st_size})


def model_trim(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A name that is listed, a .gguf file, or a Hugging Face folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file, or for a folder the folder, to write.")],
    keep: Annotated[str, typer.Option(help="Languages to keep, with commas between.")] = "korean,english",
    size: Annotated[int, typer.Option(min=1, help="Tokens to keep.")] = 32_000,
    text: Annotated[
        list[Path] | None, typer.Option(help="Text of yours: what it uses most is kept first. May be repeated.")
    ] = None,
    add_words: Annotated[
        int,
        typer.Option(
            min=0, max=8192, help="Add so many Korean words of --text as tokens, if its likelihood bears it (numpy)."
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Cut a model's vocabulary down to some languages: smaller and faster, and it cannot slip into the others."""
    require("regex", "worker")
    if add_words:
        require("numpy", "worker,numbers")
    path = model_names.weights_of(source, Settings.read().models_dir)
    command = [
        "trim",
        str(path),
        f"--keep={keep}",
        f"--size={size}",
        f"--out={out}",
        *([f"--add-words={add_words}"] if add_words else []),
        *(f"--text={path}" for path in text or ()),
    ]
    report = run_workshop(*command)
    if as_json:
        print_json(report)
        return
    Console().print(_trim_table(report))
    say(f"\n{report['bytes_before'] / 1e6:,.0f} → {report['bytes_after'] / 1e6:,.0f} MB, {out}")
    if added := report.get("added"):
        say(f"더한 낱말 / words added: {added['words']}" + (f" ({added['why']})" if "why" in added else ""))
    for name, (before, after) in report["fertility"].items():
        say(f"한글 한 글자에 드는 토큰 / tokens per Korean character, {name}: {before:.3f} → {after:.3f}")
    say("잘린 글자도 바이트 토큰으로 읽고 쓸 수 있지만 느립니다. / Scripts that were cut cost byte tokens now.")


def model_add(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A .gguf file, a Hugging Face folder, or OWNER/NAME on the model hub.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call it here. Default: from the file's name.")] = None,
    file: Annotated[str | None, typer.Option(help="Which file of a hub's repository. Default: its Q4_K_M.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of a checkpoint's weights when it is converted to GGUF.")
    ] = Precision.Q4_K_M,
    as_json: JsonOption = False,
) -> None:
    """Make a model of yours one that can be served: checked against the engines, copied, its sha256 noted."""
    require("filelock", "worker")
    if Path(source).expanduser().is_dir():
        require("numpy", "worker,numbers")
    options = [
        f"--precision={precision.value}",
        *([f"--name={name}"] if name else []),
        *([f"--file={file}"] if file else []),
    ]
    added = run_workshop("add", source, *options)
    if as_json:
        print_json(added)
        return
    engines = ", ".join(added["engines"])
    say(f"{added['name']}: {added['architecture']}, {added['bytes'] / 1e6:,.0f} MB, {engines}")
    say(f"이제 쓸 수 있습니다. / It can be served now: dure up --model {added['name']}")


def model_bench(
    name: Annotated[str | None, typer.Argument(help="Default: the served model.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Rounds; the median counts.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on this machine: memory, speed, time to the first token. Its manifest remembers it."""
    require("xllamacpp", "worker")
    settings = Settings.read()
    model = model_names.on_list(name or settings.model, settings.models_dir)
    model_names.weights_of(model.name, settings.models_dir)
    found = run_workshop("bench", model.name, f"--repeats={repeats}")
    if as_json:
        print_json(found)
        return
    table = plain_table("", "", "")
    for korean, english, value in _bench_rows(found):
        table.add_row(korean, english, cell(value))
    Console().print(table)
    say(f"{found['cpu']}, {found['threads']} threads. {found['date']}.")


def _bench_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    slots, context = found["slots"], found["context"]
    return [
        ("프롬프트 읽기", "prompt", f"{found['prefill_tokens_per_s']:.1f} tokens/s"),
        ("답 하나", "one answer", f"{found['decode_tokens_per_s']:.1f} tokens/s"),
        (f"답 {slots}개 함께", f"{slots} answers together", f"{found['decode_all_tokens_per_s']:.1f} tokens/s"),
        ("시작해서 첫 토큰까지", "start to first token", f"{found['cold_start_s']:.1f} s"),
        (
            "가장 클 때 메모리",
            f"peak memory, {slots} × {context:,} full",
            f"{found['peak_rss_bytes'] / 2**20:,.0f} MiB",
        ),
        ("계획", "planned", f"{found['plan_rss_bytes'] / 2**20:,.0f} MiB"),
    ]


def _trim_table(report: dict[str, Any]) -> Table:
    table = plain_table("문자\nscript", "토큰 전\nbefore", "후\nafter", "MB 전\nbefore", "후\nafter")
    for number in range(1, 5):
        table.columns[number].justify = "right"
    for row in [*report["scripts"], {"script": "모두 / all", **report["all"]}]:
        table.add_row(
            cell(row["script"]),
            f"{row['tokens_before']:,}",
            f"{row['tokens_after']:,}",
            f"{row['bytes_before'] / 1e6:,.1f}",
            f"{row['bytes_after'] / 1e6:,.1f}",
        )
    return table
