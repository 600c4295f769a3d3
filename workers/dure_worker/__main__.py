"""`python -m dure_worker`: one worker in this process. `dure worker` runs it and starts it again when it dies."""

import sys

from dure import logs
from dure.errors import DureError
from dure.settings import Settings
from dure_worker.app import run_worker
from dure_worker.settings import WorkerSettings


def main() -> None:
    try:
        settings, worker = Settings.read(), WorkerSettings.read()
        logs.configure(settings.log_level)
        run_worker(settings, worker)
    except DureError as error:
        sys.exit(f"dure worker: {error}")


if __name__ == "__main__":
    main()
