"""The search for the smallest file that keeps a limit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dure.errors import SettingsError
from dure_workshop.quantize.target import STEP, Tries, Try, smallest

LEAST, SOURCE = 1000, 2000


class Measure:
    """Loss by bytes; how often it was asked."""

    def __init__(self, loss: Callable[[int], float], fails_at: int = 0) -> None:
        self.asked: list[int] = []
        self._loss, self._fails_at = loss, fails_at

    def __call__(self, most_bytes: int) -> float:
        self.asked.append(most_bytes)
        if len(self.asked) == self._fails_at:
            raise KeyboardInterrupt
        return self._loss(most_bytes)


def straight(most_bytes: int) -> float:
    """1 for the source, 2 for the smallest."""
    return 1 + (SOURCE - most_bytes) / (SOURCE - LEAST)


def tries(folder: Path, identity: str = "one") -> Tries:
    return Tries(folder / "tries.json", {"source": identity})


@pytest.mark.parametrize("limit", [1.02, 1.25, 1.5, 1.99])
def test_it_is_the_smallest_within_a_step(tmp_path: Path, limit: float) -> None:
    found = smallest(LEAST, SOURCE, limit, Measure(straight), tries(tmp_path))
    assert found.loss == straight(found.most_bytes) <= limit
    assert straight(found.most_bytes - int(STEP * SOURCE) - 1) > limit


def test_the_fewest_bits_are_tried_first(tmp_path: Path) -> None:
    measure = Measure(straight)
    assert smallest(LEAST, SOURCE, 2.0, measure, tries(tmp_path)) == Try(LEAST, 2.0)
    assert measure.asked == [LEAST]


def test_a_limit_that_no_file_keeps_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no smaller file .* 1\.25 times .*: allow more"):
        smallest(LEAST, SOURCE, 1.25, Measure(lambda most_bytes: 1.3), tries(tmp_path))


@pytest.mark.parametrize("limit", [1.0, 0.5, -1, float("nan")])
def test_a_limit_below_the_source_is_refused(tmp_path: Path, limit: float) -> None:
    measure = Measure(straight)
    with pytest.raises(SettingsError, match="allow over 1"):
        smallest(LEAST, SOURCE, limit, measure, tries(tmp_path))
    assert measure.asked == []


def test_no_number_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no smaller file"):
        smallest(LEAST, SOURCE, 1.25, Measure(lambda most_bytes: float("nan")), tries(tmp_path))


def test_a_search_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole = Measure(straight)
    (tmp_path / "whole").mkdir()
    wanted = smallest(LEAST, SOURCE, 1.25, whole, tries(tmp_path / "whole"))
    first, second, told = Measure(straight, fails_at=3), Measure(straight), []
    with pytest.raises(KeyboardInterrupt):
        smallest(LEAST, SOURCE, 1.25, first, tries(tmp_path))
    assert smallest(LEAST, SOURCE, 1.25, second, tries(tmp_path), told.append) == wanted
    assert first.asked[:2] + second.asked == whole.asked
    assert [each.most_bytes for each in told] == whole.asked
    assert [each.most_bytes for each in tries(tmp_path).all] == whole.asked


def test_a_record_of_another_search_is_refused(tmp_path: Path) -> None:
    tries(tmp_path).add(Try(LEAST, 1.5))
    with pytest.raises(SettingsError, match=r"is of another search .* delete it"):
        tries(tmp_path, "two")
    assert tries(tmp_path).all == [Try(LEAST, 1.5)]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"search": {}}', json.dumps({"search": {}, "tries": [{"loss": 1}]})])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tries.json").write_text(text, "utf-8")
    with pytest.raises(SettingsError, match="is no record of a search: delete it"):
        tries(tmp_path)


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written"):
        tries(tmp_path / "nowhere").add(Try(LEAST, 1.5))
