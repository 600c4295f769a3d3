"""The workshop as a program of its own: what it takes is given back whole when it ends."""

import json
import subprocess
import sys
from typing import Any

import typer


def run_workshop(*arguments: str) -> dict[str, Any]:
    """Run it; its progress and errors go to this terminal. What it printed last as JSON, {} where it prints none."""
    command = [sys.executable, "-m", "dure_workshop", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    lines = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return found
