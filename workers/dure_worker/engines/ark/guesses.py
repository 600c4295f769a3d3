"""Guessed tokens, several of which one pass checks: which way of guessing is asked, and whether it pays on this box."""

import time
from dataclasses import dataclass

from dure_worker.engines.ark.draft_model import DraftModel
from dure_worker.engines.ark.drafts import MOST
from dure_worker.engines.ark.slots import Slot
from dure_worker.engines.ark.step_times import StepTimes

# So many passes are tried before it is asked whether they pay; then one in so many, in case the text changes.
_TRIAL, _RETRY = 12, 16
# Once in so many passes none is guessed, so that it is known how long such a pass takes.
_PLAIN = 32


@dataclass
class Worth:
    """Tokens won by a pass with guesses, against what it takes longer."""

    num_passes: int = 0
    num_right: int = 0
    num_skipped: int = 0

    def pays(self, cost: float | None) -> bool:
        """cost: of a pass with guesses, in passes without. None: not known yet."""
        if self.num_passes < _TRIAL or cost is None or 1 + self.num_right / self.num_passes > cost:
            return True
        self.num_skipped += 1
        return self.num_skipped % _RETRY == 0

    def learn(self, num_right: int) -> None:
        self.num_passes += 1
        self.num_right += num_right
        if self.num_passes >= 4 * _TRIAL:  # what the text was like long ago matters less
            self.num_passes //= 2
            self.num_right //= 2


class Guesses:
    """model: a smaller one that guesses where the text itself does not tell."""

    def __init__(self, model: DraftModel | None = None) -> None:
        self.times = StepTimes()
        self._model = model
        self._model_s = 0.0  # what its guesses take
        self._worth_of_model = Worth()
        self._worth_of_text: dict[int, Worth] = {}
        self._asked: dict[int, Worth] = {}
        self._num_passes = 0

    def begin(self, slot: Slot) -> None:
        """An answer of another text sits there now."""
        self._worth_of_text[slot.number] = Worth()

    def after(self, slot: Slot, num_rows: int) -> list[int]:
        """Perhaps none. num_rows: of the pass without guesses."""
        answer = slot.answer
        assert answer is not None  # noqa: S101 - it is asked for slots that have one
        found, worth = answer.lookup.after(answer.ids), self._worth_of_text.setdefault(slot.number, Worth())
        if found and not worth.pays(self.times.cost(num_rows, len(found))):
            found = []
        if not found and self._model is not None and self._model_pays(num_rows):
            found, worth = self._of_model(self._model, slot), self._worth_of_model
        self._asked[slot.number] = worth
        return found

    def learn(self, slot: Slot, num_right: int) -> None:
        """Of a pass with guesses for it."""
        self._asked[slot.number].learn(num_right)

    def _model_pays(self, num_rows: int) -> bool:
        self._num_passes += 1
        is_plain = self._num_passes % _PLAIN == 0
        return not is_plain and self._worth_of_model.pays(self.times.cost(num_rows, MOST, self._model_s))

    def _of_model(self, model: DraftModel, slot: Slot) -> list[int]:
        assert slot.answer is not None  # noqa: S101 - it is asked for slots that have one
        began_at = time.monotonic()
        found = model.after(slot.number, slot.answer.ids)
        if found:
            took_s = time.monotonic() - began_at
            self._model_s += (took_s - self._model_s) * (0.1 if self._model_s else 1)
        return found
