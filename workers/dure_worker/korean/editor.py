"""The Korean editor: sentences that will not change any more, each through the passes in their order.

The rule above all others is to do no harm: what no pass is sure of stays as it was generated.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from dure.edits import Pass
from dure.events import tidy
from dure_worker.korean import characters, josa, misspellings, punctuation, spacing
from dure_worker.korean.endings import Register
from dure_worker.korean.loops import FENCE, SentenceLoops, word_loop
from dure_worker.korean.register import RegisterPass
from dure_worker.korean.sentence import Change, Draft, Sentence

log = logging.getLogger(__name__)

# A sentence ends with its mark, closing quotes or brackets, and white space; or with a line break. "1. " and "가. "
# at the start of a line number a list and end nothing.
_END = re.compile(r"""(?:[.!?…。]+["'”’)\]」』]*[ \t]+|\n+)(?=\S)""")
_LIST_NUMBER = re.compile(r"^\s*(?:\d+|[가나다라마바사아자차카타파하])\.\s*$")
_CLOSED = re.compile(r"""(?:[.!?…。]["'”’)\]」』*_]*|```)\s*$""")

PASSES = tuple(Pass)


class KoreanEditor:
    """Streaming: `feed` gives sentences as they become complete, `finish` the rest.

    The joined result does not depend on how the text was cut into pieces.

    passes        those of PASSES that run
    register      that all sentences should have, FORMAL or POLITE; None: each as it is
    before        what an earlier attempt has sent of the same answer
    counts        edits by pass
    failures      how often each of them failed; the sentence went on as it was before
    is_looping    the answer goes round in circles: nothing that is fed counts any more
    """

    def __init__(self, passes: Iterable[str] = PASSES, *, register: Register | None = None, before: str = "") -> None:
        wanted = set(passes)
        steps: dict[Pass, Callable[[Draft], Sequence[Change]]] = {
            Pass.UNICODE: characters.changes,
            Pass.MISSPELLINGS: misspellings.changes,
            Pass.SPACING: spacing.changes,
            Pass.JOSA: josa.changes,
            Pass.PUNCTUATION: punctuation.changes,
        }
        if register is not None:
            steps[Pass.REGISTER] = RegisterPass(register)
        self._steps = {name: steps[name] for name in PASSES if name in wanted and name in steps}
        self._loops = SentenceLoops() if Pass.REPETITION in wanted else None
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.is_looping = False
        self._held = ""
        self._sent = before

    def feed(self, text: str) -> list[Sentence]:
        """Take generated text; return finished sentences, white space after them included."""
        sentences: list[Sentence] = []
        if self.is_looping:
            return sentences
        text, self._held = self._held + text, ""
        start = 0
        for end in _ends(text):
            raw, start = text[start:end], end
            if not self._holds_loop(raw, is_whole=True):
                sentences.append(self._keep(raw, is_last=False))
            if self.is_looping:
                break
        else:
            if not self._holds_loop(text[start:], is_whole=False):
                self._held = text[start:]
        return [sentence for sentence in sentences if sentence.raw]

    def _holds_loop(self, raw: str, *, is_whole: bool) -> bool:
        """Of words. What may stay is held then, as a sentence that was cut."""
        if self._loops is None or self._is_in_code:
            return False
        cut = word_loop(raw, is_whole=is_whole)
        if cut is not None:
            self._held = raw[:cut]
            self._begin_loop()
        return cut is not None

    def finish(self, *, is_cut: bool) -> list[Sentence]:
        """Return the last sentence. is_cut: the generation was stopped by its length limit, perhaps mid-sentence."""
        rest = self._held
        if not self.is_looping and self._holds_loop(rest, is_whole=True):
            rest = self._held
        self._held = ""
        if is_cut or self.is_looping:
            rest = self._cut_back(rest)
        last = self._keep(rest.rstrip(), is_last=True)
        return [last] if last.text else []

    def _keep(self, raw: str, *, is_last: bool) -> Sentence:
        clean = tidy(raw)
        is_code = self._is_in_code or FENCE in clean
        found = Sentence(raw, clean) if is_code else self._edited(raw, clean, is_last=is_last)
        if self._loops is not None and not is_code and self._loops.begins(found.text):
            self._begin_loop()
            return Sentence("", "")
        self._sent += found.text
        return found

    def _begin_loop(self) -> None:
        self.is_looping = True
        self.counts[Pass.REPETITION] += 1

    @property
    def _is_in_code(self) -> bool:
        return self._sent.count(FENCE) % 2 == 1

    def _edited(self, raw: str, clean: str, *, is_last: bool) -> Sentence:
        draft = Draft(clean, is_last)
        for name, changes in self._steps.items():
            try:
                draft.apply(name, changes(draft))
            except Exception:
                # An answer with a mistake is better than none.
                self.failures[name] += 1
                log.exception("the pass %s failed", name, extra={"action": "korean.pass"})
        self.counts.update(each.kind for each in draft.edits)
        return Sentence(raw, draft.text, tuple(draft.edits))

    def _cut_back(self, rest: str) -> str:
        is_open_before = self._is_in_code
        if is_open_before and FENCE not in rest:
            # A torn code block keeps its whole lines and gets its closing fence.
            return rest[: rest.rfind("\n") + 1] + FENCE
        if not is_open_before and FENCE in rest:
            # The block begins in what is torn: without a line of code it says nothing.
            rest = rest[: rest.index(FENCE)]
        # With nothing complete before it, a torn sentence is still better than no answer.
        is_complete = bool(_CLOSED.search(rest)) and not _LIST_NUMBER.match(rest)
        return rest if is_complete or not self._sent.strip() else ""


def edit(text: str, *, is_cut: bool = False, passes: Iterable[str] = PASSES, register: Register | None = None) -> str:
    """The whole-text form of the same."""
    sentences = edited(text, is_cut=is_cut, passes=passes, register=register)
    return "".join(each.text for each in sentences).rstrip()


def edited(
    text: str, *, is_cut: bool = False, passes: Iterable[str] = PASSES, register: Register | None = None
) -> list[Sentence]:
    """Its sentences, with what was changed in them."""
    editor = KoreanEditor(passes, register=register)
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
