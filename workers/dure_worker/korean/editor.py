"""The Korean editor: sentences that will not change any more, each through the passes in their order.

The rule above all others is to do no harm: what no pass is sure of stays as it was generated.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from dure_worker.korean import characters, josa, misspellings, punctuation
from dure_worker.korean.sentence import Change, Draft, Sentence

log = logging.getLogger(__name__)

# A sentence ends with its mark, closing quotes or brackets, and white space; or with a line break. "1. " and "가. "
# at the start of a line number a list and end nothing.
_END = re.compile(r"""(?:[.!?…。]+["'”’)\]」』]*[ \t]+|\n+)(?=\S)""")
_LIST_NUMBER = re.compile(r"^\s*(?:\d+|[가나다라마바사아자차카타파하])\.\s*$")
_CLOSED = re.compile(r"""(?:[.!?…。]["'”’)\]」』*_]*|```)\s*$""")
_FENCE = "```"

# In the order in which they run. Composition (NFC) and a torn end are no matter of choice and are none of them.
PASSES = ("unicode", "misspellings", "josa", "punctuation")
# Those that need Kiwi.
PARSING = frozenset({"josa"})


class KoreanEditor:
    """Streaming: `feed` gives sentences as they become complete, `finish` the rest.

    The joined result does not depend on how the text was cut into pieces.

    passes      those of PASSES that run
    failures    how often each of them failed; the sentence went on as it was before
    """

    def __init__(self, passes: Iterable[str] = PASSES) -> None:
        wanted = set(passes)
        self._passes = [name for name in PASSES if name in wanted]
        self.failures: Counter[str] = Counter()
        self._held = ""
        self._sent = ""

    def feed(self, text: str) -> list[Sentence]:
        """Take generated text; return finished sentences, white space after them included."""
        self._held += text
        sentences, start = [], 0
        for end in _ends(self._held):
            sentences.append(self._keep(self._held[start:end], is_last=False))
            start = end
        self._held = self._held[start:]
        return [sentence for sentence in sentences if sentence.text]

    def finish(self, *, is_cut: bool) -> list[Sentence]:
        """Return the last sentence. is_cut: the generation was stopped by its length limit, perhaps mid-sentence."""
        rest, self._held = self._held, ""
        if is_cut:
            rest = self._cut_back(rest)
        last = self._keep(rest.rstrip(), is_last=True)
        return [last] if last.text else []

    def _keep(self, raw: str, *, is_last: bool) -> Sentence:
        clean = unicodedata.normalize("NFC", raw.replace("\ufffd", ""))
        is_code = self._sent.count(_FENCE) % 2 == 1 or _FENCE in clean
        found = Sentence(raw, clean) if is_code else self._edited(raw, clean, is_last=is_last)
        self._sent += found.text
        return found

    def _edited(self, raw: str, clean: str, *, is_last: bool) -> Sentence:
        draft = Draft(clean)
        steps: dict[str, Callable[[Draft], Sequence[Change]]] = {
            "unicode": characters.changes,
            "misspellings": misspellings.changes,
            "josa": josa.changes,
            "punctuation": partial(punctuation.changes, is_last=is_last),
        }
        for name in self._passes:
            try:
                draft.apply(name, steps[name](draft))
            except Exception:
                # An answer with a mistake is better than none.
                self.failures[name] += 1
                log.exception("the pass %s failed", name, extra={"action": "korean.pass"})
        return Sentence(raw, draft.text, tuple(draft.edits))

    def _cut_back(self, rest: str) -> str:
        is_open_before = self._sent.count(_FENCE) % 2 == 1
        if is_open_before and _FENCE not in rest:
            # A torn code block keeps its whole lines and gets its closing fence.
            return rest[: rest.rfind("\n") + 1] + _FENCE
        if not is_open_before and _FENCE in rest:
            # The block begins in what is torn: without a line of code it says nothing.
            rest = rest[: rest.index(_FENCE)]
        # With nothing complete before it, a torn sentence is still better than no answer.
        is_complete = bool(_CLOSED.search(rest)) and not _LIST_NUMBER.match(rest)
        return rest if is_complete or not self._sent.strip() else ""


def edit(text: str, *, is_cut: bool = False, passes: Iterable[str] = PASSES) -> str:
    """The whole-text form of the same."""
    return "".join(each.text for each in edited(text, is_cut=is_cut, passes=passes)).rstrip()


def edited(text: str, *, is_cut: bool = False, passes: Iterable[str] = PASSES) -> list[Sentence]:
    """Its sentences, with what was changed in them."""
    editor = KoreanEditor(passes)
    return [*editor.feed(text), *editor.finish(is_cut=is_cut)]


def _ends(text: str) -> list[int]:
    """Positions after each finished sentence. Nothing before `text` counts, so pieces give what the whole gives."""
    ends: list[int] = []
    start = 0
    for match in _END.finditer(text):
        if not _LIST_NUMBER.match(text[start : match.end()]):
            start = match.end()
            ends.append(start)
    return ends
