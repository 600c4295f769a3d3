from dataclasses import asdict

import pytest

from dure.worker_registry import WorkerInfo

INFO = WorkerInfo("일꾼-1", "모델", "scripted", 4, 2048, 77, num_running=3, tokens_per_s=12.5, rss_mib=900)


def test_a_worker_comes_back_from_its_hash_as_it_was() -> None:
    assert WorkerInfo.from_hash({name: str(value) for name, value in asdict(INFO).items()}) == INFO


@pytest.mark.parametrize("field", list(asdict(INFO)))
def test_a_half_written_worker_is_not_taken_for_a_whole_one(field: str) -> None:
    raw = {name: str(value) for name, value in asdict(INFO).items() if name != field}
    with pytest.raises(KeyError, match=field):
        WorkerInfo.from_hash(raw)


def test_a_newer_workers_further_fields_are_passed_over() -> None:
    raw = {name: str(value) for name, value in asdict(INFO).items()}
    assert WorkerInfo.from_hash(raw | {"새것": "1"}) == INFO
