"""The pass `register`: sentences that fall out of the register of the answer, by their last word.

Only what is told without doubt is changed, and only where the parser puts the word together as it stood: a word that it
would write otherwise is one that it has misread.
"""

import re
from itertools import pairwise

from dure_worker.korean import endings, masks, parser, readings
from dure_worker.korean.endings import Mood, Register
from dure_worker.korean.parser import Morpheme
from dure_worker.korean.sentence import Change, Draft

_CONFIDENCE = 0.9
# What may stand behind the ending: marks, emoji, symbols. A closing quote or bracket tells of another speaker.
_BEHIND = ("SF", "SP", "SE", "SW", "W_", "SO")
_FIRST_PERSON = {"나": "저", "내": "제"}
_FIRST_PERSON_PLAIN = {"저": "나", "제": "내", "저희": "우리"}
# Whose first words are written otherwise once the end is known.
_FIRST_PERSON_WORD = re.compile(r"(?<![가-힣])(?:나|내|저|제|저희)(?:[가는도를의]|에게|한테|\s|\Z)")
_GREETING = re.compile(r"안녕하(?:세요|십니까)(?=[!.?~,\s]|\Z)")
# No polite word for one's listener; a question to somebody needs none.
_YOU = re.compile(r"당신(?:은|이)\s+(?=.*\?\s*\Z)")
_SPEAKER = {"나", "저", "내", "제", "저희", "우리"}
_LISTENER = {"너", "네", "너희", "당신", "자네"}
_TOPICS = {"은", "는", "도", "ᆫ"}
# Questions whose ending the parser takes for one inside a sentence (먹었니?). 위해 and others are no end of one.
_TAKEN_FOR_INNER = {"니", "으니", "냐"}
# Greetings that belong to every register above plain.
_FIXED = ("안녕하세요", "어서 오세요", "여보세요")


class RegisterPass:
    """wanted: of the answer. What was said before decides whether 한다체 is a stray: a text of its own is written in it
    from the beginning.
    """

    def __init__(self, wanted: Register) -> None:
        self._wanted = wanted
        self._has_spoken = False

    def __call__(self, draft: Draft) -> list[Change]:
        morphemes = draft.parsed.morphemes
        place = last_ending(morphemes)
        changes = self._ending(draft.text, morphemes, place) if place is not None else []
        if self._wanted is Register.PLAIN:
            changes += _opening(_GREETING, draft.text, "안녕")
        else:
            changes += _honoured(draft.text, morphemes)
            changes += _opening(_YOU, draft.text, "")
        return changes

    def waits_for_end(self, beginning: str) -> bool:
        """Whether something in this beginning of a sentence may be written otherwise once its end is known."""
        return bool(_FIRST_PERSON_WORD.search(beginning)) or beginning.startswith("당신")

    def _ending(self, text: str, morphemes: tuple[Morpheme, ...], place: int) -> list[Change]:
        found = endings.register_of(morphemes[place], self._wanted)
        if found is None or found is self._wanted:
            self._has_spoken |= found is self._wanted
            return []
        if found is Register.WRITTEN and (self._wanted is Register.PLAIN or not self._has_spoken):
            return []
        self._has_spoken = True
        change = _changed(text, morphemes, place, self._wanted)
        if change is None:
            return []
        if self._wanted is Register.PLAIN:
            return [change, *_persons(text, morphemes, _FIRST_PERSON_PLAIN, ("NP",))]
        return [change, *(() if found is Register.POLITE else _persons(text, morphemes, _FIRST_PERSON, ("NP", "MM")))]


def last_ending(morphemes: tuple[Morpheme, ...]) -> int | None:
    """Which morpheme is the sentence's final ending. None: it is a fragment, or ends with somebody's words."""
    for place in range(len(morphemes) - 1, 0, -1):
        each = morphemes[place]
        if each.tag == "EF" or (each.tag == "EC" and each.form in _TAKEN_FOR_INNER):
            return place
        if not each.tag.startswith(_BEHIND):
            return None
    return None


def _changed(text: str, morphemes: tuple[Morpheme, ...], place: int, wanted: Register) -> Change | None:
    stem, ending = morphemes[place - 1], morphemes[place]
    seen = masks.hidden(text)
    start = max(seen.rfind(blank, 0, ending.end) for blank in " \n\t") + 1
    if stem.start < start or text[: ending.end].endswith(_FIXED) or _is_misread(seen[start : ending.end], stem, ending):
        return None
    before = morphemes[:place]
    sentence = Mood(
        is_question="?" in text[ending.end :],
        has_subject=_has_subject(before),
        has_nominative=_has_nominative(before),
        is_honoured=any(
            each.form == "께서" or (each.tag.startswith(("N", "X")) and each.form[-1:] == "님") for each in before
        ),
        # 드리 is humble: who else would be so.
        is_first_person=any((each.tag == "NP" and each.form in _SPEAKER) or each.form == "드리" for each in before),
    )
    new = endings.converted(stem, ending, wanted, sentence)
    if new is None:
        return None
    # From the beginning of the word, or, where the parser would write that otherwise (도와 줄게), from a later part.
    for first in range(place):
        start_of_part = morphemes[first].start
        if start_of_part < start:
            continue
        part = [(each.form, each.tag) for each in morphemes[first : place + 1]]
        if parser.join(part) == seen[start_of_part : ending.end]:
            return _spliced(text, seen, start_of_part, ending.end, parser.join([*part[:-2], *new]), stem)
    return None


def _spliced(text: str, seen: str, start: int, end: int, spoken: str, stem: Morpheme) -> Change | None:
    """Only what differs. The copula's two forms are told apart by the noun's end."""
    if spoken.endswith(("에요", "야")) and stem.tag == "VCP":
        final = readings.final(text[: stem.start])
        if final is None or stem.start < start:
            return None
        with_final, without = ("이에요", "예요") if spoken.endswith("에요") else ("이야", "야")
        spoken = seen[start : stem.start] + (with_final if final else without)
    stood = seen[start:end]
    pairs = enumerate(zip(stood, spoken, strict=False))
    same = next((number for number, (one, other) in pairs if one != other), min(len(stood), len(spoken)))
    return Change(start + same, end, spoken[same:], _CONFIDENCE)


def _is_misread(word: str, stem: Morpheme, ending: Morpheme) -> bool:
    """세요 behind a verb is no 세다, however strange the verb is."""
    return word.endswith("세요") and len(word) > len("세요") and not endings.is_honorific(ending) and stem.form == "세"


def _has_nominative(morphemes: tuple[Morpheme, ...]) -> bool:
    """In the last clause."""
    for each in reversed(morphemes):
        if each.tag == "EC":
            return False
        if each.tag == "JKS":
            return True
    return False


def _has_subject(morphemes: tuple[Morpheme, ...]) -> bool:
    """In the last clause, or a topic that is not the listener."""
    return _has_nominative(morphemes) or any(
        each.tag == "JX" and each.form in _TOPICS and before.form not in _LISTENER
        for before, each in pairwise(morphemes)
    )


def _persons(text: str, morphemes: tuple[Morpheme, ...], words: dict[str, str], tags: tuple[str, ...]) -> list[Change]:
    """나는 → 저는, 내가 → 제가, where the sentence was none of the polite ones; and back."""
    spans = [(each.start, each.end) for each in morphemes if each.tag in tags]
    return [Change(start, end, words[text[start:end]], _CONFIDENCE) for start, end in spans if text[start:end] in words]


def _opening(pattern: re.Pattern[str], text: str, new: str) -> list[Change]:
    """In place of what the sentence begins with, if it is that."""
    match = pattern.match(text)
    return [Change(*match.span(), new, _CONFIDENCE)] if match else []


def _honoured(text: str, morphemes: tuple[Morpheme, ...]) -> list[Change]:
    """먹으세요 → 드세요: the verbs that have an honorific word of their own."""
    seen = masks.hidden(text)
    found = []
    for place, (stem, ending) in enumerate(pairwise(morphemes)):
        new = endings.honorific_stem(stem.form, stem.tag)
        if new == (stem.form, stem.tag) or not endings.is_honorific(ending):
            continue
        last = next(
            (at - 1 for at in range(place + 1, len(morphemes)) if not morphemes[at].tag.startswith("E")),
            len(morphemes) - 1,
        )
        part = [(each.form, each.tag) for each in morphemes[place : last + 1]]
        start, end = stem.start, morphemes[last].end
        if parser.join(part) == seen[start:end]:
            found.append(Change(start, end, parser.join([new, *part[1:]]), _CONFIDENCE))
    return found
