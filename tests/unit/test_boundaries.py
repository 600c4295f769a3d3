import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
# For each rule, an import that must break it.
FORBIDDEN = {
    "dure imports neither side": ("dure/job.py", "import dure_worker"),
    "the gateway imports no worker and no engine": ("dure_gateway/app.py", "import xllamacpp"),
    "engines import no Celery, no Redis, no HTTP server": ("dure_worker/engines/base.py", "import dure.job_store"),
    "korean imports no engine": ("dure_worker/korean/editor.py", "import dure_worker.engines.base"),
    "serving imports no workshop": ("dure_worker/app.py", "import dure_workshop.fetch"),
}
MODULES = [
    "dure/__init__.py", "dure/job.py", "dure/job_store.py", "dure/broker.py", "dure_gateway/__init__.py",
    "dure_gateway/app.py", "dure_worker/__init__.py", "dure_worker/app.py", "dure_worker/engines/__init__.py",
    "dure_worker/engines/base.py", "dure_worker/korean/__init__.py", "dure_worker/korean/editor.py",
    "dure_workshop/__init__.py", "dure_workshop/fetch.py",
]  # fmt: skip


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {"PYTHONPATH": str(folder), "PYTHONUTF8": "1", "NO_COLOR": "1"}
    command = [str(LINT_IMPORTS), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return found


def test_no_part_of_the_code_imports_what_it_must_not_know() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_rule_has_an_import_here_that_breaks_it() -> None:
    assert {contract["name"] for contract in contracts()} == set(FORBIDDEN)


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """Packages of our names, all empty."""
    for module in MODULES:
        path = tmp_path / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_code_that_imports_nothing_keeps_all_rules(small_tree: Path) -> None:
    result = lint(small_tree)
    assert result.returncode == 0, result.stdout + result.stderr


def test_each_rule_is_broken_by_the_import_that_it_forbids(small_tree: Path) -> None:
    for module, line in FORBIDDEN.values():
        (small_tree / module).write_text(f"{line}\n", encoding="utf-8")
    result = lint(small_tree)
    assert result.returncode != 0
    broken = {name for name in FORBIDDEN if f"{name} BROKEN" in result.stdout}
    assert broken == set(FORBIDDEN), result.stdout
