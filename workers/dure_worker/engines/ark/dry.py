"""DRY, "Don't Repeat Yourself": what would go on with a run of tokens that stood in the text before is less likely.

A run of `length` tokens at the end that also stood before costs the token that followed it there
multiplier * base ** (length - allowed_length). Runs end at breakers: line breaks and marks of structure, and control
tokens. So a list, a table or a label may look like the one before, and an answer may end as the one before ended.
A Korean ending is two or three tokens (습니다, 거예요) and costs little or nothing where a flat penalty grows with it.
Source: p-e-w, text-generation-webui pull request 5637; llama.cpp's defaults.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BREAKERS = (b"\n", b":", b'"', b"*")
# Of a run that counts. Longer ones cost no more; a penalty that grows further overflows.
_LONGEST = 64


def breakers(pieces: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which tokens end a run. pieces: what each token writes."""
    return np.array([not piece or any(mark in piece for mark in _BREAKERS) for piece in pieces], bool)


def runs(before: Sequence[int], breaker: NDArray[np.bool_], shortest: int) -> dict[int, int]:
    """For each token that would go on with a repeated run: the length of its longest run, `shortest` or more.

    before: prompt and answer so far.
    """
    ids = np.asarray(before)
    num_free = _num_free(ids, breaker)
    found: dict[int, int] = {}
    if num_free < shortest:
        return found
    ends = np.flatnonzero(ids[:-1] == ids[-1])
    ends = ends[~breaker[ids[ends + 1]]]
    for length in range(1, num_free + 1):
        if length > 1:
            ends = ends[ends >= length - 1]
            ends = ends[ids[ends - length + 1] == ids[-length]]
        if not len(ends):
            break
        if length >= shortest:
            found |= dict.fromkeys(ids[ends + 1].tolist(), length)
    return found


def _num_free(ids: NDArray[np.int_], breaker: NDArray[np.bool_]) -> int:
    """Tokens at the end without a breaker among them, up to the longest run."""
    at_end = breaker[ids[-_LONGEST:]]
    places = np.flatnonzero(at_end)
    return len(at_end) - (int(places[-1]) + 1 if len(places) else 0)
