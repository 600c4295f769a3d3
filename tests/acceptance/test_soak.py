"""The soak as a user runs it, short."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def soak(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "soaking.soak", *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_short_soak_loses_nothing_and_says_so_in_one_json_object() -> None:
    done = soak("--jobs", "250", "--faults", "worker-killed,hints-lost,connections-cut,hints-repeated", "--seed", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["jobs"], found["seed"]) == (250, 11)
    assert found["faults"] >= 1
    assert [found[name] for name in ("lost", "duplicated", "wrong", "gaps")] == [0, 0, 0, 0]


def test_an_unknown_fault_is_named_with_those_that_exist() -> None:
    done = soak("--faults", "meteor")
    assert done.returncode == 2
    assert "meteor" in done.stderr
    assert "worker-killed" in done.stderr
