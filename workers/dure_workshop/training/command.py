"""`python -m dure_workshop distil|adapt`: data and teacher in, a taught model out; what was done is gone on from."""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dure import memory_plan
from dure.errors import SettingsError
from dure.gguf import Gguf
from dure.settings import Settings
from dure_worker.engines.hf.loading import Weights, load
from dure_worker.settings import WorkerSettings
from dure_workshop import manifest_line
from dure_workshop.evaluate import said
from dure_workshop.evaluate.evaluation import logits_of
from dure_workshop.evaluate.results import Results
from dure_workshop.evaluate.subject import Subject
from dure_workshop.generation.asking import Question
from dure_workshop.generation.questions import first_held_out
from dure_workshop.progress import bar
from dure_workshop.results_folder import prepared
from dure_workshop.room import require_disk, require_memory
from dure_workshop.training import export, report
from dure_workshop.training.course import Course, Material, Plan, Point
from dure_workshop.training.dataset import Dataset
from dure_workshop.training.scales import scaled, written
from dure_workshop.training.student import ROWS, Student
from dure_workshop.training.teacher import teach

MODEL, ADAPTER, PLOT = "model.gguf", "adapter.gguf", "curve.png"
# By method: all weights are moved less at a time than a few new ones; of scales it is the share.
RATES = {"lora": 2e-4, "full": 3e-5, "scales": 1e-3}
# In memory: of bfloat16, or of codes with their scales; of float32 with gradient and the optimizer's two means.
BYTES_A_WEIGHT = {"lora": 2, "full": 16, "scales": 2}
# On disk: the model in Q8_0; with the checkpoint's weights and means.
_WRITTEN_A_WEIGHT = {"lora": 2, "full": 14, "scales": 2}
_STATES, _FFN_STATES, _COPIES_OF_LOGITS = 14, 5, 4
_BYTES_A_TARGET = 4  # id and logarithm
# What a manifest has places of its own for.
_TOLD_APART = {"command", "seed", "data", "held_out"}
_MOST_HELD_OUT, _SHARE_HELD_OUT = 64, 10


def run_distil(options: argparse.Namespace, source: Gguf, settings: Settings, console: Console) -> dict[str, Any]:
    """source: the student. Raises SettingsError, ModelError, EngineError."""
    learnt, held_out = _data(options, source)
    num_threads = WorkerSettings.read().num_threads
    teacher = Subject.named(options.teacher, options.teacher_engine, settings)
    _require_room(options, source, learnt, held_out)
    with bar(console, "스승에게 묻는 중 / Asking the teacher") as on_progress:
        total = len(learnt.samples) + len(held_out.samples)
        with logits_of(teacher, num_threads) as logits:
            if logits.model.vocabulary.tokens != source.get("tokenizer.ggml.tokens"):
                raise SettingsError(
                    f"{teacher.path} and {source.path} have different vocabularies: "
                    "take models of one family that were trimmed alike"
                )
            folder = prepared(options.out) / "teacher"
            first = teach(logits, held_out, folder / "held-out", options.kept, lambda done, _: on_progress(done, total))
            num_done = len(held_out.samples)
            second = teach(
                logits, learnt, folder / "learnt", options.kept, lambda done, _: on_progress(num_done + done, total)
            )
    inputs = [teacher.path, *_inputs(options, source)]
    return _taught(options, source, Material(learnt, second), Material(held_out, first), console, inputs)


def run_adapt(options: argparse.Namespace, source: Gguf, settings: Settings, console: Console) -> dict[str, Any]:
    """source: the model. Raises SettingsError, ModelError, EngineError."""
    asked = first_held_out(options.answers)
    learnt, held_out = _data(options, source)
    _require_room(options, source, learnt, held_out)
    found = _taught(options, source, Material(learnt), Material(held_out), console, _inputs(options, source))
    if asked:
        subjects = {
            name: Subject.named(str(path), "llama", settings)
            for name, path in (("before", source.path), ("after", options.out / MODEL))
        }
        found["answers"] = _judged(subjects, asked, options, console)
    return found


def _judged(
    subjects: dict[str, Subject], asked: tuple[Question, ...], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """What the Korean editor finds in each one's answers, as they were generated."""
    results, num_threads = Results(options.out / "answers"), WorkerSettings.read().num_threads
    found = {}
    with bar(console, "답을 견주는 중 / Judging answers") as on_progress:
        for number, (name, subject) in enumerate(subjects.items()):
            total = len(subjects) * len(asked)

            def on_answer(done: int, of: int, first: int = number, total: int = total) -> None:
                on_progress(first * of + done, total)

            found[name] = said.answers(subject, asked, options.seed, results, num_threads, on_answer)["answers"]
    return found


def _inputs(options: argparse.Namespace, source: Gguf) -> list[Path]:
    return [source.path, *options.data, *options.held_out]


def _data(options: argparse.Namespace, source: Gguf) -> tuple[Dataset, Dataset]:
    """What is learnt, and what is held out."""
    given = Dataset.of([Dataset.read(path, source, options.length) for path in options.data])
    if options.held_out:
        learnt, held_out = given, Dataset.of([Dataset.read(path, source, options.length) for path in options.held_out])
    else:
        num_held_out = min(_MOST_HELD_OUT, len(given.samples) // _SHARE_HELD_OUT)
        if not num_held_out:
            raise SettingsError(
                f"{len(given.samples)} samples are too few to hold some out: give {_SHARE_HELD_OUT} at least, "
                "or others with --held-out"
            )
        learnt, held_out = given.parted(num_held_out, options.seed)
    if options.samples:
        learnt = learnt.some(options.samples, options.seed)
    return learnt, held_out.some(_MOST_HELD_OUT, options.seed)


def _require_room(options: argparse.Namespace, source: Gguf, learnt: Dataset, held_out: Dataset) -> None:
    """Before the first minute is spent. Raises PlanTooLarge, SettingsError."""
    _, shape = memory_plan.of_gguf(source)
    num_weights = sum(tensor.num_weights for tensor in source.tensors.values())
    # Of a token in a layer, in 16 bits: what the backward pass needs of it.
    kept = 2 * (shape.hidden if options.frugal else _STATES * shape.hidden + _FFN_STATES * shape.ffn)
    activations = options.batch * options.length * shape.layers * kept
    logits = _COPIES_OF_LOGITS * ROWS * shape.vocab * 4
    require_memory(
        num_weights * BYTES_A_WEIGHT[options.method] + activations + logits,
        "learning",
        "choose a smaller --batch or --length, or --frugal",
    )
    num_targets = options.kept * (learnt.num_learnt + held_out.num_learnt) if "teacher" in options else 0
    require_disk(options.out, num_weights * _WRITTEN_A_WEIGHT[options.method] + num_targets * _BYTES_A_TARGET)


def _taught(
    options: argparse.Namespace,
    source: Gguf,
    learnt: Material,
    held_out: Material,
    console: Console,
    inputs: list[Path],
) -> dict[str, Any]:
    began_at = time.monotonic()
    torch.set_num_threads(WorkerSettings.read().num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights: Weights = "float32" if options.method == "full" else "bf16"
    with console.status("배울 모델을 읽는 중 / Reading the student"):
        model = load(source.path, weights).model
        if options.method == "scales":
            scaled(model, source)
        model = model.to(device)
    student = Student(
        model, options.method, options.rank, options.seed, is_frugal=options.frugal, is_half=_multiplies_halves(device)
    )
    num_steps = options.steps or math.ceil(len(learnt.dataset.samples) / options.batch)
    plan = Plan(
        num_steps,
        options.batch,
        options.rate or RATES[options.method],
        options.ce_share if learnt.teacher is not None else 1.0,
        options.every,
        options.seed,
    )
    course = Course(student, plan, learnt, held_out, prepared(options.out))
    with bar(console, "배우는 중 / Learning") as on_progress:
        curve = course.run(lambda done, total, _: on_progress(done, total))
    report.plot(curve, options.out / PLOT, has_teacher=learnt.teacher is not None)
    with bar(console, "쓰는 중 / Writing") as on_progress:
        if options.method == "scales":
            written(model, source, options.out / MODEL, on_progress)
        else:
            export.merged(student, source, options.out / MODEL, on_progress)
    found = _report(curve, options, learnt.dataset, held_out.dataset)
    if options.method == "lora":
        export.adapter(student, source, options.out / ADAPTER)
        found["adapter"] = str(options.out / ADAPTER)
    found["seconds"] = round(time.monotonic() - began_at)
    told = {name: value for name, value in vars(options).items() if name not in _TOLD_APART}
    manifest_line.add_line(
        options.out, command=options.command, inputs=inputs, seed=options.seed, seconds=found["seconds"],
        options={name: str(value) for name, value in told.items() if value not in (None, [], False)},
        kl=found["kl"], ce=found["ce"], num_tokens=found["tokens"],
    )  # fmt: skip
    return found


def _report(curve: list[Point], options: argparse.Namespace, learnt: Dataset, held_out: Dataset) -> dict[str, Any]:
    return {
        "out": str(options.out / MODEL),
        "steps": int(curve[-1]["step"]),
        "tokens": int(curve[-1]["tokens"]),
        "samples": len(learnt.samples),
        "samples_too_long": learnt.num_too_long,
        "samples_held_out": len(held_out.samples),
        "kl": [curve[0]["kl"], curve[-1]["kl"]],
        "ce": [curve[0]["ce"], curve[-1]["ce"]],
        "plot": str(options.out / PLOT),
    }


def _multiplies_halves(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
