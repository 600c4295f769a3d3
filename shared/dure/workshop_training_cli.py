"""`dure workshop answer|distil|adapt|build`: teaching a model, and recipes that chain the workshop's steps."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dure.cli_shared import JsonOption, print_json, require, say
from dure.workshop_process import run_workshop

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A name that is listed, or a .gguf file.")]
Data = Annotated[
    list[Path],
    typer.Option(help='Lines of {"messages": […]} or {"text": "…"}, or a .txt file. May be repeated.'),
]
HeldOut = Annotated[
    list[Path] | None,
    typer.Option(help="The same, to judge by what was not learnt. Default: some of --data, which are left out then."),
]
Out = Annotated[Path, typer.Option(help="Folder of the results. A run that was stopped goes on there.")]
Method = Annotated[
    Literal["lora", "full", "scales"],
    typer.Option(help="lora: small matrices beside the weights. full: all weights. scales: of a quantized model."),
]
Rank = Annotated[int, typer.Option(min=1, max=256, help="Of the small matrices (lora).")]
Steps = Annotated[int | None, typer.Option(min=1, help="Default: each sample once.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples a step.")]
Length = Annotated[int, typer.Option(min=16, max=1024, help="Tokens of a sample, at most.")]
Rate = Annotated[
    float | None, typer.Option(min=0, help="Of learning. Default: 2e-4 (lora), 3e-5 (full), 1e-3 (scales).")
]
Samples = Annotated[int | None, typer.Option(min=1, help="So many of --data, by chance. Default: all.")]
Every = Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")]
Frugal = Annotated[bool, typer.Option("--frugal", help="Less memory, a third more time.")]
Seed = Annotated[int, typer.Option(min=0)]


# Of answers that were judged: name, title, form.
_JUDGED = (
    ("errors_per_100_sentences", "백 문장당 오류 / errors per 100 sentences", "{:.1f}"),
    ("register_kept", "요청한 말투 / in the register asked for", "{:.0%}"),
    ("replies_complete", "온전한 끝맺음 / end complete", "{:.0%}"),
    ("replies_with_loops", "맴도는 답 / in circles", "{}"),
)


def answer(
    model: Model,
    prompts: Annotated[Path, typer.Option(help="A question on each line, or JSON lines.")],
    out: Annotated[Path, typer.Option(help="The .jsonl file to write. A run that was stopped goes on.")],
    style: Annotated[list[str] | None, typer.Option(help="May be repeated. Default: all.")] = None,
    engine: Annotated[str | None, typer.Option(help="llama, ark or transformers. Default: llama.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Tries for each question, until one is good.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 256,
    most_characters: Annotated[int, typer.Option(min=1, help="Longer answers are left out.")] = 600,
    seed: Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """A teacher's answers as data to learn from: only those in good Korean, mended by the editor."""
    require("torch", "workshop")
    options = [
        *(f"--style={name}" for name in style or ()),
        *([f"--engine={engine}"] if engine else []),
        f"--prompts={prompts}",
        f"--candidates={candidates}",
        f"--max-tokens={max_tokens}",
        f"--most-characters={most_characters}",
        f"--seed={seed}",
    ]
    found = run_workshop("answer", model, *options, f"--out={out}")
    if as_json:
        print_json(found)
        return
    left_out = ", ".join(f"{number} × {reason}" for reason, number in found["left_out"].items())
    say(f"{found['out']}: {found['kept']:,} / {found['asked']:,}" + (f" ({left_out})" if left_out else ""))


def distil(
    model: Annotated[str, typer.Argument(metavar="STUDENT", help="A name that is listed, or a .gguf file.")],
    teacher: Annotated[str, typer.Option(metavar="MODEL", help="A larger one with the same vocabulary.")],
    data: Data,
    out: Out,
    held_out: HeldOut = None,
    teacher_engine: Annotated[str, typer.Option(help="llama, ark or transformers.")] = "llama",
    method: Method = "lora",
    rank: Rank = 16,
    steps: Steps = None,
    batch: Batch = 8,
    length: Length = 256,
    rate: Rate = None,
    ce_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the loss: of the text itself; the rest is the teacher's.")
    ] = 0.1,
    kept: Annotated[int, typer.Option(min=1, help="Likeliest tokens of the teacher that are kept.")] = 64,
    samples: Samples = None,
    every: Every = 25,
    frugal: Frugal = False,
    seed: Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Teach a small model what a larger one foresees (knowledge distillation). On a GPU where there is one."""
    require("peft", "workshop")
    found = run_workshop(
        "distil",
        model,
        f"--teacher={teacher}",
        f"--teacher-engine={teacher_engine}",
        f"--ce-share={ce_share}",
        f"--kept={kept}",
        *_learning(data, held_out, out, method, rank, steps, batch, length, rate, samples, every, frugal, seed),
    )
    _say_taught(found, as_json)


def adapt(
    model: Model,
    data: Data,
    out: Out,
    held_out: HeldOut = None,
    method: Method = "lora",
    rank: Rank = 16,
    steps: Steps = None,
    batch: Batch = 8,
    length: Length = 512,
    rate: Rate = None,
    samples: Samples = None,
    every: Every = 25,
    frugal: Frugal = False,
    answers: Annotated[
        int, typer.Option(min=0, help="Own questions, answered before and after, for the Korean editor to judge.")
    ] = 12,
    seed: Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Teach a model from conversations of your own: an adapter for llama, and a merged model for every engine."""
    require("peft", "workshop")
    found = run_workshop(
        "adapt",
        model,
        f"--answers={answers}",
        *_learning(data, held_out, out, method, rank, steps, batch, length, rate, samples, every, frugal, seed),
    )
    _say_taught(found, as_json)


def build(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="One that comes along, or a .yaml file.")],
    given: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A file that the recipe needs. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the steps. Default: the recipe's name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what is missing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """From a recipe to a model that can be served, with its proof. What is done already is not done again."""
    require("yaml", "workshop")
    options = [
        *(f"--given={each}" for each in given or ()),
        *([f"--out={out}"] if out else []),
        *(["--dry-run"] if dry_run else []),
    ]
    found = run_workshop("build", recipe, *options)
    if as_json:
        print_json(found)
    elif dry_run:
        _say_plan(found)
    else:
        say(f"{found['name']}: {found['bytes'] / 1e6:,.0f} MB, {found['path']}")
        if found["proof"]:
            say(f"증명 / proof: {found['proof']}")
        say(f"쓰려면 / to serve it: DURE_MODEL={found['name']} dure up")


def _learning(
    data: list[Path],
    held_out: list[Path] | None,
    out: Path,
    method: str,
    rank: int,
    steps: int | None,
    batch: int,
    length: int,
    rate: float | None,
    samples: int | None,
    every: int,
    frugal: bool,
    seed: int,
) -> list[str]:
    return [
        *(f"--data={path}" for path in data),
        *(f"--held-out={path}" for path in held_out or ()),
        f"--out={out}",
        f"--method={method}",
        f"--rank={rank}",
        *([f"--steps={steps}"] if steps else []),
        f"--batch={batch}",
        f"--length={length}",
        *([f"--rate={rate}"] if rate else []),
        *([f"--samples={samples}"] if samples else []),
        f"--every={every}",
        *(["--frugal"] if frugal else []),
        f"--seed={seed}",
    ]


def _say_taught(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    say(f"{found['out']}: {found['steps']:,} steps, {found['tokens']:,} tokens, {found['seconds'] / 60:.0f} min")
    if found["samples_too_long"]:
        say(f"너무 길어 뺀 대화 / conversations that are too long, left out: {found['samples_too_long']:,}")
    names = {"ce": "남겨 둔 글의 교차 엔트로피 / cross-entropy of what was held out"}
    if found["kl"][0]:
        names["kl"] = "스승과의 거리(KL) / KL to the teacher"
    for name, title in names.items():
        before, after = found[name]
        say(f"{title}: {before:.3f} → {after:.3f} ({after / before - 1:+.1%})")
    for name, title, form in _JUDGED if "answers" in found else ():
        cells = [found["answers"][when][name] for when in ("before", "after")]
        say(f"{title}: {' → '.join('–' if cell is None else form.format(cell) for cell in cells)}")
    say(found["plot"])
    if "adapter" in found:
        say(f"llama: DURE_WORKER_ADAPTER={found['adapter']}")
    say(f"쓰려면 / to serve it: dure model add {found['out']}")


def _say_plan(found: dict[str, Any]) -> None:
    say(f"{found['name']}: {found['about']}")
    for name, need in found["needs"].items():
        for path in need["given"]:
            say(f"  --given {name}={path}  {need['about']}")
    for name in found["fetch"]:
        say(f"  dure model fetch {name}")
    for number, step in enumerate(found["steps"], 1):
        mark = "✓" if step["is_done"] else " "
        say(f"{mark} {number}. dure workshop {step['command']}")
