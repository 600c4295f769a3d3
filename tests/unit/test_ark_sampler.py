"""The sampler over random logits: what is picked depends on a row alone, and has the chances that it should have."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.job import Sampling

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

import numpy as np  # noqa: E402

from dure_worker.engines.ark import dry  # noqa: E402
from dure_worker.engines.ark.sampler import Row, Sampler, pick  # noqa: E402
from dure_worker.engines.ark.vocabulary import Vocabulary  # noqa: E402

PROPERTY = settings(deadline=None, max_examples=60, derandomize=True)
WORDS = ["가", "나다", "했", "습니다", "漢", "字", "かな", "a", "b c", " ", "\n", ":", "1", "🙂", "Ж"]
BYTES = [bytes([byte]) for byte in range(256)]
PIECES = [*BYTES, *(word.encode() for word in WORDS), b"", b""]
END = len(PIECES) - 1
VOCABULARY = Vocabulary(PIECES, {END})
NUM = len(PIECES)

tokens = st.integers(0, NUM - 1)
texts = st.lists(st.sampled_from([5, 256, 257, 258, 259, 266]), min_size=1, max_size=90)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([None, 0.0, 0.3, 1.0, 3.0]),
    top_p=st.sampled_from([None, 0.0, 0.5, 1.0]),
    top_k=st.sampled_from([None, 0, 1, 2, 20, 1000]),
    min_p=st.sampled_from([None, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([None, 1.0, 1.3, 0.8]),
    seed=st.integers(0, 1000),
    dry_multiplier=st.sampled_from([None, 0.8]),
    logit_bias=st.none() | st.dictionaries(tokens, st.sampled_from([-100.0, -3.0, 5.0, 100.0]), max_size=5),
    scripts=st.sampled_from([None, ["hangul"], ["hangul", "latin"]]),
)


def logits_of(seed: int, num_rows: int = 1) -> "torch.Tensor":
    """Every second time with many ties, as quantized weights have them."""
    found = torch.randn(num_rows, NUM, generator=torch.Generator().manual_seed(seed)) * 4
    return found.round() if seed % 2 else found


def row_of(sampling: Sampling, before: Sequence[int], vocabulary: Vocabulary = VOCABULARY) -> Row:
    return Sampler(sampling, vocabulary).rows(list(before), [])[0]


@PROPERTY
@given(st.lists(st.tuples(samplings, texts, st.lists(tokens, max_size=3)), min_size=1, max_size=6), st.integers(0, 99))
def test_a_row_is_picked_as_if_it_were_alone(asked: list[tuple[Sampling, list[int], list[int]]], seed: int) -> None:
    rows = [row for sampling, ids, drafted in asked for row in Sampler(sampling, VOCABULARY).rows(ids, drafted)]
    logits = logits_of(seed, len(rows))
    before = logits.clone()
    alone = [pick([row], logits[place : place + 1])[0] for place, row in enumerate(rows)]
    assert pick(rows, logits) == alone
    assert torch.equal(logits, before)


@PROPERTY
@given(samplings, texts, st.integers(0, 99), st.floats(0, 1))
def test_drafts_change_no_pick(sampling: Sampling, prompt: list[int], seed: int, share_right: float) -> None:
    """Each step's logits follow from the text, as a model's do."""

    def model(ids: Sequence[int]) -> "torch.Tensor":
        return logits_of(seed + sum(ids) + 31 * len(ids))

    wanted, sampler = list(prompt), Sampler(sampling, VOCABULARY)
    for _ in range(12):
        number = pick(sampler.rows(wanted, []), model(wanted))[0]
        assert number is not None
        sampler.use(1)
        wanted.append(number)
    found, sampler, dice = list(prompt), Sampler(sampling, VOCABULARY), random.Random(seed)
    while len(found) < len(wanted):
        coming = wanted[len(found) : len(found) + 3]
        drafted = [number if dice.random() < share_right else dice.randrange(NUM) for number in coming]
        logits = torch.cat([model([*found, *drafted[:count]]) for count in range(len(drafted) + 1)])
        picks = pick(sampler.rows(found, drafted), logits)
        num_right = next((n for n, (one, other) in enumerate(zip(picks, drafted, strict=False)) if one != other), None)
        num_right = len(drafted) if num_right is None else num_right
        found += [number for number in picks[: num_right + 1] if number is not None]
        sampler.use(num_right + 1)
    assert found[: len(wanted)] == wanted


def chances(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """By the definitions, one token after the other."""
    order = sorted(range(len(logits)), key=lambda number: -logits[number])[: sampling.top_k or None]
    weights = [math.exp(logits[number] - logits[order[0]]) for number in order]
    kept, total = [], 0.0
    for number, weight in zip(order, weights, strict=True):
        is_first = not kept
        if is_first or (total < (sampling.top_p or 1) * sum(weights) and weight >= (sampling.min_p or 0)):
            kept.append(number)
        total += weight
    heated = {number: math.exp((logits[number] - logits[order[0]]) / (sampling.temperature or 1)) for number in kept}
    return {number: weight / sum(heated.values()) for number, weight in heated.items()}


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 4},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.2},
        {"temperature": 0.7, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_tokens_come_as_often_as_their_chances_say(wishes: dict[str, float]) -> None:
    """Pearson's chi-square. 40 is beyond what chance gives once in 10,000 times at 10 degrees of freedom; seeds are
    fixed.
    """
    given_logits = [2.0, 1.5, 1.4, 0.9, 0.2, 0.0, -0.5, -1.0, -2.0, -3.0, -3.5]
    sampling = Sampling(**({"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0} | wishes))  # type: ignore[arg-type]
    vocabulary, num = Vocabulary([b"x"] * len(given_logits)), 8000
    rows = [row_of(replace(sampling, seed=seed), [0], vocabulary) for seed in range(num)]
    seen = Counter(pick(rows, torch.tensor([given_logits]).expand(num, -1)))
    wanted = chances(given_logits, sampling)
    assert set(seen) <= set(wanted)
    assert sum((seen[n] - num * chance) ** 2 / (num * chance) for n, chance in wanted.items()) < 40


COLD = {"top_k": 0, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "min_p": 0.0}


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 0.0},
        {"temperature": 1e-320},
        {"top_k": 1},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"logit_bias": {7: 100.0}},
    ],
    ids=str,
)
def test_at_their_edges_all_wishes_mean_the_best_token(wishes: dict[str, object]) -> None:
    logits = logits_of(2, 50)
    logits[:, 7] = 30
    rows = [row_of(Sampling(**(COLD | {"seed": seed} | wishes)), [0]) for seed in range(50)]  # type: ignore[arg-type]
    assert pick(rows, logits) == [7] * 50


def test_more_candidates_than_tokens_are_all_of_them() -> None:
    rows = [row_of(Sampling(**(COLD | {"seed": seed, "top_k": NUM + 9})), [0]) for seed in range(400)]  # type: ignore[arg-type]
    assert len(set(pick(rows, torch.zeros(400, NUM)))) > 150


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_nothing_is_left_nothing_is_picked_and_the_others_go_on(temperature: float) -> None:
    none = Sampling(temperature=temperature, seed=1, logit_bias=dict.fromkeys(range(NUM), -100.0))
    assert pick([row_of(none, [0]), row_of(Sampling(temperature=0), [0])], logits_of(2, 2))[0] is None
    one = replace(none, logit_bias={number: -100.0 for number in range(NUM) if number != 9})
    picks = pick([row_of(one, [0]), row_of(none, [0]), row_of(one, [0])], logits_of(2, 3))
    assert picks == [9, None, 9]


def test_a_penalty_counts_a_token_of_the_last_64_once() -> None:
    logits = torch.zeros(1, NUM)
    logits[0, 3], logits[0, 4], logits[0, 5] = 2.0, 1.5, 1.2
    greedy = Sampling(temperature=0, repetition_penalty=1.5)
    assert pick([row_of(greedy, [8])], logits) == [3]
    assert pick([row_of(greedy, [3, 3, 3])], logits) == [4]
    assert pick([row_of(greedy, [3, 4])], logits) == [3], "both are held back alike"
    assert pick([row_of(greedy, [3, *[8] * 64])], logits) == [3], "too long ago"


def published_runs(before: Sequence[int], breaker: Sequence[bool], shortest: int) -> dict[int, int]:
    """DRY as its author describes it, token by token."""
    found: dict[int, int] = {}
    if breaker[before[-1]]:
        return found
    for place in range(len(before) - 1):
        if before[place] != before[-1] or breaker[before[place + 1]]:
            continue
        length = 1
        while length <= place and before[place - length] == before[-1 - length] and not breaker[before[-1 - length]]:
            length += 1
        if length >= shortest:
            found[before[place + 1]] = max(length, found.get(before[place + 1], 0))
    return found


@settings(deadline=None, max_examples=400, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.sets(st.integers(0, 3), max_size=2), st.integers(1, 4))
def test_dry_finds_the_runs_of_its_definition(before: list[int], breakers: set[int], shortest: int) -> None:
    breaker = [number in breakers for number in range(4)]
    assert dry.runs(before, np.array(breaker), shortest) == published_runs(before, breaker, shortest)


GA, NADA, HAET, SEUMNIDA, NEWLINE, COLON = (
    256 + WORDS.index(word) for word in ("가", "나다", "했", "습니다", "\n", ":")
)


@pytest.mark.parametrize(
    ("before", "taken"),
    [
        ([GA, NADA, HAET, SEUMNIDA, GA, NADA, HAET], {SEUMNIDA: 0.8 * 1.75}),
        ([GA, HAET, SEUMNIDA, 5, NADA, HAET], {}),  # an ending alone
        ([GA, NADA, HAET, NEWLINE, GA, NADA, HAET], {}),  # a line may end as the one before
        ([GA, NADA, HAET, END, GA, NADA, HAET], {}),  # and so may an answer
        ([COLON, GA, NADA, COLON, GA], {}),  # runs do not reach over a mark of structure
        ([GA] * 200, {GA: 1e6}),  # bounded however long it goes on
    ],
    ids=["repeats", "ending", "line", "answer", "label", "endless"],
)
def test_dry_holds_back_what_goes_on_with_a_repeated_run(before: list[int], taken: dict[int, float]) -> None:
    assert Sampler(Sampling(dry_multiplier=0.8), VOCABULARY).repeated(before) == pytest.approx(taken)


def test_dry_ends_a_loop_that_greedy_does_not() -> None:
    """The model always wants to go on as before: 가 나다 했 가 나다 했 …"""
    loop = [GA, NADA, HAET]

    def said(sampling: Sampling) -> list[int]:
        ids, sampler = loop * 2, Sampler(sampling, VOCABULARY)
        for _ in range(12):
            logits = torch.zeros(1, NUM)
            logits[0, loop[len(ids) % 3]], logits[0, 5] = 10, 1
            ids += [number for number in pick(sampler.rows(ids, []), logits) if number is not None]
            sampler.use(1)
        return ids[6:]

    still = Sampling(temperature=0, repetition_penalty=1)
    assert said(still) == loop * 4
    assert said(replace(still, dry_multiplier=0.8)) != loop * 4


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    flat = torch.zeros(1, NUM)
    wishes = Sampling(**(COLD | {"seed": 5}))  # type: ignore[arg-type]

    def picks(sampling: Sampling) -> list[int | None]:
        sampler, found = Sampler(sampling, VOCABULARY), []
        for _ in range(20):
            found += pick(sampler.rows([0], []), flat)
            sampler.use(1)
        return found

    assert picks(wishes) == picks(wishes)
    assert picks(replace(wishes, seed=None)) != picks(replace(wishes, seed=None))
