"""What no pass may touch: code, addresses, paths, formulas, tables, marks of emphasis, numbers with their units."""

import re

_NUMBER = r"[0-9][0-9.,:/~-]*[0-9]|[0-9]"
_UNIT = r"(?:[%°℃℉㎝㎏㎞㎡㎢㎖㎍Ωµ$€₩]|[A-Za-z]{1,4}(?:/[A-Za-z]{1,3})?[²³]?(?![A-Za-z]))"

_KINDS = {
    # Where a sentence ends inside a span of code, what is there of it counts.
    "code": r"```.*?(?:```|\Z)|`[^`\n]+`|`[^`\n]*\Z",
    "address": r"(?:https?|ftp)://[^\s<>\"']+?(?=(?:[은는이가을를과와도의에로])?(?:[\s<>\"']|\Z))|www\.[^\s<>\"'가-힣]+",
    "e-mail": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "domain": r"(?<![\w.])(?:[a-z0-9-]+\.)+(?:com|net|org|io|kr|dev|ai|gov|edu)(?:/[^\s<>\"'가-힣]*)?(?!\w)",
    "path": r"(?<![\w/])(?:~|\.{1,2})?(?:/[\w.-]+)+/?|\b[A-Za-z]:\\[\w\\.-]+",
    "file": r"\b[\w-]+\.(?:py|js|ts|json|md|txt|html|css|csv|toml|yaml|yml|sh|c|cpp|h|rs|go|java|exe|pdf|hwp|zip)\b",
    "name": r"\b[A-Za-z_][\w.]*\([^()\n]*\)|\b[A-Za-z]+_\w+|--?[A-Za-z][\w-]*",
    "formula": r"\$\$.+?\$\$|\$[^$\n]+\$|\\\(.+?\\\)|\\\[.+?\\\]|[\w)]+\s*[\^=≤≥≠≈<>+*/×÷]\s*[\w(][\w()^+*/=. -]*[\w)]",
    "table": r"(?m:^\s*\|.*$)",
    "emphasis": r"\*{1,3}|_{2,3}|~~|^#{1,6}\s|^>\s|^\s*[-*+]\s",
    "link": r"!?\[[^\]\n]*\]\([^)\n]*\)",
    "tag": r"</?[A-Za-z][^<>\n]*>",
    "number": rf"(?:{_NUMBER})\s?{_UNIT}|{_NUMBER}",
}
_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in _KINDS.values()), re.DOTALL)
_QUOTED = re.compile(r"“([^”\n]+)”|‘([^’\n]+)’|\"([^\"\n]+)\"|'([^'\n]+)'|「([^」\n]+)」|『([^』\n]+)』|<([^>\n]+)>")
_LETTER = "A"


def spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each, in order. An answer within a block of code is none of this module's business."""
    return [match.span() for match in _ANY.finditer(text) if match.end() > match.start()]


def quotes(text: str, said: str) -> list[tuple[int, int]]:
    """What is quoted of somebody else's words, marks included."""
    return [match.span() for match in _QUOTED.finditer(text) if match[match.lastindex or 0].strip() in said]


def hidden(text: str) -> str:
    """Of the same length, with a letter for each of theirs: what a parser is to see."""
    for start, end in spans(text):
        text = text[:start] + re.sub(r"\S", _LETTER, text[start:end]) + text[end:]
    return text
