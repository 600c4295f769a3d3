"""Which tokens stay: what a language cannot be written without, then the most frequent of the rest."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from dure.errors import SettingsError
from dure.gguf import BYTE, UNUSED
from dure_workshop.trim.vocabulary import Vocabulary

PAD_TO = 64  # rows; kernels work in blocks of so many

_HANGUL = re.compile(r"[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\ud7b0-\ud7ff]")
# By ranges and not by character names: the same choice on every Python, whose Unicode tables differ.
_HAN_KANA = re.compile(
    r"[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
# A word of prose: in small letters or with a capital first. Inner capitals and signs are code's.
_WORD = re.compile(rb" ?[A-Z]?[a-z]+")
# How many ranks later such tokens come: models that were trained on code rank its words above everyday ones.
_CODE_WEIGHT = 2
_LATIN = re.compile(r"[A-Za-z]")
# UTF-8 of Hangul syllables, U+AC00 to U+D7A3: lead bytes EA (from EA B0) to ED. A piece may begin or end inside one.
_HANGUL_LEAD = re.compile(rb"[\xea-\xed]")
_HANGUL_PIECE = re.compile(rb"[ \n]?[\x80-\xbf]{0,2}(?:[\xea-\xed][\x80-\xbf]{2})*(?:[\xea-\xed][\x80-\xbf]?)?")
# Marks that Korean text uses beside ASCII: quotation, dots, dashes, arrows, units, currency, enclosed numbers.
_MARKS = re.compile(
    r"[\u00a0-\u00bf\u00d7\u00f7\u2010-\u2027\u2030-\u205e\u20a9\u20ac\u2100-\u214f\u2190-\u21ff\u2200-\u22ff\u2460-\u24ff"
    r"\u2500-\u257f\u25a0-\u27bf\u3000-\u3020\u3200-\u33ff\uff01-\uff5e\uffe6]"
)


_SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4)]
_MARK_LETTERS = [
    chr(code) for code in range(0xA0, 0xFFFF) if _MARKS.match(chr(code)) and not _HAN_KANA.match(chr(code))
]
_SHORT_MARK = 2  # characters
# Bytes where tokens are merged from bytes; where they are merged from characters, tokens of their own.
_ASCII = [chr(code) for code in range(0x20, 0x7F)]


class Script(StrEnum):
    """What a token is written in."""

    SPECIAL = "special"  # control and user-defined tokens: chat roles and their like
    BYTE = "byte"  # the 256 from which everything else can be spelt
    KOREAN = "korean"  # with Hangul, or a piece of the bytes of a Hangul syllable
    ENGLISH = "english"  # with Latin letters and otherwise ASCII
    MARK = "mark"  # spaces, digits, punctuation, symbols
    HAN_KANA = "han/kana"
    OTHER = "other"  # further scripts, emoji, pieces of characters
    UNUSED = "unused"  # rows without a token


def script_of(meaning: bytes | None, kind: int) -> Script:
    """By the bytes of text that a token stands for and its kind in the vocabulary."""
    if kind == UNUSED:
        return Script.UNUSED
    if kind == BYTE:
        return Script.BYTE
    if meaning is None:
        return Script.SPECIAL
    try:
        text = meaning.decode("utf-8")
    except UnicodeDecodeError:
        return Script.KOREAN if _is_piece_of_hangul(meaning) else Script.OTHER
    return _script_of_text(text)


def _is_piece_of_hangul(raw: bytes) -> bool:
    return bool(_HANGUL_LEAD.search(raw) and _HANGUL_PIECE.fullmatch(raw))


def _script_of_text(text: str) -> Script:
    if _HANGUL.search(text):
        return Script.KOREAN
    if _HAN_KANA.search(text):
        return Script.HAN_KANA
    if all(character.isascii() or _MARKS.match(character) for character in text):
        return Script.ENGLISH if _LATIN.search(text) else Script.MARK
    return Script.OTHER


@dataclass(frozen=True)
class Choice:
    """Ids that stay, in their old order, and by script how many there were and are."""

    kept: list[int]
    before: Counter[Script]
    after: Counter[Script]


def choose(
    vocabulary: Vocabulary,
    languages: set[str],
    size: int,
    counts: Counter[int] | None = None,
    needed: Collection[int] = (),
) -> Choice:
    """Choose about `size` tokens (padded up to PAD_TO by tokens, never by empty rows).

    languages   "korean" keeps all Hangul; "english" fills the rest with Latin tokens
    counts      how often each token occurs in text that matters to you: these go before rank. None: by rank, which is
                the order in which training found the pairs most frequent
    needed      ids that stay whatever their script: those of the chat template
    Raises SettingsError when the languages alone need more than `size`.
    """
    scripts = [script_of(vocabulary.meaning(number), kind) for number, kind in enumerate(vocabulary.kinds)]
    kept = vocabulary.closed(_must(vocabulary, scripts, languages).union(needed))
    num_used = sum(script is not Script.UNUSED for script in scripts)
    limit = num_used if size >= num_used else size // PAD_TO * PAD_TO
    if len(kept) > limit:
        raise SettingsError(
            f"{', '.join(sorted(languages))} alone need {len(kept)} tokens: choose --size {_padded(len(kept))}"
        )
    for number in _by_use(vocabulary, scripts, languages, counts or Counter()):
        new = vocabulary.closed({number}) - kept
        if len(kept) + len(new) <= limit:
            kept |= new
        if len(kept) == limit:
            break
    return Choice(sorted(kept), Counter(scripts), Counter(scripts[number] for number in kept))


def _must(vocabulary: Vocabulary, scripts: list[Script], languages: set[str]) -> set[int]:
    """What cannot be left out, before its parts are added."""
    must = {number for number, script in enumerate(scripts) if script in {Script.SPECIAL, Script.BYTE}}
    must.update(number for letter in _ASCII for number in vocabulary.spell(letter))
    if "korean" in languages:
        must |= {number for number, script in enumerate(scripts) if script is Script.KOREAN}
        must |= {number for number, script in enumerate(scripts) if _is_short_mark(vocabulary.meaning(number), script)}
        for letter in (*_SYLLABLES, *_MARK_LETTERS):
            must.update(*map(vocabulary.spell, (letter, f" {letter}")))
    return must


def _is_short_mark(meaning: bytes | None, script: Script) -> bool:
    """Quotes with full stops, brackets with commas: Korean text joins them as freely as any other."""
    return script is Script.MARK and meaning is not None and len(meaning.decode().strip()) <= _SHORT_MARK


def _by_use(vocabulary: Vocabulary, scripts: list[Script], languages: set[str], counts: Counter[int]) -> Iterator[int]:
    """First what the text uses, most frequent first, then marks and wanted Latin tokens by rank."""
    wanted = {Script.MARK} | ({Script.ENGLISH} if "english" in languages else set())
    banned = {Script.UNUSED, Script.HAN_KANA}
    by_count = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    yield from (number for number, _ in by_count if scripts[number] not in banned)
    latin = [number for number, script in enumerate(scripts) if script in wanted]
    yield from sorted(
        latin, key=lambda number: number if _is_word(vocabulary.meaning(number)) else number * _CODE_WEIGHT
    )


def _is_word(meaning: bytes | None) -> bool:
    return meaning is not None and _WORD.fullmatch(meaning) is not None


def _padded(size: int) -> int:
    return (size + PAD_TO - 1) // PAD_TO * PAD_TO
