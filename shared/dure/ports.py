"""Whether one can listen somewhere."""

import errno
import socket


def bind_error(host: str, port: int) -> int | None:
    """Why one cannot listen there, as an errno; None where one can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno if error.errno and error.errno > 0 else errno.EADDRNOTAVAIL
    return None
