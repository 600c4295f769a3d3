import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dure.logs import JsonFormatter, configure

Read = Callable[[], list[str]]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Iterator[Read]:
    """Gives the lines logged so far, and puts the loggers back as they were."""

    def said() -> list[str]:
        return capsys.readouterr().err.splitlines()

    loggers = [logging.getLogger(name) for name in (None, "httpx", "httpcore", "amqp", "asyncio")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield said
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def lines(read: Read) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read()]


def test_a_log_line_is_one_json_object_even_when_its_message_has_line_breaks(read: Read) -> None:
    configure("info")
    logging.getLogger("dure.시험").info('첫 줄\n둘째 줄 "따옴표"')
    (line,) = lines(read)
    assert line["message"] == '첫 줄\n둘째 줄 "따옴표"'
    assert (line["level"], line["logger"]) == ("info", "dure.시험")


def test_korean_stays_readable(read: Read) -> None:
    configure("info")
    logging.getLogger().warning("저장소가 응답하지 않습니다: %s", "시간 초과")
    assert "저장소가 응답하지 않습니다: 시간 초과" in read()[0]


def test_the_time_of_a_line_says_its_zone(read: Read) -> None:
    configure("info")
    logging.getLogger().info("시각")
    assert datetime.fromisoformat(lines(read)[0]["time"]).utcoffset() == timedelta(0)


def test_known_extra_fields_are_in_the_line_and_others_are_not(read: Read) -> None:
    configure("info")
    logging.getLogger().info("시작", extra={"action": "job.start", "job_id": "j1", "attempt": 2, "prompt": "비밀 질문"})
    (line,) = lines(read)
    assert (line["action"], line["job_id"], line["attempt"]) == ("job.start", "j1", 2)
    assert not {"prompt", "worker"} & set(line)
    assert "비밀" not in str(line)


def test_an_exception_is_in_the_line_of_its_message(read: Read) -> None:
    configure("info")
    try:
        raise ValueError("고장")
    except ValueError:
        logging.getLogger().exception("실패", extra={"action": "job.defect"})
    (line,) = lines(read)
    assert line["level"] == "error"
    assert "ValueError: 고장" in line["exception"]


def test_a_value_that_json_does_not_know_does_not_lose_the_line(read: Read) -> None:
    configure("info")
    logging.getLogger().info("어디", extra={"reason": Path("/두레"), "seconds": 1.5})
    (line,) = lines(read)
    assert (line["reason"], line["seconds"]) == ("/두레", 1.5)


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_the_wanted_levels_are_logged(read: Read, level: str, logged: list[str]) -> None:
    configure(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("dure"), name)("말")
    assert [line["level"] for line in lines(read)] == logged


def test_a_line_per_http_call_is_left_out_but_its_troubles_are_not(read: Read) -> None:
    configure("debug")
    logging.getLogger("httpx").info("HTTP Request: POST …")
    logging.getLogger("httpx").warning("문제")
    assert [line["message"] for line in lines(read)] == ["문제"]


def test_configuring_twice_does_not_log_twice(read: Read) -> None:
    configure("info")
    configure("info")
    logging.getLogger().info("한 번")
    assert len(lines(read)) == 1


def test_a_formatter_keeps_the_lines_own_time() -> None:
    record = logging.makeLogRecord({"created": 1_700_000_000.25, "msg": "옛날", "levelname": "INFO"})
    assert json.loads(JsonFormatter().format(record))["time"] == "2023-11-14T22:13:20.250+00:00"
