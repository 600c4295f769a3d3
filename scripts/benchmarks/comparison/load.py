"""Who asks what: conversations of clients that ask again as soon as they are answered.

Lengths are drawn, not taken from anybody's logs: a question lognormal around 40 characters (short ones as in everyday
chat, whose median is 12 in songys' ChatbotData; the longest with a pasted paragraph, whose median is 180 characters in
KoBEST's BoolQ), an answer lognormal around 96 tokens. Few want a page on a small box, so both are cut off.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.comparison.korean import QUESTIONS, passage

QUESTION_CHARACTERS, QUESTION_SIGMA = 40, 1.0
SHORTEST_QUESTION, LONGEST_QUESTION = 12, 600
ANSWER_TOKENS, ANSWER_SIGMA = 96, 0.6
SHORTEST_ANSWER, LONGEST_ANSWER = 16, 256
MOST_TURNS = 3
_HALF_A_SENTENCE = 20

DESCRIPTION = (
    f"questions of {QUESTION_CHARACTERS} characters (lognormal median, σ {QUESTION_SIGMA:g}, at most "
    f"{LONGEST_QUESTION}), answers of {ANSWER_TOKENS} tokens (σ {ANSWER_SIGMA:g}, at most {LONGEST_ANSWER}), "
    f"1 to {MOST_TURNS} turns a conversation"
)


@dataclass(frozen=True)
class Turn:
    """num_tokens: of the answer, at most."""

    text: str
    num_tokens: int


def conversations(seed: int, client: int) -> Iterator[list[Turn]]:
    """Without end; the same for the same seed and client, on every machine."""
    dice = random.Random(f"{seed} {client}")
    while True:
        yield [_turn(dice) for _ in range(dice.randint(1, MOST_TURNS))]


def _turn(dice: random.Random) -> Turn:
    num_characters = _drawn(dice, QUESTION_CHARACTERS, QUESTION_SIGMA, SHORTEST_QUESTION, LONGEST_QUESTION)
    return Turn(
        _question(dice, num_characters),
        _drawn(dice, ANSWER_TOKENS, ANSWER_SIGMA, SHORTEST_ANSWER, LONGEST_ANSWER),
    )


def _question(dice: random.Random, num_characters: int) -> str:
    """As near to that length as whole sentences come; what is pasted stands before the question."""
    question = dice.choice(QUESTIONS)
    room = num_characters - len(question)
    return f"{passage(dice, room)}\n\n{question}" if room > _HALF_A_SENTENCE else question


def _drawn(dice: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    return round(min(high, max(low, dice.lognormvariate(math.log(median), sigma))))
