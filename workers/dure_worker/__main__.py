"""`python -m dure_worker`: one worker in this process. `dure worker` runs it and starts it again when it dies."""

import os
import sys
from typing import NoReturn

from dure import logs
from dure.errors import DureError, EngineMissing, ModelError, SettingsError
from dure.settings import Settings
from dure_worker.app import run_worker
from dure_worker.settings import WorkerSettings


def main() -> None:
    try:
        settings, worker = Settings.read(), WorkerSettings.read()
    except SettingsError as error:
        _end(error, os.EX_CONFIG)
    logs.configure(settings.log_level)
    try:
        is_short_of_memory = run_worker(settings, worker)
    except (ModelError, EngineMissing) as error:
        _end(error, os.EX_CONFIG)
    except DureError as error:
        # Somebody may set Redis right in the meantime: worth another start.
        _end(error, 1)
    if is_short_of_memory:
        sys.exit(os.EX_TEMPFAIL)


def _end(error: DureError, status: int) -> NoReturn:
    """Status `EX_CONFIG`: started again it would say the same; its supervisor need not try."""
    print(f"dure worker: {error}", file=sys.stderr)  # noqa: T201 - the process's last words
    sys.exit(status)


if __name__ == "__main__":
    main()
