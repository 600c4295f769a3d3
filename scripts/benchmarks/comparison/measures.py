"""What is measured of an engine that runs. Each returns figures by the name of their metric, or raises NotMeasured."""

import statistics
from dataclasses import dataclass

from benchmarks.comparison import korean
from benchmarks.comparison.asking import ask, opening, request, unseen
from benchmarks.comparison.trace import Trace, tokens_a_piece
from dure.job import Message
from dure_worker.engines import Engine

PROMPT_TOKENS, COLD_TOKENS, ANSWER_TOKENS = 512, 600, 48
# Fewer tokens a stream say more of the clock than of the engine.
_LEAST_TOGETHER = 6
# Of a slot: for the answer, and because a prompt is made of whole sentences.
_ROOM = 192
_FILL_S = 900.0

Figures = dict[str, float]


class NotMeasured(Exception):
    """The message says why."""


@dataclass(frozen=True)
class Sizes:
    """How much is asked. cap_s: what takes longer is cut off, so that the slowest engine ends too."""

    num_repeats: int = 3
    streams: tuple[int, ...] = (1, 2, 4, 8)
    max_tokens: int = 96
    window_s: float = 45.0
    cap_s: float = 60.0


FULL = Sizes()
QUICK = Sizes(num_repeats=1, streams=(1, 8), max_tokens=48, window_s=12.0, cap_s=20.0)


def prefill(engine: Engine, sizes: Sizes, number: int) -> Figures:
    """Tokens a second of prompts of which nothing is remembered."""
    speeds = []
    for repeat in range(sizes.num_repeats):
        prompt = unseen(engine, _unused(number, repeat, 0), PROMPT_TOKENS)
        (trace,) = ask(engine, [request(prompt, 1)], sizes.cap_s)
        if not trace.is_whole:
            raise NotMeasured(f"a prompt of {PROMPT_TOKENS} tokens takes longer than {sizes.cap_s:g} s")
        speeds.append(trace.usage.prompt_tokens / (trace.ended - trace.began))
    return {"prefill": statistics.median(speeds)}


def decode(engine: Engine, sizes: Sizes, num_streams: int) -> Figures:
    """Tokens a second of all answers together, while all of them run."""
    requests = [request(opening(question), sizes.max_tokens) for question in korean.QUESTIONS[:num_streams]]
    return {f"decode_{num_streams}": together(ask(engine, requests, sizes.cap_s))}


def together(traces: list[Trace]) -> float:
    """Tokens a second from the moment when the last one began to write until the first one ended."""
    if not all(trace.pieces for trace in traces):
        raise NotMeasured("some answers did not begin in time")
    start = max(trace.pieces[0] for trace in traces)
    end = min(trace.pieces[-1] for trace in traces)
    ratio = tokens_a_piece(traces)
    num_tokens = sum(trace.tokens_between(start, end, ratio) for trace in traces)
    if num_tokens < _LEAST_TOGETHER * len(traces):
        raise NotMeasured(f"{len(traces)} answers hardly ran together")
    return num_tokens / (end - start)


def turns(engine: Engine, sizes: Sizes, number: int) -> Figures:
    """Seconds to the first text: of a conversation never seen, and of its next turn."""
    firsts = [_two_turns(engine, sizes, _unused(number, repeat, 1)) for repeat in range(sizes.num_repeats)]
    return {
        "ttft_cold": statistics.median(cold for cold, _ in firsts),
        "ttft_second": statistics.median(second for _, second in firsts),
        "ttft_second_share": statistics.median(second / cold for cold, second in firsts),
    }


def fill(engine: Engine) -> None:
    """Every slot nearly full, twice: the second conversations push the first ones into a prompt cache."""
    info = engine.info
    for turn in range(2):
        numbers = [_unused(turn, slot, 2) for slot in range(info.num_slots)]
        room = info.context - _ROOM
        traces = ask(engine, [request(unseen(engine, number, room), ANSWER_TOKENS) for number in numbers], _FILL_S)
        if not all(trace.is_whole for trace in traces):
            raise NotMeasured(f"the slots are not full after {_FILL_S:g} s")


def _two_turns(engine: Engine, sizes: Sizes, number: int) -> tuple[float, float]:
    messages = unseen(engine, number, COLD_TOKENS)
    cold = _answered(engine, messages, sizes)
    messages += [Message("assistant", cold.text), Message("user", "그중에서 무엇이 가장 중요한가요?")]
    return cold.first_s, _answered(engine, messages, sizes).first_s


def _answered(engine: Engine, messages: list[Message], sizes: Sizes) -> Trace:
    (trace,) = ask(engine, [request(messages, ANSWER_TOKENS)], sizes.cap_s)
    if not trace.pieces:
        raise NotMeasured(f"no text within {sizes.cap_s:g} s")
    return trace


def _unused(number: int, repeat: int, kind: int) -> int:
    """No two prompts of a benchmark begin alike: round, repeat and kind of the prompt as one number."""
    return (number * 100 + repeat) * 3 + kind
