"""What a conversation is about, where that decides how its answer may be edited."""

import re
from collections.abc import Iterable

from dure.edits import Pass

_SPELLING = re.compile(
    r"맞춤법|띄어\s?쓰기|철자|표준어|오탈자|오타|비문|(?:문장|글|문법|표현)(?:을|를)?\s?(?:교정|고쳐|다듬)|틀린\s?(?:곳|부분|글자|말)"
    r"|['\"“”‘’「」]\s*(?:이|가|은|는|와|과|랑|이랑)?\s*(?:중|중에|가운데)?[^.?!\n]{0,20}(?:맞(?:아|나|는|습니까|을까|죠|지)|옳|틀리|틀렸|바른)"
)
_OF_WORDS = {Pass.MISSPELLINGS, Pass.SPACING, Pass.JOSA}


def passes_for(texts: Iterable[str], passes: Iterable[str]) -> list[str]:
    """Without those that would mend what an answer about spelling shows as wrong (‘몇일’은 틀린 말입니다)."""
    is_spelling = any(_SPELLING.search(text) for text in texts)
    return [name for name in passes if not (is_spelling and name in _OF_WORDS)]
