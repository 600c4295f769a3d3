"""The pass `punctuation`: doubled marks, blanks before marks, and the full stop that an ended sentence lacks."""

import re

from dure_worker.korean import completeness
from dure_worker.korean.sentence import Change, Draft

_BLANK = re.compile(r"(?<=[가-힣A-Za-z0-9\"'”’)\]])[ \t]+(?=[.,!?](?:\s|$))")
# Two dots, and several commas, are a way to hesitate in chat.
_DOUBLED = re.compile(r"(?<=[가-힣])\.(?=[,!?])|。")
_RIGHT = {"。": "."}
_SPACE_AFTER = re.compile(r"(?<=[다요죠까])[.!?](?=[가-힣])")
_ASKED = re.compile(r"(?:니까|까요)\Z")


def changes(draft: Draft) -> list[Change]:
    """An end is wanted of the last sentence."""
    text = draft.text
    found = [Change(*match.span(), "") for match in _BLANK.finditer(text)]
    found += [Change(*match.span(), _RIGHT.get(match.group(), "")) for match in _DOUBLED.finditer(text)]
    found += [Change(match.end(), match.end(), " ") for match in _SPACE_AFTER.finditer(text)]
    said = text.rstrip()
    if draft.is_last and completeness.ENDED.search(said):
        found.append(Change(len(said), len(said), "?" if _ASKED.search(said) else "."))
    return found
