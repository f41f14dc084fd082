"""Sockets that the platform listens on."""

import socket

from leptonai.errors import InvalidRequest, Unavailable

BACKLOG = 2048


def bind(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; 0 takes any free port. `option` is how people choose another."""
    if not 0 <= port <= 65535:
        raise InvalidRequest(f"{port} is not a port", hint=f"give {option} a number up to 65535")
    try:
        listening = socket.create_server((host, port), backlog=BACKLOG)
    except OSError as error:
        reason, _, _ = (error.strerror or str(error)).partition(" (while attempting")
        raise Unavailable(
            f"port {port} of {host} cannot be used: {reason}",
            hint=f"free it, or choose another: {option} 0 takes any free port",
        ) from None
    listening.setblocking(False)
    return listening


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches it."""
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://{reachable}:{port}"
