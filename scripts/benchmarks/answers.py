"""What the editor does to real answers: 200 prompts through a model, as generated and as sent.

An error is what a pass of the editor would change; so the figures say what it finds, and the sample below the table is
for people to judge. One generation serves both columns: as generated, up to where the editor would have stopped it.
"""

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks import machine
from benchmarks.report import footer, save
from dure import catalog
from dure.edits import Pass
from dure.job import JobPayload, Message, Sampling
from dure.settings import Settings
from dure_worker.conversation.persona import persona_of, register_of
from dure_worker.engines import GenerateRequest
from dure_worker.engines.llama import LlamaEngine
from dure_worker.korean import completeness, foreign, parser
from dure_worker.runner import Reply, begun
from dure_worker.settings import WorkerSettings
from dure_worker.whole_answer import whole_answer
from dure_workshop.evaluate.answers import Figures, judged, loops
from dure_workshop.fetch import Fetcher

PROMPTS = Path(__file__).parent / "korean_sets" / "prompts.tsv"
RESULT = Path("scripts/results/answers.md")
_MAX_TOKENS = 256
_SAMPLED = 50


@dataclass(frozen=True)
class Answer:
    """raw: as generated; text: as sent."""

    style: str
    question: str
    raw: str
    text: str


def answers(engine: LlamaEngine, conversations: list[list[str]], seed: int) -> list[Answer]:
    with ThreadPoolExecutor(engine.info.num_slots) as pool:
        numbered = list(enumerate(conversations))
        found = pool.map(lambda one: _conversation(engine, *one[1], seed=seed + one[0]), numbered)
        shown = track(found, "answers", len(conversations), console=Console(stderr=True))
        return [answer for several in shown for answer in several]


def _conversation(engine: LlamaEngine, style: str, *questions: str, seed: int) -> list[Answer]:
    messages = [Message("system", persona_of(JobPayload([], style)).system)]
    found = []
    for question in questions:
        messages.append(Message("user", question))
        found.append(_answer(engine, style, messages, seed))
        messages.append(Message("assistant", found[-1].text))
    return found


def _answer(engine: LlamaEngine, style: str, messages: list[Message], seed: int) -> Answer:
    payload = JobPayload(messages[1:], style, sampling=Sampling(seed=seed))
    reply, sampling = begun(payload, list(Pass), _MAX_TOKENS)
    request = GenerateRequest(f"{seed}/{len(messages)}", messages, _MAX_TOKENS, sampling=sampling)
    reader = _Reader(reply)
    reason = ""
    for token in whole_answer(engine, request, reader):
        reader.raw, reason = reader.raw + token.text, token.finish_reason
        reply.feed(token.text)
        if reply.is_looping:
            break
    reply.finish(is_cut=reason != "stop")
    return Answer(style, messages[-1].content, reader.generated.rstrip(), reply.text.rstrip())


class _Reader:
    """Remembers what the engine alone would have answered."""

    def __init__(self, reply: Reply) -> None:
        self.raw = ""
        self._reply = reply
        self._at_first: str | None = None

    @property
    def generated(self) -> str:
        """Up to the limit, or the first sentence that was taken back."""
        return self.raw if self._at_first is None else self._at_first

    @property
    def is_torn(self) -> bool:
        self._remember()
        return self._reply.is_torn

    def take_back(self) -> str:
        forgotten = self._reply.take_back()
        if forgotten:
            self._remember()
        return forgotten

    def _remember(self) -> None:
        if self._at_first is None:
            self._at_first = self.raw


def _judged(found: list[Answer], text_of: Callable[[Answer], str]) -> Figures:
    return judged((text_of(each), register_of(JobPayload([], each.style))) for each in found)


def _table(raw: Figures, sent: Figures) -> list[str]:
    rows = {
        "errors in 100 sentences that a pass finds": ("{:.1f}", "errors_per_100_sentences"),
        "sentences in which a pass finds an error": ("{:.1%}", "sentences_with_errors"),
        "sentences in the register that was asked for, of those that have one": ("{:.1%}", "register_kept"),
        "replies that end complete": ("{:.1%}", "replies_complete"),
        "replies that go round in circles": ("{}", "replies_with_loops"),
        "replies with Han characters or kana": ("{}", "replies_with_foreign_letters"),
    }
    lines = ["| | as generated | as sent |", "|---|---:|---:|"]
    for title, (form, name) in rows.items():
        lines.append(f"| {title} | {form.format(getattr(raw, name))} | {form.format(getattr(sent, name))} |")
    return lines


def _sample(found: list[Answer]) -> list[str]:
    """Evenly over the prompts, each as generated and as sent."""
    lines = ["", "## Sample"]
    for each in found[:: max(1, len(found) // _SAMPLED)][:_SAMPLED]:
        lines += ["", f"**{each.style}: {each.question}**", "", "```text", each.raw.replace("```", "'''"), "```", ""]
        same = "the same" if each.raw == each.text else ""
        lines += [same] if same else ["```text", each.text.replace("```", "'''"), "```"]
    return lines


def _left(found: list[Answer]) -> list[str]:
    """What was sent and is not as it should be."""
    faults: list[tuple[str, Callable[[str], bool]]] = [
        ("does not end complete", lambda text: not completeness.is_complete(text)),
        ("goes round in circles", loops),
        ("has Han characters or kana", foreign.has_letters),
    ]
    lines = ["", "## What is left"]
    for each in found:
        for fault, has_it in faults:
            if has_it(each.text):
                text = each.text.replace("```", "'''")
                lines += ["", f"**{each.style}: {each.question}** {fault}:", "", "```text", text, "```"]
    return lines if len(lines) > 2 else [*lines, "", "Nothing."]  # noqa: PLR2004


def main() -> None:
    options = argparse.ArgumentParser(prog="scripts/bench answers", description=__doc__)
    options.add_argument("--model", default=Settings.read().model, help="default: the one that is served")
    options.add_argument("--prompts", type=int, help="conversations, from the beginning of the list; default: all")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = options.parse_args()
    parser.load()
    path = Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(given.model))
    lines = PROMPTS.read_text("utf-8").splitlines()
    conversations = [line.split("\t") for line in lines if not line.startswith("#")][: given.prompts]
    worker = WorkerSettings.read()
    engine = LlamaEngine(
        path, given.model, num_slots=worker.slots, context=worker.context, num_threads=worker.num_threads
    )
    try:
        found = answers(engine, conversations, given.seed)
    finally:
        engine.close()
    raw, sent = _judged(found, lambda each: each.raw), _judged(found, lambda each: each.text)
    report = [f"{len(found)} answers of {given.model}, at most {_MAX_TOKENS} tokens each.", "", *_table(raw, sent)]
    report += footer(" ".join(["scripts/bench answers", *sys.argv[1:]]))
    print("\n".join(report))
    save(RESULT, "\n".join([*report, *_left(found), *_sample(found)]))
    if given.json:
        print(json.dumps({"machine": machine.describe(), "raw": vars(raw), "sent": vars(sent)}, default=str))


if __name__ == "__main__":
    main()
