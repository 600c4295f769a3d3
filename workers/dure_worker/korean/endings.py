"""Final endings by the register they speak in, and what stands for each in another one.

Forms as Kiwi has them: a final consonant that joins the stem is a conjoining letter (ᆸ니다).
Registers: 합쇼체 (formal), 해요체 (polite), 해체 and 해라체 (plain), and 한다체, the plain style of prose (written).
"""

from dataclasses import dataclass
from enum import StrEnum

from dure_worker.korean.parser import Morpheme


class Register(StrEnum):
    FORMAL = "formal"
    POLITE = "polite"
    PLAIN = "plain"
    WRITTEN = "written"


_B, _N, _L = "\u11b8", "\u11ab", "\u11af"  # ᆸ ᆫ ᆯ
_STATED = frozenset({f"{_B}니다", "습니다", "읍니다"})
_ASKED = frozenset({f"{_B}니까", "습니까"})
_FORMAL = _STATED | _ASKED | {f"{_B}시오", f"{_B}시다", "읍시다", "십시오", "으십시오", "사옵니다"}
_WRITTEN = frozenset({"다", f"{_N}다", "는다", "은다"})
# What each says; an ending with 요 behind it says the same.
_KINDS = {
    "said": ("에", "예", "이에", "여", "야", "네", "군", "구나", "는군", "는구나", *_WRITTEN),
    "said or told": ("어", "아"),  # 와. may call somebody
    "said or proposed": ("지", "죠"),
    "asked": ("니", "냐", "으니", "느냐", "나", f"{_N}가", "은가", "는가"),
    "promised": (f"{_L}게", "을게"),
    "bidden": ("세", "으세", "셔"),
    # Of these only the register is known.
    "other": (
        f"{_L}까", "을까", "자", "어라", "아라", "거든", f"{_N}데", "는데", "은데", f"{_N}대", "는대", "대", "래",
        "을래", f"{_L}래", "잖아", "더라",
    ),
}  # fmt: skip
_KIND_OF = {form: kind for kind, forms in _KINDS.items() for form in forms}
_PLAIN = frozenset(_KIND_OF) - _WRITTEN - {"에", "예", "이에", "여", "죠", "세", "으세", "셔"}
# In every register above plain: proposals and doubts have no better form.
_ANY_POLITE = frozenset({f"{_L}까요", "을까요"})
_PROPOSED = frozenset({f"{_B}시다", "읍시다", "자"})
_COPULAS = ("VCP", "VCN")
_ADJECTIVES = ("VA", "XSA", *_COPULAS)
_PAST = frozenset({"었", "았", "였", "겠"})
_HONORIFIC = ("시", "으시")
_HONORIFIC_BEGINNINGS = ("시", "으시", "세요", "으세요", "십시오", "으십시오", "셔", "으셔")
# Verbs that have another word for it (한글 맞춤법과 표준 화법: 드시다, 주무시다, 돌아가시다).
_HONORIFIC_STEMS = {"먹": "들", "자": "주무", "죽": "돌아가"}


def register_of(ending: Morpheme, wanted: Register | None = None) -> Register | None:
    """None: it says nothing, or fits more than one, the wanted one among them."""
    form = ending.form
    found = None
    if form in _FORMAL:
        found = Register.FORMAL
    elif form.endswith(("요", "죠")):
        found = None if form in _ANY_POLITE and wanted is not Register.PLAIN else Register.POLITE
    elif form in _WRITTEN:
        found = Register.WRITTEN
    elif form in _PLAIN:
        found = Register.PLAIN
    return found


@dataclass(frozen=True)
class Mood:
    """What the rest of the sentence tells.

    has_subject       in the clause of the ending, or a topic
    has_nominative    in the clause of the ending
    is_honoured       somebody is spoken of with 께서 or 님: 시 is theirs
    """

    is_question: bool
    has_subject: bool
    has_nominative: bool
    is_honoured: bool
    is_first_person: bool


def converted(before: Morpheme, ending: Morpheme, wanted: Register, mood: Mood) -> list[tuple[str, str]] | None:
    """Morphemes in place of `before` and the ending: form and tag. None: nothing says the same without doubt.

    before    the stem, or what stands between it and the ending
    wanted    FORMAL, POLITE or PLAIN
    """
    if wanted is Register.PLAIN:
        return _plain(before, ending.form, mood)
    found = _formal(before, ending.form, mood) if wanted is Register.FORMAL else _polite(before, ending.form, mood)
    if found and len(found) > 1 and found[1][0].startswith(_HONORIFIC_BEGINNINGS):
        found[0] = honorific_stem(*found[0])
    return found


def honorific_stem(form: str, tag: str) -> tuple[str, str]:
    """먹 becomes 들, as in 드세요, where what follows honours who does it."""
    return (_HONORIFIC_STEMS.get(form, form) if tag == "VV" else form, tag)


def is_honorific(morpheme: Morpheme) -> bool:
    """시 and the endings that have grown together with it."""
    return morpheme.form.startswith(_HONORIFIC_BEGINNINGS) and morpheme.tag in ("EP", "EF", "EC")


def _formal(before: Morpheme, form: str, mood: Mood) -> list[tuple[str, str]] | None:
    kept, end = (before.form, before.tag), ("습니까" if mood.is_question else "습니다", "EF")
    is_polite, kind = form.endswith("요"), _KIND_OF.get(form.removesuffix("요"))
    # Of a verb that says neither when nor who, nobody knows whether it tells or bids.
    is_state = before.tag.startswith(_ADJECTIVES) or before.form in _PAST
    is_told = mood.is_question or mood.has_subject or is_state
    found = None
    if kind == "promised":
        found = [kept, ("겠", "EP"), ("습니다", "EF")]
    elif kind == "bidden" or (kind == "said or told" and before.form in ("말", *_HONORIFIC)):
        stem = [kept] if before.form in _HONORIFIC else [kept, ("으시" if form.startswith("으") else "시", "EP")]
        if mood.is_question:
            found = [*stem, (f"{_B}니까", "EF")]
        elif mood.is_honoured:
            found = [*stem, (f"{_B}니다", "EF")]
        elif not is_state and not mood.has_nominative:
            found = [*stem, (f"{_B}시오", "EF")]
    elif kind == "said" or (kind == "said or told" and is_polite):
        found = [kept, end]
    elif kind in ("said or told", "said or proposed"):
        found = [kept, end] if is_told else None
    elif kind == "asked" and mood.is_question:
        found = [kept, end]
    return found


def _polite(before: Morpheme, form: str, mood: Mood) -> list[tuple[str, str]] | None:
    kept = (before.form, before.tag)
    said = [kept, ("에요" if before.tag.startswith(_COPULAS) else "어요", "EF")]
    found: list[tuple[str, str]] | None = None
    if before.form == "겠" and form in _STATED and mood.is_first_person:
        found = [(f"{_L}게요", "EF")]
    elif before.form in _HONORIFIC and (form in _FORMAL or form in _WRITTEN):
        found = [(before.form[:-1] + "세요", "EF")]
    elif form in ("십시오", "으십시오"):
        found = [kept, (form.removesuffix("십시오") + "세요", "EF")]
    elif form in _STATED | _ASKED | _WRITTEN | _PROPOSED or form in ("어", "아", "야"):
        found = said
    elif form in ("니", "냐", "으니", "느냐"):
        found = said if mood.is_question else None
    elif form in ("군", "구나", "는군", "는구나"):
        found = [kept, ("는군요" if form.startswith("는") else "군요", "EF")]
    elif form in _PLAIN and form not in ("어라", "아라", "더라"):
        found = [kept, (f"{form}요", "EF")]
    return found


def _plain(before: Morpheme, form: str, mood: Mood) -> list[tuple[str, str]] | None:
    """해체. Of whom 시 speaks, the listener or somebody else, only a subject tells."""
    kept = (before.form, before.tag)
    said = [kept, ("야" if before.tag.startswith(_COPULAS) else "어", "EF")]
    base = form.removesuffix("요")
    found: list[tuple[str, str]] | None = None
    if before.form == "겠" and form in _STATED and mood.is_first_person:
        found = [(f"{_L}게", "EF")]
    elif before.form in _HONORIFIC and (form in _FORMAL or base in ("어", "아")):
        is_bidden = form in (f"{_B}시오", "십시오")
        found = [("어", "EF")] if is_bidden else [kept, ("어", "EF")] if mood.is_honoured else None
    elif base in ("세", "으세"):
        honoured = [kept, ("으시" if base.startswith("으") else "시", "EP"), ("어", "EF")]
        found = honoured if mood.is_honoured else None if mood.has_nominative and not mood.is_question else said
    elif form in ("십시오", "으십시오", *_STATED, *_ASKED) or base in ("에", "예", "이에", "여", "야", "어", "아"):
        found = said
    elif form in (f"{_B}시다", "읍시다"):
        found = [kept, ("자", "EF")]
    elif base == "죠":
        found = [kept, ("지", "EF")]
    elif form.endswith("요") and base in _KIND_OF:
        found = [kept, (base, "EF")]
    return found
