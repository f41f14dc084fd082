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
        raise _taken(host, port, option, error) from None
    listening.setblocking(False)
    return listening


def reserve(host: str, port: int, option: str) -> socket.socket:
    """A socket that keeps a port for a program that will bind it again, with SO_REUSEPORT."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections of whoever listened there before may still be in TIME_WAIT.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((host, port))
    except OSError as error:
        reserved.close()
        raise _taken(host, port, option, error) from None
    return reserved


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches it."""
    reachable = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    return f"http://{reachable}:{port}"


def _taken(host: str, port: int, option: str, error: OSError) -> Unavailable:
    reason, _, _ = (error.strerror or str(error)).partition(" (while attempting")
    return Unavailable(
        f"port {port} of {host} cannot be used: {reason}",
        hint=f"free it, or choose another: {option} 0 takes any free port",
    )
