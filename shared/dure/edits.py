"""Names of the Korean editor's passes, which requests and settings switch."""

from enum import StrEnum


class Pass(StrEnum):
    """In the order in which they run. Composition (NFC) and a torn end are no matter of choice and are none of them."""

    UNICODE = "unicode"
    REPETITION = "repetition"
    FOREIGN = "foreign"
    MISSPELLINGS = "misspellings"
    SPACING = "spacing"
    JOSA = "josa"
    REGISTER = "register"
    PUNCTUATION = "punctuation"


# Those that need Kiwi.
PARSING = frozenset({Pass.SPACING, Pass.JOSA, Pass.REGISTER})
