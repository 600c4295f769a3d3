"""The smallest file that foresees a text almost as well as its source: by bisection over the bytes of all tensors.

It holds that more bytes foresee better. Near the limit they sometimes do not, by little: what is returned was measured
to keep the limit, and one step smaller was measured not to.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dure.errors import SettingsError
from dure.one_step import one_step

_SCHEMA = 1
# Of all bytes, between the smallest file that keeps the limit and the largest that was measured not to.
STEP = 0.01


@dataclass(frozen=True)
class Try:
    """most_bytes: what was allowed for all tensors; loss: the file's perplexity as a multiple of the source's."""

    most_bytes: int
    loss: float


class Tries:
    """What was measured, kept at `path` so that a search which was stopped goes on.

    identity: of source, texts and way to quantize, as JSON has it. Raises SettingsError for a record of another search.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path, self._identity = path, {"schema": _SCHEMA, **identity}
        self.all: list[Try] = []
        self._go_on()

    def add(self, found: Try) -> None:
        self.all.append(found)
        whole = {"search": self._identity, "tries": [asdict(each) for each in self.all]}
        try:
            with one_step(self._path) as unfinished:
                unfinished.write_text(json.dumps(whole, ensure_ascii=False, indent=1), "utf-8")
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be written ({error.strerror}): choose another --out") from None

    def of(self, most_bytes: int) -> Try | None:
        return next((each for each in self.all if each.most_bytes == most_bytes), None)

    def _go_on(self) -> None:
        try:
            whole = json.loads(self._path.read_text("utf-8"))
            tries = [Try(int(each["most_bytes"]), float(each["loss"])) for each in whole["tries"]]
            identity = whole["search"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            raise SettingsError(f"{self._path} is no record of a search: delete it, it is made again") from None
        if identity != self._identity:
            raise SettingsError(
                f"{self._path} is of another search (model, texts or options differ): delete it, or take another --out"
            )
        self.all = tries


def smallest(
    least_bytes: int,
    source_bytes: int,
    most_loss: float,
    measure: Callable[[int], float],
    tries: Tries,
    on_try: Callable[[Try], None] = lambda found: None,
) -> Try:
    """The try with the fewest bytes whose loss is at most `most_loss`.

    least_bytes    of all tensors with the fewest bits
    source_bytes   of the source, which has the loss 1
    measure        makes a file of at most so many bytes and returns its loss; it is not asked again for what `tries`
                   has
    on_try         after each, those of `tries` included

    Raises SettingsError where no file is smaller than the source and keeps the limit.
    """
    if not most_loss > 1:
        raise SettingsError(f"a perplexity of at most {most_loss:g} times the source's is not to be had: allow over 1")

    def tried(most_bytes: int) -> Try:
        found = tries.of(most_bytes)
        if found is None:
            found = Try(most_bytes, measure(most_bytes))
            tries.add(found)
        on_try(found)
        return found

    best = tried(least_bytes)
    if best.loss <= most_loss:
        return best
    low, high, best_found = least_bytes, source_bytes, None
    while high - low > STEP * source_bytes:
        found = tried((low + high) // 2)
        if found.loss <= most_loss:
            high, best_found = found.most_bytes, found
        else:
            low = found.most_bytes
    if best_found is None:
        raise SettingsError(
            f"no smaller file keeps the perplexity within {most_loss:g} times the source's: allow more, or take a "
            "source with more bits a weight"
        )
    return best_found
