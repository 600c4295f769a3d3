"""The Korean editor, first step: sentences that will not change any more, NFC, no broken characters, no torn end."""

import re
import unicodedata

# A sentence ends with its mark, closing quotes or brackets, and white space; or with a line break. "1. " and "가. "
# at the start of a line number a list and end nothing.
_END = re.compile(r"""(?:[.!?…。]+["'”’)\]」』]*[ \t]+|\n+)(?=\S)""")
_LIST_NUMBER = re.compile(r"^\s*(?:\d+|[가나다라마바사아자차카타파하])\.\s*$")
_CLOSED = re.compile(r"""(?:[.!?…。]["'”’)\]」』*_]*|```)\s*$""")
_FENCE = "```"


class KoreanEditor:
    """Streaming: `feed` gives sentences as they become complete, `finish` the rest.

    The joined result does not depend on how the text was cut into pieces.
    """

    def __init__(self) -> None:
        self._held = ""
        self._sent = ""

    def feed(self, text: str) -> list[str]:
        """Take generated text; return finished sentences, white space after them included."""
        self._held += text
        sentences, start = [], 0
        for end in _ends(self._held):
            sentences.append(self._keep(self._held[start:end]))
            start = end
        self._held = self._held[start:]
        return [sentence for sentence in sentences if sentence]

    def finish(self, *, is_cut: bool) -> list[str]:
        """Return the last sentence. is_cut: the generation was stopped by its length limit, perhaps mid-sentence."""
        rest, self._held = self._held, ""
        if is_cut:
            rest = self._cut_back(rest)
        last = self._keep(rest.rstrip())
        return [last] if last else []

    def _keep(self, sentence: str) -> str:
        clean = unicodedata.normalize("NFC", sentence.replace("\ufffd", ""))
        self._sent += clean
        return clean

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


def edit(text: str, *, is_cut: bool = False) -> str:
    """The whole-text form of the same."""
    editor = KoreanEditor()
    return "".join([*editor.feed(text), *editor.finish(is_cut=is_cut)]).rstrip()


def _ends(text: str) -> list[int]:
    """Positions after each finished sentence. Nothing before `text` counts, so pieces give what the whole gives."""
    ends: list[int] = []
    start = 0
    for match in _END.finditer(text):
        if not _LIST_NUMBER.match(text[start : match.end()]):
            start = match.end()
            ends.append(start)
    return ends
