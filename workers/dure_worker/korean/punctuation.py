"""The pass `punctuation`: doubled marks, blanks before marks, and the full stop that an ended sentence lacks."""

import re

from dure_worker.korean.sentence import Change, Draft

_BLANK = re.compile(r"(?<=[가-힣A-Za-z0-9\"'”’)\]])[ \t]+(?=[.,!?](?:\s|$))")
# Two dots, and several commas, are a way to hesitate in chat.
_DOUBLED = re.compile(r"(?<=[가-힣])\.(?=[,!?])|。")
_RIGHT = {"。": "."}
_SPACE_AFTER = re.compile(r"(?<=[다요죠까])[.!?](?=[가-힣])")
# Endings that end a sentence without doubt, where nothing follows.
_ENDED = re.compile(r"(?:[가-힣]니다|[가-힣]까요|세요|에요|예요|어요|아요|지요|네요|군요|습니까)(?=\s*$)")
_ASKED = re.compile(r"(?:니까|까요|나요|ㄴ가요|는가요|은가요)$")


def changes(draft: Draft) -> list[Change]:
    """An end is wanted of the last sentence."""
    text = draft.text
    found = [Change(*match.span(), "") for match in _BLANK.finditer(text)]
    found += [Change(*match.span(), _RIGHT.get(match.group(), "")) for match in _DOUBLED.finditer(text)]
    found += [Change(match.end(), match.end(), " ") for match in _SPACE_AFTER.finditer(text)]
    if draft.is_last and (ended := _ENDED.search(text)):
        found.append(Change(ended.end(), ended.end(), "?" if _ASKED.search(ended.group()) else "."))
    return found
