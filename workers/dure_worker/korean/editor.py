"""The Korean editor: sentences that will not change any more, each through the passes in their order.

The rule above all others is to do no harm: what no pass is sure of stays as it was generated.
"""

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from dure.edits import Pass
from dure.events import tidy
from dure_worker.korean import characters, completeness, foreign, hold, josa, misspellings, punctuation, spacing
from dure_worker.korean.endings import Register
from dure_worker.korean.loops import FENCE, SentenceLoops, word_loop
from dure_worker.korean.register import RegisterPass
from dure_worker.korean.sentence import Change, Draft, Sentence

log = logging.getLogger(__name__)

# A sentence ends with its mark, closing quotes or brackets, and white space; or with a line break. "1. " and "가. "
# at the start of a line number a list and end nothing.
_END = re.compile(r"""(?:[.!?…。]+["'”’)\]」』]*[ \t]+|\n+)(?=\S)""")
_LIST_NUMBER = re.compile(rf"^\s*{completeness.COUNTED}\.\s*$")

PASSES = tuple(Pass)


class KoreanEditor:
    """Streaming: `feed` gives sentences as they become complete, `finish` the rest.

    The joined result does not depend on how the text was cut into pieces. A sentence that is held for longer than
    hold_s is given in parts: what was given stays, and what follows is edited in view of the whole sentence.

    passes        those of PASSES that run
    register      that all sentences should have; None: each as it is
    is_native     Han characters and kana have no place in this answer (`foreign.scripts_for`)
    said          by the one who is answered: quotations from it stay as they are
    before        what an earlier attempt has sent of the same answer
    hold_s        seconds by `clock`; the result is that of whole sentences unless later words change earlier ones
    counts        edits by pass
    failures      how often each of them failed; the sentence went on as it was before
    is_looping    the answer goes round in circles: nothing that is fed counts any more
    """

    def __init__(
        self,
        passes: Iterable[str] = PASSES,
        *,
        register: Register | None = None,
        is_native: bool = False,
        said: str = "",
        before: str = "",
        hold_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        wanted = set(passes)
        steps: dict[Pass, Callable[[Draft], Sequence[Change]]] = {
            Pass.UNICODE: characters.changes,
            Pass.MISSPELLINGS: misspellings.changes,
            Pass.SPACING: spacing.changes,
            Pass.JOSA: josa.changes,
            Pass.PUNCTUATION: punctuation.changes,
        }
        self._register = RegisterPass(register) if register is not None and Pass.REGISTER in wanted else None
        if self._register is not None:
            steps[Pass.REGISTER] = self._register
        if is_native:
            steps[Pass.FOREIGN] = foreign.changes
        self._steps = {name: steps[name] for name in PASSES if name in wanted and name in steps}
        self._loops = SentenceLoops() if Pass.REPETITION in wanted else None
        self.counts: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.is_looping = False
        self._held = ""
        self._num_given = 0  # letters of what is held whose edited text was given
        self._sent, self._said = before, said
        # Its beginning is out already: of what is held, or what an earlier attempt has sent.
        self._is_continued = bool(before.strip()) and not before[-1].isspace() and not completeness.is_complete(before)
        self._hold_s, self._clock = hold_s, clock
        self._held_since = math.inf

    def feed(self, text: str, *, in_whole_sentences: bool = False) -> list[Sentence]:
        """Take generated text; return finished sentences, white space after them included.

        in_whole_sentences: none is given in parts now, however long it takes.
        """
        sentences: list[Sentence] = []
        if self.is_looping:
            return sentences
        is_begun = bool(self._held[self._num_given :].strip())
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
                if sentences or not is_begun:
                    self._held_since = self._clock()
                if not in_whole_sentences:
                    sentences += self._overdue()
        return [sentence for sentence in sentences if sentence.raw]

    def _overdue(self) -> list[Sentence]:
        """The beginning of what is held, if its time is over."""
        now = self._clock()
        if now - self._held_since < self._hold_s or self._is_in_code:
            return []
        place = hold.safe_place(self._held, self._num_given)
        if place is None or not self._may_part(self._held[:place]):
            return []
        # Edited in view of the words that are there; the last of them may be torn.
        draft = self._edited(self._held[: self._held.rindex(" ")], is_last=False, without=Pass.REGISTER)
        if any(each.start < place < each.end for each in draft.edits):
            return []
        self._held_since = now
        return [self._part(self._held, draft, place)]

    def _may_part(self, beginning: str) -> bool:
        """Not where a loop may begin, or where the sentence's end decides about its beginning."""
        if tidy(beginning) != beginning:
            return False
        if self._loops is not None:
            news = beginning[self._num_given :].strip()
            if self._loops.may_begin(beginning) or news in beginning[: self._num_given]:
                return False
        return self._register is None or not self._register.waits_for_end(beginning)

    def _part(self, raw: str, draft: Draft, end: int | None = None) -> Sentence:
        """What was not given yet of a sentence, to its end or to a place in it. draft: of the sentence."""
        given = self._num_given
        if any(each.start < given < each.end for each in draft.edits):
            # It reaches into what was given: the rest by itself, then.
            rest = self._edited(tidy(raw[given:end]), is_last=draft.is_last)
            text, edits = rest.text, tuple(rest.edits)
        else:
            first, behind = (None if place is None else draft.place_of(place) for place in (given or None, end))
            text = draft.text[first:behind]
            wanted = [each for each in draft.edits if given <= each.start and (end is None or each.start < end)]
            edits = tuple(each.moved(-given) for each in wanted)
        self.counts.update(each.kind for each in edits)
        self._sent += text
        self._num_given = end or 0
        self._is_continued = end is not None
        return Sentence(raw[given:end], text, edits)

    @property
    def is_torn(self) -> bool:
        """Whether an answer that ended now would end in the middle: nothing could be cut back to."""
        rest = self._held.rstrip()
        if self._is_in_code or FENCE in rest or completeness.is_ended(rest):
            return False
        return (bool(rest) and self._is_continued) or not completeness.is_complete(self._sent)

    def _holds_loop(self, raw: str, *, is_whole: bool) -> bool:
        """Of words. What may stay is held then, as a sentence that was cut."""
        if self._loops is None or self._is_in_code:
            return False
        cut = word_loop(raw, is_whole=is_whole)
        if cut is not None:
            self._held = raw[: max(cut, self._num_given)]
            self._begin_loop()
        return cut is not None

    def take_back(self) -> str:
        """Forget the sentence that is being written, where the pass `foreign` would have to leave letters out of it, so
        that the model may write it anew. Returns what was forgotten: its raw text behind any part that was given.
        """
        news = self._held[self._num_given :]
        if Pass.FOREIGN not in self._steps or not foreign.has_letters(news) or self._is_in_code or FENCE in self._held:
            return ""
        draft = Draft(self._held, said=self._said)
        draft.apply(Pass.FOREIGN, foreign.changes(draft))
        places = [each.start for each in draft.edits if each.start >= self._num_given]
        # Within brackets or quotes that are still open they may yet be in their place.
        if not places or not hold.is_closed(self._held[: places[0]]):
            return ""
        self._held = self._held[: self._num_given]
        self.counts[Pass.FOREIGN] += 1
        return news

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
        draft = Draft(clean, is_last) if is_code else self._edited(clean, is_last=is_last)
        if self._loops is not None and not is_code and self._loops.begins(draft.text) and not self._num_given:
            self._begin_loop()
            return Sentence("", "")
        return self._part(raw, draft)

    def _begin_loop(self) -> None:
        self.is_looping = True
        self.counts[Pass.REPETITION] += 1

    @property
    def _is_in_code(self) -> bool:
        return self._sent.count(FENCE) % 2 == 1

    def _edited(self, clean: str, *, is_last: bool, without: Pass | None = None) -> Draft:
        """without: the register tells by a sentence's end, and remembers what it has seen."""
        draft = Draft(clean, is_last, self._said)
        for name, changes in self._steps.items():
            if name is without:
                continue
            try:
                draft.apply(name, changes(draft))
            except Exception:
                # An answer with a mistake is better than none.
                self.failures[name] += 1
                log.exception("the pass %s failed", name, extra={"action": "korean.pass"})
        return draft

    def _cut_back(self, rest: str) -> str:
        is_open_before = self._is_in_code
        if is_open_before and FENCE not in rest:
            # A torn code block keeps its whole lines and gets its closing fence.
            return rest[: rest.rfind("\n") + 1] + FENCE
        if not is_open_before and FENCE in rest:
            # The block begins in what is torn: without a line of code it says nothing.
            rest = rest[: rest.index(FENCE)]
        # With nothing complete before it, a torn sentence is still better than no answer.
        can_stay = completeness.is_ended(rest) or self._is_continued or not self._sent.strip()
        return rest if can_stay else ""


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
