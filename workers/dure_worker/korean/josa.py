"""The pass `josa`: particles that do not agree with the sound before them.

A candidate is what a final consonant tells; behind a Korean word it counts only if the corrected word parses as noun
and particle and the sentence becomes likelier. Behind digits and Latin letters the readings decide.
"""

import re
from collections.abc import Iterator

from dure_worker.korean import parser, readings
from dure_worker.korean.parser import Morpheme, Parse
from dure_worker.korean.sentence import Change, Draft

# With a final consonant, without.
_PAIRS = (
    ("은", "는"), ("이", "가"), ("을", "를"), ("과", "와"), ("으로", "로"), ("이나", "나"), ("이랑", "랑"),
    ("이라", "라"), ("아", "야"),
)  # fmt: skip
OTHER = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_CLOSED = {closed for closed, _ in _PAIRS}
_ROAD = {"으로", "로"}
_WORD = r"[가-힣A-Za-z0-9%]+?[\"'”’)\]」』》〉`*]*"
_PARTICLE = "|".join(sorted(OTHER, key=len, reverse=True))
# Particles that may follow one of these.
_TAIL = r"는|도|만|서|써|부터|서는|서도|의|까지|고|면|며|는데|서부터"
_CANDIDATE = re.compile(
    rf"(?<![가-힣A-Za-z0-9])(?P<word>{_WORD})(?P<josa>{_PARTICLE})(?P<tail>{_TAIL})?(?![가-힣A-Za-z0-9])"
)
# These stand behind no vowel, and where the parser sees the particle in them it is one: its score does not tell.
_NEVER_OPEN = {"으로", "이랑"}
_NOUNS = ("NN", "NP", "NR", "SL", "SN", "SH", "XSN", "ETN", "SW", "W_")
_PARTICLES = ("J", "VCP")
# Of what people write as they please these are mostly something else: a verb behind its noun (짜증나), names of
# families and offices (나비고기과의), verbs and adjectives (나은, 저은, 삶는, 잠가), an interjection (후아).
_NEVER_LEFT = {"나"}
_NAMES_IN_GWA = "과"
_NO_NOUNS = {("나", "은"), ("저", "은"), ("삶", "는"), ("잠", "가"), ("후", "아")}
# Vue 3, iOS 17: some read the number in English.
_VERSION = re.compile(r"[A-Za-z][ -][0-9.]+\Z")
# How much likelier the sentence must become: natural logarithm, as Kiwi's score.
_GAIN = 1.0
_BY_READING = 0.9


def changes(draft: Draft) -> list[Change]:
    found: list[Change] = []
    for match in candidates(draft.text):
        word, josa = match["word"], match["josa"]
        if josa == agreeing(josa, readings.final(word)):
            continue
        # 이 with more behind it is no particle (이며); behind a bracket one may read its content or what is before it.
        marks = word[len(readings.bare(word)) :]
        if (match["tail"] and josa in ("이", "가", _NAMES_IN_GWA)) or ")" in marks or "]" in marks:
            continue
        if josa in _NEVER_LEFT or (word, josa) in _NO_NOUNS or _VERSION.search(draft.text, 0, match.end("word")):
            continue
        start, end = match.span("josa")
        change = Change(start, end, OTHER[josa], _BY_READING)
        if not "가" <= readings.bare(word)[-1:] <= "힣":
            found.append(change)
            continue
        if gain := _gain(draft.text, draft.parsed, change):
            found.append(Change(start, end, change.after, min(1.0, 0.5 + gain / 20)))
    return found


def candidates(text: str) -> Iterator[re.Match[str]]:
    """What may be a word and its particle: groups word, josa and tail."""
    return _CANDIDATE.finditer(text)


def agreeing(josa: str, final: int | None) -> str:
    """The one of the pair that the sound wants. Where that is not known, the one that is there."""
    if final is None:
        return josa
    wants_closed = bool(final) and not (final == readings.RIEUL and josa in _ROAD)
    return josa if (josa in _CLOSED) == wants_closed else OTHER[josa]


def _gain(text: str, before: Parse, change: Change) -> float:
    """By how much the sentence becomes likelier, where the change makes noun and particle of the word; else 0."""
    here = text[change.start : change.end]
    seen = before.starting_at(change.start)
    if here in _NEVER_OPEN and seen is not None and seen.form == here and seen.tag.startswith("J"):
        return 2 * _GAIN
    start = max(text.rfind(blank, 0, change.start) for blank in " \t\n") + 1
    if change.start - start == 1:
        alone = parser.parse(text[start : change.end]).morphemes
        if len(alone) == 1 and alone[0].tag == "NNG":
            return 0.0  # 사과
    inside = next((each for each in before.morphemes if each.start < change.start < each.end), None)
    is_word = inside is not None and not inside.tag.startswith(("NNP", "UN"))
    if is_word and here != "으로":  # no word ends so
        return 0.0  # one such as 국가
    after = parser.parse(text[: change.start] + change.after + text[change.end :])
    noun, particle = after.ending_at(change.start), after.starting_at(change.start)
    if noun is None or particle is None or not _is_noun_with(noun, particle, change.after):
        return 0.0
    gain = after.score - before.score
    return gain if gain > _GAIN else 0.0


def _is_noun_with(noun: Morpheme, particle: Morpheme, new: str) -> bool:
    if noun.tag == "NNP" and new == "가":
        return False  # a name that ends in 이 (유레이)
    is_noun = noun.tag.startswith(_NOUNS) or (noun.tag == "JKB" and new in ("은", "는"))  # 에서는
    return is_noun and particle.tag.startswith(_PARTICLES)
