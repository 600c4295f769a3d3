"""Whether a text ends where a reader expects an end."""

import re

from dure_worker.korean.loops import FENCE

# Laughter, tildes, emoji and other symbols end a sentence in chat.
_SYMBOLS = "~ㅋㅎㅠㅜ^♡♥★☆✓\u2600-\u27bf\U0001f300-\U0001faff\ufe0f"
_CLOSING = "\"'”’)\\]」』*_"
_MARKED = re.compile(rf"(?:[.!?…。] ?[{_CLOSING}]*(?:\s*[{_SYMBOLS}]+)?|[{_SYMBOLS}]|{FENCE})\s*\Z")
COUNTED = r"(?:\d+|[가나다라마바사아자차카타파하])"  # what numbers a list
_NUMBER = rf"{COUNTED}[.)]"
_BARE_NUMBER = re.compile(rf"(?:\A|\n)\s*{_NUMBER}\s*\Z")
_LIST_LINE = re.compile(rf"(?:\A|\n)[ \t]*(?:[-*+•][ \t]|{_NUMBER}[ \t]|\|)[^\n]*[^\s:,*]\**[ \t]*\Z")
_SOURCE_LINE = re.compile(r"[\"”’」』] *[-–—] *[^\s\d][^\n]{0,30}\Z")  # “…” - 뉴턴
# Final endings that nothing but a mark can follow. 다 and 까 alone may go on (좋다고, 할까 봐).
ENDED = re.compile(r"(?:[가-힣]니다|니까|시오|[아어해여에예네군세데래대든와봐돼써커줘쳐려펴켜져까지]요|[가-힣]죠)\Z")


def is_complete(text: str) -> bool:
    """By its mark, or as the last line of a list or a table, or a quotation's source, which bear none."""
    text = text.rstrip()
    return _has_mark(text) or bool(_LIST_LINE.search(text) or _SOURCE_LINE.search(text))


def is_ended(sentence: str) -> bool:
    """Whether this one, torn off by a limit, lacks at most its mark."""
    sentence = sentence.rstrip()
    return _has_mark(sentence) or bool(ENDED.search(sentence))


def _has_mark(text: str) -> bool:
    return bool(_MARKED.search(text)) and not _BARE_NUMBER.search(text)
