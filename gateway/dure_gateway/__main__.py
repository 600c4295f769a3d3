"""`python -m dure_gateway`: one application on two ports."""

import logging
import socket
import sys

import uvicorn

from dure import logs
from dure.errors import DureError, SettingsError
from dure.settings import Settings
from dure_gateway.app import make_app
from dure_gateway.settings import GatewaySettings

# After SIGTERM open streams may go on so long; their clients resume elsewhere with Last-Event-ID.
_GRACE_S = 5


def main() -> None:
    try:
        settings, gateway = Settings.read(), GatewaySettings.read()
        logs.configure(settings.log_level)
        sockets = [_bind(gateway.host, gateway.port, "DURE_GATEWAY_PORT (--port)")]
        if gateway.web_port != gateway.port:
            sockets.append(_bind(gateway.host, gateway.web_port, "DURE_GATEWAY_WEB_PORT (--web-port)"))
        app = make_app(settings, gateway)
    except DureError as error:
        sys.exit(f"dure gateway: {error}")
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=_GRACE_S, server_header=False)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    uvicorn.Server(config).run(sockets=sockets)


def _bind(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it each first event waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another port with {setting}"
        ) from None
    return listener


if __name__ == "__main__":
    main()
