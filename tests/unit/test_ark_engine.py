"""The ark engine over a decoder of two layers: answers do not depend on what is computed beside or before them."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

import tiny_chat
import tiny_checkpoint
from asking import GREEDY, SAMPLED, answer, ask, together
from dure import keys
from dure.errors import BadRequest, EngineError, ModelUnsupported
from dure.job import Message, Sampling
from dure_worker.engines import Engine, GenerateRequest
from support import wait_for

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("auto_round_kernel", reason="auto-round-lib has no build for this machine")

from dure_worker.engines.ark import scheduler  # noqa: E402
from dure_worker.engines.ark.answer import Answer  # noqa: E402
from dure_worker.engines.ark.attention import Segment  # noqa: E402
from dure_worker.engines.ark.decoder import Decoder  # noqa: E402
from dure_worker.engines.ark.engine import ArkEngine  # noqa: E402
from dure_worker.engines.ark.kv_cache import KvCache  # noqa: E402
from dure_worker.engines.ark.slots import Slot, Slots  # noqa: E402

STEERED = Sampling(
    temperature=0.8, top_k=5, seed=7, dry_multiplier=0.3, logit_bias={104: 1.0, 32: -100.0}, scripts=["latin", "hangul"]
)
EACH = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, STEERED], ids=["greedy", "sampled", "steered"])
QUESTIONS = ["hello", "hello hello hello", "1 + 1 = 2, 2 + 2 = 4", "두레 두레 두레 농사"]
CONTEXT = 256


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(weights: Path) -> Iterator[Engine]:
    made = ArkEngine(weights, "tiny", num_slots=3, context=CONTEXT)
    yield made
    made.close()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[Segment]]:
    """What each pass had to compute."""
    passes: list[list[Segment]] = []
    forward = Decoder.forward

    def spy(self: Decoder, segments: list[Segment], cache: KvCache) -> torch.Tensor:
        passes.append(segments)
        return forward(self, segments, cache)

    monkeypatch.setattr(Decoder, "forward", spy)
    return passes


@EACH
def test_an_answer_is_the_same_alone_and_beside_others(engine: Engine, sampling: Sampling) -> None:
    requests = [ask(question, replace(sampling, seed=seed)) for seed, question in enumerate(QUESTIONS)]
    alone = [answer(engine, request) for request in requests]
    assert len(set(alone)) > 1
    assert together(engine, requests) == alone


@EACH
def test_guesses_change_no_answer(
    engine: Engine, sampling: Sampling, computed: list[list[Segment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proved: with a guess taken unchecked the answers differ."""
    asked = [ask(question, sampling, max_tokens=160) for question in QUESTIONS]
    guessed = [answer(engine, request) for request in asked]
    assert any(segment.num_wanted > 1 for segments in computed for segment in segments)
    monkeypatch.setattr(scheduler, "_MOST_WITH_DRAFTS", 0)
    computed.clear()
    assert [answer(engine, request) for request in asked] == guessed
    assert all(segment.num_wanted == 1 for segments in computed for segment in segments)


def test_an_answer_without_any_token_left_is_refused_and_its_neighbours_go_on(engine: Engine) -> None:
    bias = dict.fromkeys(range(len(tiny_checkpoint.tokens())), -100.0)
    alone = answer(engine, ask(QUESTIONS[0]))
    neighbour = engine.generate(ask(QUESTIONS[0]))
    found = next(neighbour).text
    with pytest.raises(BadRequest, match="no token"):
        answer(engine, ask(QUESTIONS[1], Sampling(logit_bias=bias)))
    assert found + "".join(token.text for token in neighbour) == alone


class Gate:
    """Holds the first pass until as many answers as wanted were submitted."""

    def __init__(self, engine: ArkEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._engine, self._opened, self._entered = engine, threading.Event(), threading.Event()
        forward = Decoder.forward

        def held(decoder: Decoder, segments: list[Segment], cache: KvCache) -> torch.Tensor:
            self._entered.set()
            assert self._opened.wait(120)
            return forward(decoder, segments, cache)

        monkeypatch.setattr(Decoder, "forward", held)

    def run(self, first: GenerateRequest, others: list[GenerateRequest]) -> None:
        """Ask the others in this order while the first is being computed, and wait for all."""
        work = [self._ask(first)]
        try:
            assert self._entered.wait(120)
            for num_waiting, request in enumerate(others, 1):
                work.append(self._ask(request))
                self._wait_for(num_waiting)
        finally:
            self._opened.set()
            for thread in work:
                thread.join()

    def _wait_for(self, num_waiting: int) -> None:
        wait_for(lambda: len(self._engine._scheduler._waiting) == num_waiting, f"{num_waiting} that wait")

    def _ask(self, request: GenerateRequest) -> threading.Thread:
        thread = threading.Thread(target=answer, args=(self._engine, request))
        thread.start()
        return thread


def test_the_more_urgent_of_those_that_wait_gets_the_slot(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seated: list[str] = []
    seat = Slots.seat

    def spy(self: Slots, new: Answer) -> Slot:
        seated.append(new.request.id)
        return seat(self, new)

    monkeypatch.setattr(Slots, "seat", spy)
    engine = ArkEngine(weights, "tiny", num_slots=1, context=CONTEXT)
    urgent = [ask(name, max_tokens=2, priority=keys.PRIORITY_URGENT) for name in ("urgent 1", "urgent 2")]
    waiting = [ask("normal 1", max_tokens=2), urgent[0], ask("normal 2", max_tokens=2), urgent[1]]
    Gate(engine, monkeypatch).run(ask("running", max_tokens=2), waiting)
    assert seated == ["running", "urgent 1", "urgent 2", "normal 1", "normal 2"]
    engine.close()


def test_the_more_urgent_prompt_is_read_before_the_rest_of_another(
    weights: Path, computed: list[list[Segment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_MOST_CHUNK", scheduler._LEAST_CHUNK)
    engine = ArkEngine(weights, "tiny", num_slots=3, context=CONTEXT)
    normal, urgent = ask("b 두 " * 15, max_tokens=1), ask("c 레 " * 15, max_tokens=1, priority=keys.PRIORITY_URGENT)
    Gate(engine, monkeypatch).run(ask("a 1 " * 15, max_tokens=1), [normal, urgent])
    read = [segments[-1].slot for segments in computed]
    slots = [slot for slot, _ in groupby(read)]
    assert len(slots) == 4, "the first, the urgent one, the rest of the first, the third"
    assert slots[0] == slots[2]
    assert len(set(slots)) == 3
    engine.close()


def test_neither_chunks_nor_what_a_slot_held_change_an_answer(
    engine: Engine, computed: list[list[Segment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    question = "1 + 1 = 2, " * 12
    first = answer(engine, ask(question))
    num_first = max(segment.end for segments in computed for segment in segments)
    computed.clear()
    assert answer(engine, ask(question)) == first
    assert sum(len(segment.ids) for segment in computed[0]) == 1, "all but the last token is there already"
    assert num_first > 4 * scheduler._LEAST_CHUNK
    monkeypatch.setattr(scheduler, "_MOST_CHUNK", scheduler._LEAST_CHUNK)
    for number in range(3):  # as many slots as there are
        answer(engine, ask(f"{number}", max_tokens=1))
    computed.clear()
    assert answer(engine, ask(question)) == first


def test_a_second_turn_goes_on_from_the_first_though_its_answer_was_edited(
    engine: Engine, weights: Path, computed: list[list[Segment]]
) -> None:
    answer(engine, ask("hello " * 20))
    turns = [Message("user", "hello " * 20), Message("assistant", "edited"), Message("user", "and?")]
    computed.clear()
    found = answer(engine, ask("second", messages=turns))
    num_prompt = engine.count_tokens(turns)
    num_read = sum(len(segment.ids) for segments in computed for segment in segments if segment.end <= num_prompt)
    assert num_read < num_prompt / 2
    fresh = ArkEngine(weights, "tiny", num_slots=1, context=CONTEXT)
    assert answer(fresh, ask("second", messages=turns)) == found
    fresh.close()


def test_a_shared_beginning_is_copied_from_a_slot_that_is_busy(engine: Engine, computed: list[list[Segment]]) -> None:
    system = Message("system", "You are kind and brief. " * 4)

    def request(question: str) -> GenerateRequest:
        return ask(question, messages=[system, Message("user", question)])

    alone = answer(engine, request("what?"))
    for number in range(3):
        answer(engine, ask(f"{number}", max_tokens=1))
    tokens = engine.generate(request("who are they?"))
    while not next(tokens).text:
        pass
    computed.clear()
    assert answer(engine, request("what?")) == alone
    starts = [segment.start for segments in computed for segment in segments if len(segment.ids) > 1]
    assert min(starts) > 40
    tokens.close()


def failing(number: int, how: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    forward, count = Decoder.forward, iter(range(10_000))

    def broken(self: Decoder, segments: list[Segment], cache: KvCache) -> torch.Tensor:
        logits = forward(self, segments, cache)
        return how(logits) if next(count) == number else logits

    return broken


def test_numbers_that_are_none_end_one_answer_and_the_engine_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer(engine, ask(QUESTIONS[0]))
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", failing(3, lambda logits: logits * torch.nan))
        with pytest.raises(EngineError, match="dure model verify"):
            answer(engine, ask(QUESTIONS[0]))
    assert answer(engine, ask(QUESTIONS[0])) == whole


def test_a_step_that_fails_ends_its_answers_with_the_reason_and_the_engine_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(logits: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room")

    whole = answer(engine, ask(QUESTIONS[0]))
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", failing(2, fail))
        with pytest.raises(EngineError, match="no room"):
            answer(engine, ask(QUESTIONS[0]))
    assert answer(engine, ask(QUESTIONS[0])) == whole


def test_an_answer_whose_step_fails_ends_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, say: passes with the second slot fail, whoever else is in them."""
    forward = Decoder.forward
    guilty = engine.count_tokens([Message("user", QUESTIONS[1])]) + 4

    def broken(self: Decoder, segments: list[Segment], cache: KvCache) -> torch.Tensor:
        if any(segment.start == guilty for segment in segments):
            raise MemoryError("no room")
        return forward(self, segments, cache)

    wanted = answer(engine, ask(QUESTIONS[0], max_tokens=4))
    monkeypatch.setattr(scheduler, "_MOST_WITH_DRAFTS", 0)
    monkeypatch.setattr(Decoder, "forward", broken)
    found: list[str] = []
    other = threading.Thread(target=lambda: found.append(answer(engine, ask(QUESTIONS[0], max_tokens=4))))
    other.start()
    with pytest.raises(EngineError, match="no room"):
        answer(engine, ask(QUESTIONS[1]))
    other.join()
    assert found == [wanted]


def test_closing_ends_what_runs_and_what_waits(weights: Path) -> None:
    engine = ArkEngine(weights, "tiny", num_slots=1, context=CONTEXT)
    running = engine.generate(ask("hello", max_tokens=200))
    next(running)
    engine.close()
    assert list(running)[-1].finish_reason == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        answer(engine, ask("hello"))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_smaller_model_may_guess_and_changes_no_answer(
    engine: Engine, weights: Path, sampling: Sampling, computed: list[list[Segment]]
) -> None:
    """It guesses for itself here, so that guesses are often right."""
    wanted = [answer(engine, ask(question, sampling)) for question in QUESTIONS]
    guessing = ArkEngine(weights, "tiny", num_slots=3, context=CONTEXT, draft=weights)
    computed.clear()
    assert [answer(guessing, ask(question, sampling)) for question in QUESTIONS] == wanted
    guessing.close()
    assert any(segment.num_wanted > 1 for segments in computed for segment in segments)


def test_a_model_of_another_vocabulary_cannot_guess(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(weights.read_bytes().replace(b"<|begin|>", b"<|BEGIN|>"))
    with pytest.raises(ModelUnsupported, match="vocabularies differ"):
        ArkEngine(weights, "tiny", num_slots=1, context=CONTEXT, draft=other)
