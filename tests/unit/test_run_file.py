import os
import subprocess
import sys
from pathlib import Path

import pytest

from dure import run_file
from dure.run_file import Running


def test_what_was_written_is_read_and_only_this_user_can(tmp_path: Path) -> None:
    running = Running(os.getpid(), 8000, "redis://:secret@127.0.0.1:1/0")
    run_file.write(tmp_path, running)
    assert run_file.read(tmp_path) == running
    assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0
    run_file.remove(tmp_path)
    assert run_file.read(tmp_path) is None


def test_the_file_of_a_process_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run_file.write(tmp_path, Running(gone.pid, 8000, ""))
    assert run_file.read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"pid": 1}', '{"pid": 1, "port": 2, "redis_url": "", "more": 3}']
)
def test_a_damaged_file_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert run_file.read(tmp_path) is None


def test_removing_what_is_not_there_is_harmless(tmp_path: Path) -> None:
    run_file.remove(tmp_path)
