"""From a model to a smaller one: vocabulary, then depth and width, each way tried before one is taken."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dure import gguf
from dure.errors import SettingsError
from dure.gguf import Gguf
from dure_workshop import texts
from dure_workshop.perplexity import Perplexity
from dure_workshop.prune import support
from dure_workshop.prune.cut import Cut
from dure_workshop.prune.gguf_file import pruned
from dure_workshop.prune.plan import Plan, Wanted, plans
from dure_workshop.prune.probe import Measured, Probe
from dure_workshop.prune.structure import Structure
from dure_workshop.prune.workplace import Workplace
from dure_workshop.trim import gguf_file as trimming

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Order:
    """What is to go.

    ratio      share of the original's parameters, at least; None: just what `wanted` names
    original   parameters to count from; None: those of the source
    vocab      tokens that stay; 0: all
    text       over which is measured what counts
    judge      over which the ways are compared
    """

    wanted: Wanted
    ratio: float | None
    original: int | None
    vocab: int
    languages: set[str]
    text: str
    judge: str

    def check(self, structure: Structure) -> None:
        """Raises SettingsError."""
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise SettingsError(f"--ratio {self.ratio}: choose a share between 0 and 1 such as 0.5")
        if self.ratio is None and self.wanted == Wanted():
            raise SettingsError("nothing is to go: say --ratio, --layers, --ffn or --heads")
        if self.original is not None and self.original < structure.num_parameters:
            raise SettingsError(
                f"--original-params {self.original:,}: the source alone has {structure.num_parameters:,}; name those "
                "of the model before its vocabulary was trimmed"
            )
        self.wanted.check(structure)


def prune(source: Gguf, out: Path, order: Order, place: Workplace, on_step: OnStep) -> dict[str, Any]:
    """Write the smaller model and say what went. on_step(what, parts done, of all).

    Raises SettingsError, ModelError, EngineError.
    """
    before = Structure.of(source)
    order.check(before)
    if order.wanted.layers is not None:
        support.check_depth(source, before)
    if order.wanted.heads is not None:
        support.check_heads(source, before)
    original = order.original or before.num_parameters
    trimmed = _trimmed(source, order, place, on_step)
    structure = Structure.of(trimmed)
    ways = _ways(structure, order, original)
    probe = Probe(trimmed, place.folder)
    measured = _measured(probe, order.text, place, on_step)
    candidates = _candidates(probe, measured, ways, structure, order.judge, place, on_step)
    plan, _ = min(candidates, key=lambda each: each[1].nll_nats)
    cut = _cut(measured, plan, structure)
    whole = _step(place, "whole", lambda: _own(probe, _all(structure), on_step, "원래 모델 / The whole model"))
    finished = place.folder / "pruned.gguf"
    pruned(trimmed, finished, cut, lambda *done: on_step("쓰는 중 / Writing", *done))
    shape = structure.shape
    now = _own(
        Probe(gguf.read(finished), place.folder), Cut(list(range(len(cut.layers)))), on_step, "남은 모델 / What is left"
    )
    finished.replace(out)
    return {
        "out": str(out),
        "bytes": [source.path.stat().st_size, out.stat().st_size],
        "parameters": _counted(original, before, structure, plan),
        "layers": [shape.layers, len(cut.layers)],
        "layers_dropped": sorted(set(range(shape.layers)) - set(cut.layers)),
        "channels": [shape.ffn, plan.num_channels],
        "heads": [shape.heads, plan.num_heads],
        "influence": [round(float(each), 4) for each in measured.influence],
        "candidates": [
            asdict(way) | {"perplexity": found.per_token, "bits_per_byte": found.bits_per_byte}
            for way, found in candidates
        ],
        # Of the trimmed source, whose vocabulary the result has.
        "perplexity": [whole.per_token, now.per_token],
        "bits_per_byte": [whole.bits_per_byte, now.bits_per_byte],
        "tokens_of_importance": measured.num_tokens,
    }


def _trimmed(source: Gguf, order: Order, place: Workplace, on_step: OnStep) -> Gguf:
    """The source itself where its vocabulary is small enough."""
    if not order.vocab or gguf.num_tokens(source) <= order.vocab:
        return source
    path = place.folder / "trimmed.gguf"
    if not path.exists():
        try:
            trimming.trim(
                source, path, order.languages, order.vocab,
                on_progress=lambda *done: on_step("낱말을 줄이는 중 / Trimming the vocabulary", *done),
            )  # fmt: skip
        except SettingsError as error:
            raise SettingsError(str(error).replace("--size", "--vocab")) from None
    return gguf.read(path)


def _ways(structure: Structure, order: Order, original: int) -> list[Plan]:
    if order.ratio is None:
        return [order.wanted.plan(structure)]
    most = int(original * (1 - order.ratio))
    if structure.num_parameters <= most:
        raise SettingsError(
            f"--ratio {order.ratio}: the vocabulary alone leaves {structure.num_parameters:,} of {original:,} "
            "parameters, which is enough; choose a larger --ratio, or trim only (`dure model trim`)"
        )
    return plans(structure, most, order.wanted, can_drop=not structure.shape.window)


def _measured(probe: Probe, text: str, place: Workplace, on_step: OnStep) -> Measured:
    path = place.folder / "measured.npz"
    if path.exists():
        return Measured.read(path)
    found = probe.measure(text, lambda *done: on_step("중요도를 재는 중 / Measuring what counts", *done))
    found.write(path)
    return found


def _candidates(
    probe: Probe, measured: Measured, ways: list[Plan], structure: Structure, judge: str, place: Workplace,
    on_step: OnStep,
) -> list[tuple[Plan, Perplexity]]:  # fmt: skip
    found = []
    for plan in ways:
        title = f"층 / layers -{plan.num_dropped}, FFN {plan.num_channels}"

        def tried(plan: Plan = plan, title: str = title) -> Perplexity:
            cut = _cut(measured, plan, structure)
            return probe.perplexity(cut, judge, lambda *done: on_step(title, *done))

        found.append((plan, _step(place, f"candidate {plan}", tried)))
    return found


def _cut(measured: Measured, plan: Plan, structure: Structure) -> Cut:
    return measured.cut(plan.num_dropped, plan.num_channels, plan.num_heads, structure.shape.kv_heads)


def _all(structure: Structure) -> Cut:
    return Cut(list(range(structure.shape.layers)))


def _own(probe: Probe, cut: Cut, on_step: OnStep, title: str) -> Perplexity:
    return probe.perplexity(cut, texts.own("korean"), lambda *done: on_step(title, *done))


def _step(place: Workplace, name: str, make: Callable[[], Perplexity]) -> Perplexity:
    """Done once."""
    kept = place.get(name)
    if kept is not None:
        return Perplexity(**kept)
    found = make()
    place.add(name, asdict(found))
    return found


def _counted(original: int, before: Structure, structure: Structure, plan: Plan) -> dict[str, Any]:
    """Parameters that went, by what they were: vocabulary, then whole layers, then channels and heads of those left."""
    shape = structure.shape
    num_layers = shape.layers - plan.num_dropped
    after_depth = structure.after(num_layers, shape.ffn, shape.heads)
    after_width = structure.after(num_layers, plan.num_channels, shape.heads)
    return {
        "original": original,
        "vocabulary": original - structure.num_parameters,
        "depth": structure.num_parameters - after_depth,
        "width": after_depth - after_width,
        "heads": after_width - plan.num_parameters,
        "left": plan.num_parameters,
        "share_gone": 1 - plan.num_parameters / original,
        "is_output_repeated": before.is_repeated,
    }
