"""`dure model plan` and `recommend`: what fits into a box."""

from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dure import catalog, known_models, machine_memory, model_names
from dure.budget import LEAST_CONTEXT, WITHOUT_KIWI, Budget
from dure.cli_shared import JsonOption, cell, plain_table, print_json, say
from dure.engine_report import EngineReport
from dure.errors import SettingsError
from dure.known_models import KnownModel
from dure.memory_plan import MIB, Load, Plan
from dure.model_names import Subject
from dure.settings import Settings

_PARTS = {
    "weights": ("가중치", "weights"),
    "kv_cache": ("KV 캐시", "KV cache"),
    "compute": ("계산 버퍼", "compute buffers"),
    "prompt_cache": ("프롬프트 캐시", "prompt cache"),
    "engine": ("엔진과 토크나이저", "engine, tokenizer"),
    "python": ("파이썬", "Python"),
    "korean_editor": ("한국어 편집기 (Kiwi)", "Korean editor (Kiwi)"),
    "margin": ("여유 (계획의 오차)", "margin, what a plan cannot know"),
    "reserve": ("시스템 몫", "reserve for the system"),
}

RamOption = Annotated[
    str | None,
    typer.Option(help="Memory of the box: 3GB, 3GiB, 3072MiB, 2.5g. Default: what this process may use here."),
]
SlotsOption = Annotated[int, typer.Option(min=1, max=64, help="Answers at once.")]
ContextOption = Annotated[int, typer.Option(min=256, max=131072, help="Tokens a slot holds.")]
CacheOption = Annotated[int, typer.Option(min=0, max=65536, help="DURE_WORKER_PROMPT_CACHE_MIB of the worker.")]
EditorOption = Annotated[
    bool,
    typer.Option(
        "--editor/--no-editor",
        help=f"Count the Korean editor's Kiwi, which a worker with {WITHOUT_KIWI} does not load.",
    ),
]


class Engine(StrEnum):
    AUTO = "auto"
    LLAMA = "llama"
    ARK = "ark"


EngineOption = Annotated[
    Engine,
    typer.Option(
        help="As which engine would hold it. auto: the one that a worker would take here; llama where that is not "
        "known, or with --ram, where the box may be another."
    ),
]


def model_plan(
    model: Annotated[str, typer.Argument(help="A name in the catalogue, a .gguf file, or a known model.")],
    ram: RamOption = None,
    slots: SlotsOption = 4,
    context: ContextOption = 2048,
    prompt_cache: CacheOption = 64,
    editor: EditorOption = True,
    engine: EngineOption = Engine.AUTO,
    as_json: JsonOption = False,
) -> None:
    """What a worker with this model will hold in memory at its peak, whether it fits, and what to change if not."""
    models_dir = Settings.read().models_dir
    name = _taken(model, models_dir, is_other_box=ram is not None) if engine is Engine.AUTO else engine.value
    found = model_names.subject(model, models_dir, name)
    box = _box(ram)
    load = Load(slots, context, prompt_cache * MIB, editor, name)
    plan = box.plan(found.weights_bytes, found.shape, load)
    advice = [] if box.holds(plan) else _advice(found, load, box)
    if as_json:
        print_json(
            _plan_json(found, plan, box) | {"engine": name, "slots": slots, "context": context, "advice": advice}
        )
        return
    Console().print(_plan_table(plan))
    say(f"\n{found.name}, {name}, {slots} × {context}: {found.source}")
    say(_verdict(plan, box))
    for line in advice:
        say(f"→ {line}")


def _taken(model: str, models_dir: Path, *, is_other_box: bool) -> str:
    """The engine that a worker would take on this machine, as far as it is known."""
    listed = model_names.listed(models_dir).get(model)
    if is_other_box or listed is None or not catalog.weights_path(models_dir, listed).is_file():
        return "llama"
    taken = EngineReport.of_worker(model).engine
    return taken if taken in list(Engine) and taken != Engine.AUTO else "llama"


def model_recommend(
    ram: RamOption = None,
    slots: SlotsOption = 4,
    context: ContextOption = 2048,
    every: Annotated[bool, typer.Option("--all", help="Also those that do not fit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Korean models that fit into this much memory, best first by a published Korean benchmark."""
    box = _box(ram)
    models_dir = Settings.read().models_dir
    rows = [row for row in _candidates(models_dir, Load(slots, context), box) if row["fits"] or every]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say(f"{_mib(box.total)}에 들어가는 모델이 없습니다. --slots나 --context를 줄여 보세요.")
        say(f"No known model fits into {_mib(box.total)}: try fewer --slots or a shorter --context.")
        return
    Console().print(_recommend_table(rows))
    say(f"\n{_mib(box.total)} ({box.source}), {slots} × {context}.")
    for row in rows:
        say(f"{row['name']}: {row['command']}")
    say("점수는 만든 곳이 발표한 값이고, 다른 벤치마크끼리는 견줄 수 없습니다. 빈칸은 확인된 점수가 없다는 뜻입니다.")
    say("Scores are the makers' own; those of different benchmarks cannot be compared. Empty: none was found.")
    say("hub: 모델 허브에서만 받습니다. 이름.gguf라고 적힌 것은 그 모델의 GGUF(Q4_K_M) 파일을 먼저 찾아 받으세요.")
    say("hub: only from a model hub. Where NAME.gguf is named, first take a GGUF file (Q4_K_M) of that model there.")


def _plan_json(found: Subject, plan: Plan, box: Budget) -> dict[str, Any]:
    parts = {f"{name}_bytes": size for name, size in asdict(plan).items()}
    return {
        "model": found.name,
        "plan_rss_bytes": plan.rss,
        "margin_bytes": plan.margin,
        "needed_bytes": plan.needed,
        "ram_bytes": box.total,
        "fits": box.holds(plan),
        **parts,
        "source": found.source,
    }


def _plan_table(plan: Plan) -> Table:
    table = plain_table("부분\npart", "", "MiB")
    table.columns[2].justify = "right"
    parts = asdict(plan)
    reserve = parts.pop("reserve")
    for name, size in parts.items():
        table.add_row(*_PARTS[name], f"{size / MIB:,.0f}")
    table.add_row("작업기", "worker at its peak", cell(f"{plan.rss / MIB:,.0f}", "bold"))
    table.add_row(*_PARTS["margin"], f"{plan.margin / MIB:,.0f}")
    table.add_row(*_PARTS["reserve"], f"{reserve / MIB:,.0f}")
    table.add_row("모두", "total", cell(f"{plan.needed / MIB:,.0f}", "bold"))
    return table


def _verdict(plan: Plan, box: Budget) -> str:
    total = _mib(box.total)
    if box.holds(plan):
        left = _mib(box.total - plan.needed)
        return f"{total}({box.source})에 들어갑니다. {left}가 남습니다. / It fits into {total}; {left} stay free."
    more = _mib(plan.needed - box.total)
    return f"{total}({box.source})에 들어가지 않습니다. {more}가 모자랍니다. / It does not fit: {more} are missing."


def _advice(found: Subject, load: Load, box: Budget) -> list[str]:
    """What would make it fit, each by itself, the least loss first."""

    def fits(**changes: Any) -> bool:
        return box.holds(box.plan(found.weights_bytes, found.shape, replace(load, **changes)))

    advice = []
    slots = next((number for number in range(load.slots - 1, 0, -1) if fits(slots=number)), None)
    if slots:
        advice.append(f"자리를 줄이세요 / fewer slots: --slots {slots}")
    contexts = (load.context * eighths // 8 // 256 * 256 for eighths in range(7, 0, -1))
    context = next((size for size in contexts if size >= LEAST_CONTEXT and fits(context=size)), None)
    if context:
        advice.append(f"문맥을 줄이세요 / a shorter context: --context {context}")
    if load.has_editor and fits(has_editor=False):
        advice.append(f"조사를 고치지 마세요 / particles stay as they are: --no-editor ({WITHOUT_KIWI})")
    if not advice and fits(slots=1, context=LEAST_CONTEXT, prompt_cache_bytes=0, has_editor=False):
        advice.append(
            f"한꺼번에 줄이세요 / all at once: --slots 1 --context {LEAST_CONTEXT} --prompt-cache 0 --no-editor"
        )
    advice.append("더 작은 모델을 고르세요 / a smaller model: `dure model recommend --ram …`")
    return advice


def _candidates(models_dir: Path, load: Load, box: Budget) -> list[dict[str, Any]]:
    rows = []
    for listed in catalog.CATALOG.values():
        is_here = catalog.weights_path(models_dir, listed).is_file()
        command = f"dure up --model {listed.name}" if is_here else f"dure model fetch {listed.name}"
        row = _candidate(model_names.subject_by_shape(listed), listed.title, load, box)
        rows.append(row | {"is_here": is_here, "origin": "catalogue", "command": command, "is_base": listed.is_base})
    for known in known_models.KNOWN.values():
        row = _candidate(model_names.known_subject(known.name), known.title, load, box)
        row |= {"is_here": False, "is_base": known.is_base, "origin": "hub", "hub": known.hub, "command": known.command}
        rows.append(row | _score_json(known) | {"is_checked": known.is_checked, "note": known.note})
    return sorted(rows, key=lambda row: (row["is_base"], -(row["score"] or 0), -row["plan_rss_bytes"]))


def _candidate(found: Subject, title: str, load: Load, box: Budget) -> dict[str, Any]:
    plan = box.plan(found.weights_bytes, found.shape, load)
    return {
        "name": found.name,
        "title": title,
        "licence": found.licence,
        "plan_rss_bytes": plan.rss,
        "needed_bytes": plan.needed,
        "fits": box.holds(plan),
        "benchmark": None,
        "score": None,
        "score_source": None,
        "is_checked": True,
        "note": "",
    }


def _score_json(known: KnownModel) -> dict[str, Any]:
    if known.score is None:
        return {}
    return {"benchmark": known.score.benchmark, "score": known.score.percent, "score_source": known.score.source}


def _recommend_table(rows: list[dict[str, Any]]) -> Table:
    table = plain_table(
        "모델\nmodel", "발표된 점수\npublished score", "작업기\nMiB", "라이선스\nlicence", "어디서\nfrom"
    )
    table.columns[0].no_wrap = True
    table.columns[2].justify = "right"
    for row in rows:
        score = f"{row['score']:.1f} {row['benchmark']}" if row["score"] else ""
        memory = f"{row['plan_rss_bytes'] / MIB:,.0f}" + ("" if row["fits"] else " ✗")
        origin = "✓ here" if row["is_here"] else row["origin"]
        table.add_row(*(cell(value) for value in (row["name"], score, memory, row["licence"], origin)))
    return table


def _box(text: str | None) -> Budget:
    """The box that somebody plans for, or this one. Raises SettingsError."""
    if text is not None:
        size = machine_memory.parse_bytes(text)
        if size is None:
            raise SettingsError(f"--ram {text!r} is no size: write it as 3GB, 3GiB, 3072MiB or 2.5g")
        return Budget(size, source="--ram")
    here = Budget.here()
    if here is None:
        raise SettingsError("this machine does not say how much memory it has: add --ram, for example --ram 3GB")
    return here


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
