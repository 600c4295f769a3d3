"""The pass `misspellings`: a list of our own, and a few families of endings that one pattern tells.

The list holds only what is wrong wherever it stands; what is right in another meaning (들어내다, 이예요 behind a vowel)
is left as it is.
"""

import re
from functools import cache
from pathlib import Path

from dure.errors import SettingsError
from dure_worker.korean import readings
from dure_worker.korean.sentence import Change, Draft

_SYLLABLES = [chr(code) for code in range(ord("가"), ord("힣") + 1)]
_RIEUL = "".join(syllable for syllable in _SYLLABLES if readings.final(syllable) == readings.RIEUL)
_PAST = "".join(syllable for syllable in _SYLLABLES if readings.final(syllable) in (18, 20))  # ㅄ, ㅆ
_FAMILIES = (
    # 할꺼야 → 할 거야; 불 꺼야지 is right
    (re.compile(rf"(?<=[{_RIEUL}])꺼(?=야|예요|에요|입니다|다|니까|라고|라는|면|지)"), " 거"),
    (re.compile(rf"(?<=[{_RIEUL}]) 꺼(?=예요|에요|입니다)"), " 거"),
    # 있읍니다 → 있습니다
    (re.compile(rf"(?<=[{_PAST}])[읍슴](?=니다|니까)"), "습"),
    # 할게요 of every verb: 먹을께요, 만들께요; 딸께요 might honour her
    (re.compile(rf"(?<=[{_RIEUL}])(?<!딸)께요(?![가-힣])"), "게요"),
)


@cache
def entries() -> dict[str, tuple[str, bool]]:
    """Wrong to right, and whether it must begin a word. Raises SettingsError where the list is damaged."""
    return read(Path(__file__).with_name("misspellings.tsv"))


def read(path: Path) -> dict[str, tuple[str, bool]]:
    """Of lines of wrong, right and `any` or `word`, with tabs between. Raises SettingsError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): install dure anew") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            continue
        parts = line.split("\t")
        if len(parts) != 3 or not parts[0] or parts[2] not in ("any", "word"):  # noqa: PLR2004
            raise SettingsError(
                f"{path}, line {number}: want wrong, right and any or word, with tabs between. Correct it, or install "
                "dure anew"
            )
        found[parts[0]] = parts[1], parts[2] == "word"
    return found


@cache
def _pattern() -> re.Pattern[str]:
    """All of them at once, the longest first."""
    ordered = sorted(entries().items(), key=lambda entry: -len(entry[0]))
    return re.compile("|".join(f"(?<![가-힣]){wrong}" if is_word else wrong for wrong, (_, is_word) in ordered))


def changes(draft: Draft) -> list[Change]:
    found = [Change(*match.span(), entries()[match.group()][0]) for match in _pattern().finditer(draft.text)]
    for pattern, right in _FAMILIES:
        found += [Change(*match.span(), right) for match in pattern.finditer(draft.text)]
    return found
