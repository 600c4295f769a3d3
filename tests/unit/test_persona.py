import re
from itertools import product

import pytest

from dure.persona import Personality, Style
from dure_worker.conversation.persona import system_text

ALL = list(product(Style, Personality))


@pytest.mark.parametrize(("style", "personality"), ALL)
def test_each_style_and_personality_has_a_korean_text(style: Style, personality: Personality) -> None:
    text = system_text(style.value, personality.value)
    num_hangul = len(re.findall(r"[가-힣]", text))
    assert num_hangul > len(text) / 2
    assert not re.search(r"[A-Za-z{}]", text)


def test_no_two_personas_say_the_same() -> None:
    assert len({system_text(*names) for names in ALL}) == len(ALL)


@pytest.mark.parametrize("empty", [None, ""])
def test_who_names_nothing_gets_polite_and_helpful(empty: str | None) -> None:
    assert system_text(empty, empty) == system_text("polite", "helpful")


@pytest.mark.parametrize(
    ("style", "personality"),
    [("반말", None), ("POLITE", None), ("polite ", None), (None, "친절"), ("polite", "Warm"), ("warm", "polite")],
)
def test_an_unknown_name_is_refused(style: str | None, personality: str | None) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        system_text(style, personality)
