"""The folder into which a step of the workshop writes, and from which it goes on."""

from pathlib import Path

from dure.errors import SettingsError


def prepared(folder: Path) -> Path:
    """Made where it is not there. Raises SettingsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used ({error.strerror}): choose another folder") from None
    return folder
