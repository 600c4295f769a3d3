"""A step that has no room stops before it begins; one that has ended leaves a line."""

import hashlib
import json
from pathlib import Path

import pytest

from dure.errors import PlanTooLarge, SettingsError
from dure.machine_memory import Memory
from dure_workshop import manifest_line, room
from dure_workshop.manifest_line import add_line, described
from dure_workshop.room import require_disk, require_memory


@pytest.mark.parametrize("here", [Memory(4 << 30, 1 << 30), None], ids=["known", "as on macOS"])
def test_too_little_memory_is_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch, here: Memory | None) -> None:
    monkeypatch.setattr(room, "usable_memory", lambda: here)
    require_memory(1, "a step")
    with pytest.raises(
        PlanTooLarge, match=r"a step needs about 1,000,000,000 MB of memory, and .* are free: end other"
    ):
        require_memory(10**15, "a step")
    with pytest.raises(PlanTooLarge, match=r"are free: take another$"):
        require_memory(10**15, "a step", "take another")


def test_too_little_disk_is_said_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "not/there/yet"
    require_disk(path, 1)
    assert not (tmp_path / "not").exists()
    with pytest.raises(SettingsError, match=r"needs about 1,000,000,000,000 MB of disk.*: free some space"):
        require_disk(path, 10**18)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / manifest_line.FILE).read_text("utf-8").splitlines()]


def test_each_command_adds_a_line(tmp_path: Path) -> None:
    given = tmp_path / "text.txt"
    given.write_text("두레")
    for seed in (1, 2):
        add_line(tmp_path / "out", command="dure 두레", seconds=1.26, inputs=[given], seed=seed, kept=3)
    first, second = lines(tmp_path / "out")
    assert (first["command"], first["seconds"], first["seed"], first["kept"]) == ("dure 두레", 1.3, 1, 3)
    assert second["seed"] == 2
    assert "numpy" in first["versions"]  # type: ignore[operator]
    assert first["inputs"] == [{"path": str(given), "bytes": 6, "sha256": hashlib.sha256("두레".encode()).hexdigest()}]


def test_a_torn_line_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    (tmp_path / manifest_line.FILE).write_text('{"comm')
    add_line(tmp_path, command="a", seconds=0)
    torn, whole = (tmp_path / manifest_line.FILE).read_text("utf-8").splitlines()
    assert (torn, json.loads(whole)["command"]) == ('{"comm', "a")


def test_large_files_are_told_by_their_last_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_line, "_MOST_READ", 3)
    (tmp_path / "large").write_text("four")
    found = described(tmp_path / "large")
    assert (found["bytes"], "sha256" in found) == (4, False)
    assert found["changed"].endswith("+00:00")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / manifest_line.FILE).mkdir()
    with pytest.raises(SettingsError, match=r"manifest\.jsonl cannot be written"):
        add_line(tmp_path, command="a", seconds=0)
