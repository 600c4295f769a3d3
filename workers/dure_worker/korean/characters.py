"""The pass `unicode`: characters that no reader should see, and wide forms of ASCII ones.

Composition (NFC) is done before, as it may reach across the border of two pieces.
"""

import re

from dure_worker.korean.sentence import Change, Draft

# Conjoining letters that found no syllable, and a letter torn into a word. ㅋㅎㅠㅜ laugh and weep; ㅇㅇ and others
# are words of their own in chat, so only what stands between two syllables goes.
_STRAY = re.compile(r"[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+|(?<=[가-힣])[ㄱ-ㅊㅌㅍㅏ-ㅛㅝ-ㅟㅡ-ㅣ](?=[가-힣])")
_WIDE = re.compile(r"[\uff01-\uff5e]")
_INVISIBLE = re.compile(r"[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u200b\u2060\ufeff\ufffd]+")
_TO_ASCII = 0xFEE0


def changes(draft: Draft) -> list[Change]:
    found = [Change(*match.span(), "") for match in _STRAY.finditer(draft.text)]
    found += [Change(*match.span(), chr(ord(match.group()) - _TO_ASCII)) for match in _WIDE.finditer(draft.text)]
    found += [Change(*match.span(), "") for match in _INVISIBLE.finditer(draft.text)]
    return found
