"""`dure workshop`: judging models, and making them smaller and better. Needs the extra `workshop`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dure import workshop_training_cli
from dure.cli_shared import JsonOption, cell, plain_table, print_json, require, say
from dure.workshop_process import run_workshop

app = typer.Typer(help="작업장: 모델을 재고 다듬기. / Judge and improve models.", no_args_is_help=True)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names that are listed, or .gguf files.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(help="llama, ark or transformers; with its weights ark:int4. May be repeated. Default: llama."),
    ] = None,
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
    answers: Annotated[
        int, typer.Option(min=0, help="Own questions to answer, for the Korean editor to judge. 0: none.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the answers' dice.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the results. A run that was stopped goes on there.")] = Path(
        "evaluation"
    ),
    as_json: JsonOption = False,
) -> None:
    """Perplexity, multiple choice, distance to a reference, and answers; table, JSON and plot."""
    require("numpy", "workshop")
    require("matplotlib", "workshop")
    options = [
        *(f"--engine={name}" for name in engine or ()),
        *(f"--text={path}" for path in text or ()),
        *([f"--questions={questions}"] if questions else []),
        *([f"--limit={limit}"] if limit else []),
        *([f"--reference={reference}"] if reference else []),
        f"--answers={answers}",
        f"--seed={seed}",
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
    max_ppl_loss: Annotated[
        float | None,
        typer.Option(
            help="The smallest whose Korean perplexity is at most so many times the source's; tries last long."
        ),
    ] = None,
    importance: Annotated[Path | None, typer.Option(help="From `calibrate`. Default: made now, beside --out.")] = None,
    text: ImportanceTexts = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Faster: round each weight for itself, and lose more.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="importance; or autoround, for the ark engine: --bits 4, 3 or 2 in all layers.")
    ] = "importance",
    iterations: Annotated[int | None, typer.Option(min=1, help="For each layer, of autoround. Default: 200.")] = None,
    group: Annotated[
        int | None,
        typer.Option(help="Of autoround: weights that share a scale, 128, 64 or 32. Default: 32 for 2 bits."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fewer bits: by the importance of the inputs, more for the tensors that gain most from them."""
    require("auto_round" if method == "autoround" else "torch", "workshop")
    options = [
        *([f"--target-mb={target_mb}"] if target_mb is not None else []),
        *([f"--bits={bits}"] if bits is not None else []),
        *([f"--preset={preset}"] if preset is not None else []),
        *([f"--max-ppl-loss={max_ppl_loss}"] if max_ppl_loss is not None else []),
        *([f"--importance={importance}"] if importance is not None else []),
        *(["--plain"] if plain else []),
        *(f"--text={path}" for path in text or ()),
        f"--method={method}",
        *([f"--iterations={iterations}"] if iterations is not None else []),
        *([f"--group={group}"] if group is not None else []),
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


@app.command()
def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that is listed, or a .gguf file.")],
    out: Annotated[Path, typer.Option(help="The .gguf file to write. A run that was stopped goes on.")],
    ratio: Annotated[
        float | None, typer.Option(help="Share of all parameters that goes, such as 0.5; the way of least loss.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=0, help="That go.")] = None,
    ffn: Annotated[int | None, typer.Option(min=1, help="Channels of the feed-forward part that stay.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="That stay, where the engines can.")] = None,
    vocab: Annotated[int, typer.Option(min=0, help="Tokens that stay. 0: all.")] = 32_000,
    original_params: Annotated[
        int | None, typer.Option(min=1, help="To count from, where the vocabulary was cut before.")
    ] = None,
    wanda: Annotated[
        str | None, typer.Option(help="0.5 or 2:4: weights become zero instead; no gain in MB or speed.")
    ] = None,
    text: ImportanceTexts = None,
    as_json: JsonOption = False,
) -> None:
    """Leave out what counts least: vocabulary, whole layers, channels. `distil` brings much of the quality back."""
    require("torch", "workshop")
    counts = {"layers": layers, "ffn": ffn, "heads": heads, "original-params": original_params}
    options = [
        *([f"--ratio={ratio}"] if ratio is not None else []),
        *(f"--{name}={number}" for name, number in counts.items() if number is not None),
        f"--vocab={vocab}",
        *([f"--wanda={wanda}"] if wanda is not None else []),
        *(f"--text={path}" for path in text or ()),
    ]
    found = run_workshop("prune", model, f"--out={out}", *options)
    if as_json:
        print_json(found)
        return
    before, after = found["bytes"]
    say(f"{found['out']}: {before / 1e6:,.0f} → {after / 1e6:,.0f} MB")
    if wanda is not None:
        say(f"{found['num_zeros'] / found['num_weights']:.1%} zeros; {found['gain']}")
        return
    _say_pruned(found)


def _say_pruned(found: dict[str, Any]) -> None:
    count = found["parameters"]
    table = plain_table("", "매개변수\nparameters", "")
    for name in ("original", "vocabulary", "depth", "width", "heads", "left"):
        table.add_row(name, f"{count[name]:,}", f"{count[name] / count['original']:.1%}")
    Console().print(table)
    dropped, (_, channels) = ", ".join(map(str, found["layers_dropped"])) or "–", found["channels"]
    say(f"뺀 층 / layers dropped: {dropped}; FFN: {channels}")
    before, after = found["perplexity"]
    say(f"한국어 혼란도 / Korean perplexity: {before:.1f} → {after:.1f}")
    say("되찾으려면 / to win it back: dure workshop distil")


for _command in (workshop_training_cli.answer, workshop_training_cli.distil, workshop_training_cli.adapt):
    app.command()(_command)
app.command()(workshop_training_cli.build)
