"""What gateway and workers agree on, and the client that talks to a gateway."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dure.client import AsyncClient, Client

try:
    __version__ = version("dure")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    # Only who uses the client pays for the HTTP library: gateway and worker import this package too.
    if name in {"AsyncClient", "Client"}:
        from dure import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(f"module 'dure' has no attribute {name!r}")
