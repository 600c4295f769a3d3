"""`dure workshop`: judging models, and making them smaller and better. Needs the extra `workshop`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dure.cli_shared import JsonOption, cell, plain_table, print_json, require, say
from dure.workshop_process import run_workshop

app = typer.Typer(help="작업장: 모델을 재고 다듬기. / Judge and improve models.", no_args_is_help=True)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names that are listed, or .gguf files.")],
    engine: Annotated[list[str] | None, typer.Option(help="llama or ark. May be repeated. Default: llama.")] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text to foresee, UTF-8. May be repeated. Default: own Korean and English."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Folder with KoBEST's files (BoolQ.dev.tsv, COPA, HellaSwag, SentiNeg, WiC).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions a task, evenly. Default: all.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compare distributions with it; the vocabulary must be the same."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results. A run that was stopped goes on there.")] = Path(
        "evaluation"
    ),
    as_json: JsonOption = False,
) -> None:
    """Perplexity, multiple choice, and distance to a reference; table, JSON and plot."""
    require("numpy", "workshop")
    require("matplotlib", "workshop")
    options = [
        *(f"--engine={name}" for name in engine or ()),
        *(f"--text={path}" for path in text or ()),
        *([f"--questions={questions}"] if questions else []),
        *([f"--limit={limit}"] if limit else []),
        *([f"--reference={reference}"] if reference else []),
        f"--out={out}",
    ]
    found = run_workshop("evaluate", *models, *options)
    if as_json:
        print_json(found)
        return
    names = list(found["rows"][0].get("text", {}))
    tasks = list(found["rows"][0].get("task", {}))
    table = plain_table("모델\nmodel", "엔진\nengine", "크기\nMB", "비트\nbits", *names, *tasks)
    for row in found["rows"]:
        table.add_row(
            cell(row["model"]),
            row["engine"],
            f"{row['megabytes']:,.0f}",
            f"{row['bits_per_weight']:.2f}",
            *(f"{row['text'][name]['per_token']:.2f}" for name in names),
            *(f"{row['task'][name]['accuracy']:.1%}" for name in tasks),
        )
    Console().print(table)
    say("글은 토큰당 혼란도(낮을수록 좋음), 문제는 정답률입니다. / Texts: perplexity a token; tasks: accuracy.")
    say(found["table"])


ImportanceTexts = Annotated[
    list[Path] | None,
    typer.Option(help="Korean text, UTF-8, to see which columns count. May be repeated. Default: an own one."),
]


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that is listed, or a .gguf file.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    text: ImportanceTexts = None,
    as_json: JsonOption = False,
) -> None:
    """Which columns of the matrices count: the mean square of their inputs over a text; for `quantize`."""
    require("torch", "workshop")
    found = run_workshop("calibrate", model, *(f"--text={path}" for path in text or ()), f"--out={out}")
    if as_json:
        print_json(found)
        return
    say(f"{found['out']}: {found['tensors']} tensors, {found['num_tokens']:,} tokens")


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that is listed, or a .gguf file.")],
    out: Annotated[Path, typer.Option(help="The .gguf file to write.")],
    target_mb: Annotated[float | None, typer.Option(min=1, help="MB of all weights together.")] = None,
    bits: Annotated[float | None, typer.Option(min=1, max=16, help="Bits a weight over all tensors.")] = None,
    preset: Annotated[str | None, typer.Option(help="2bit: at most 2.9 bits a weight over all tensors.")] = None,
    importance: Annotated[Path | None, typer.Option(help="From `calibrate`. Default: made now, beside --out.")] = None,
    text: ImportanceTexts = None,
    as_json: JsonOption = False,
) -> None:
    """Fewer bits: by the importance of the inputs, more for the tensors that gain most from them."""
    require("torch", "workshop")
    options = [
        *([f"--target-mb={target_mb}"] if target_mb is not None else []),
        *([f"--bits={bits}"] if bits is not None else []),
        *([f"--preset={preset}"] if preset is not None else []),
        *([f"--importance={importance}"] if importance is not None else []),
        *(f"--text={path}" for path in text or ()),
    ]
    found = run_workshop("quantize", model, f"--out={out}", *options)
    if as_json:
        print_json(found)
        return
    before, after = found["bits_per_weight"]
    kinds = ", ".join(f"{number} × {kind}" for kind, number in found["kinds"].items())
    say(f"{found['out']}: {found['bytes'] / 1e6:,.0f} MB, {kinds}")
    say(f"가중치당 비트 / bits a weight, {found['num_weights']:,}: {before:.2f} → {after:.2f}")
    say(f"얼마나 나빠졌나 / what it costs: dure workshop evaluate {model} {found['out']}")
    say(f"쓰려면 / to serve it: dure model add {found['out']}")
