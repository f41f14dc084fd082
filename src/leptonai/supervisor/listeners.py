"""Who listens on a port: sockets by their inodes, and whose descriptors those are."""

import os
from collections.abc import Iterable
from contextlib import suppress

LISTENING = "0A"  # TCP_LISTEN of <net/tcp_states.h>, as /proc/net/tcp writes it


def sockets_on(port: int) -> frozenset[str] | None:
    """Those that a connection to one of this machine's IPv4 addresses may reach, as links of
    /proc/PID/fd name them. None where the kernel does not tell."""
    try:
        # Of one port, a socket of IPv4 goes before one that takes both.
        found = _listening("/proc/net/tcp", port)
    except OSError:
        return None
    if not found:
        with suppress(OSError):  # a kernel without IPv6
            found = _listening("/proc/net/tcp6", port)
    return found


def holds(pids: Iterable[int], sockets: frozenset[str]) -> bool | None:
    """Whether one of the processes has one of the sockets open. None: none of those that may be
    looked into has, and some may not be."""
    hidden = False
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        try:
            descriptors = os.listdir(directory)
        except PermissionError:
            hidden = True
            continue
        except OSError:
            continue  # it has ended
        for descriptor in descriptors:
            with suppress(OSError):
                if os.readlink(f"{directory}/{descriptor}") in sockets:
                    return True
    return None if hidden else False


def _listening(table: str, port: int) -> frozenset[str]:
    found = set()
    with open(table) as rows:
        next(rows, None)
        for row in rows:
            fields = row.split()
            if fields[3] != LISTENING:
                break  # those that listen come first; there may be thousands of connections
            if int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return frozenset(found)
