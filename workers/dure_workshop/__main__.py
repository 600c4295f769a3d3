"""`python -m dure_workshop fetch MODEL`: the workshop's commands as a program of their own."""

import sys

from rich.console import Console

from dure import catalog
from dure.errors import DureError, SettingsError
from dure.settings import Settings
from dure_workshop.fetch import Fetcher


def main(arguments: list[str]) -> None:
    try:
        match arguments:
            case ["fetch", name]:
                Fetcher(Settings.read(), Console(stderr=True)).fetch(catalog.find(name))
            case _:
                raise SettingsError("usage: python -m dure_workshop fetch MODEL")
    except DureError as error:
        sys.exit(f"dure model: {error}")
    except KeyboardInterrupt:
        sys.exit("dure model: stopped; the same command goes on from here")


if __name__ == "__main__":
    main(sys.argv[1:])
