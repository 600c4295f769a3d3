"""`python -m dure.flower`: Flower over the same broker. Address, port and password come from FLOWER_* variables."""

import sys

from dure import broker
from dure.errors import SettingsError
from dure.settings import Settings


def main() -> None:
    try:
        settings = Settings.read()
        app = broker.make_celery(settings.require_redis_url())
    except SettingsError as error:
        sys.exit(f"dure flower: {error}")
    app.start(["flower"])


if __name__ == "__main__":
    main()
