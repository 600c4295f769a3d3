"""`python -m dure_worker`: one worker in this process. `dure worker` runs it and starts it again when it dies."""

import os
import sys

from dure import logs
from dure.errors import DureError, ModelError, SettingsError
from dure.settings import Settings
from dure_worker.app import run_worker
from dure_worker.settings import WorkerSettings


def main() -> None:
    try:
        settings, worker = Settings.read(), WorkerSettings.read()
        logs.configure(settings.log_level)
        is_short_of_memory = run_worker(settings, worker)
    except DureError as error:
        print(f"dure worker: {error}", file=sys.stderr)  # noqa: T201 - the process's last words
        # Started again it would say the same: its supervisor need not try.
        sys.exit(os.EX_CONFIG if isinstance(error, SettingsError | ModelError) else 1)
    if is_short_of_memory:
        sys.exit(os.EX_TEMPFAIL)


if __name__ == "__main__":
    main()
