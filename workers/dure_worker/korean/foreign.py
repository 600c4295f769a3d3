"""The pass `foreign`: models of Chinese origin slip into Han characters and kana.

Unless a conversation is about them, no token that writes one may be drawn. What comes through nevertheless, from an
engine that cannot ban tokens, is left out; in brackets it explains a word and stays.
"""

import re
from collections.abc import Iterable

from dure.writing import Script
from dure_worker.korean.sentence import Change, Draft

_FOREIGN = {Script.HAN, Script.HIRAGANA, Script.KATAKANA, Script.BOPOMOFO}
_OTHERS = [script.value for script in Script if script not in _FOREIGN]
_LETTERS = (
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = re.compile(f"[{_LETTERS}]")
_RUN = re.compile(f"(?P<bracketed>\\([^()\n]*\\))| ?[{_LETTERS}]+")
_ABOUT = re.compile(f"[{_LETTERS}]|한자|한문|중국|일본|일어|히라가나|가타카나|대만|성어|번역|어원")


def scripts_for(texts: Iterable[str]) -> list[str] | None:
    """Scripts that an answer to these texts may be written in. None: any."""
    return None if any(_ABOUT.search(text) for text in texts) else _OTHERS


def has_letters(text: str) -> bool:
    return bool(_LETTER.search(text))


def changes(draft: Draft) -> list[Change]:
    """Only for an answer that `scripts_for` restricts."""
    return [Change(*match.span(), "") for match in _RUN.finditer(draft.text) if not match["bracketed"]]
