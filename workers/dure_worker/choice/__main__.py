"""`python -m dure_worker.choice`: the engine that a worker would take here, as JSON without measuring."""

import json
import os
import sys
from dataclasses import asdict

from dure.budget import Budget
from dure.cpu import Cpu
from dure.errors import SettingsError
from dure.settings import Settings
from dure_worker.choice.choosing import foreseen
from dure_worker.settings import WorkerSettings


def main() -> None:
    try:
        worker = WorkerSettings.read()
        choice = foreseen(Settings.read(), worker, Budget.here(worker.num_sharing), Cpu.here())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(os.EX_CONFIG)
    load = {
        "slots": worker.slots,
        "context": worker.context,
        "prompt_cache_mib": worker.prompt_cache_mib,
        "has_editor": worker.is_parsing,
    }
    sys.stdout.write(json.dumps(asdict(choice) | load) + "\n")


if __name__ == "__main__":
    main()
