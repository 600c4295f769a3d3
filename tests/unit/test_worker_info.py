from dataclasses import asdict, replace

import pytest

from dure.worker_registry import WorkerInfo

INFO = WorkerInfo(
    "일꾼-1", "모델", "scripted", 4, 2048, 77, num_running=3, tokens_per_s=12.5, rss_mib=900,
    edits={"josa": 3}, failed_edits={"register": 1},
)  # fmt: skip
SINCE_THE_EDITOR = {"edits", "failed_edits"}


def test_a_worker_comes_back_from_its_hash_as_it_was() -> None:
    assert WorkerInfo.from_hash(INFO.to_hash()) == INFO


@pytest.mark.parametrize("field", sorted(asdict(INFO).keys() - SINCE_THE_EDITOR))
def test_a_half_written_worker_is_not_taken_for_a_whole_one(field: str) -> None:
    raw = {name: value for name, value in INFO.to_hash().items() if name != field}
    with pytest.raises(KeyError, match=field):
        WorkerInfo.from_hash(raw)


def test_a_newer_workers_further_fields_are_passed_over() -> None:
    assert WorkerInfo.from_hash(INFO.to_hash() | {"새것": "1"}) == INFO


def test_an_older_worker_has_edited_nothing() -> None:
    raw = {name: value for name, value in INFO.to_hash().items() if name not in SINCE_THE_EDITOR}
    assert WorkerInfo.from_hash(raw) == replace(INFO, edits={}, failed_edits={})
