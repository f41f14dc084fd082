"""Handing the listening socket to whoever comes next, so that no caller is ever refused.

A gateway that takes callers can be asked for its socket, at a Unix socket that only its own user
may reach. That connection, and the one to its starter, end when it takes no more callers: whoever
sees that starts the next gateway, which accepts on the same socket while this one drains.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

MAX_WAITING = 8


class Handover:
    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        self._loop = loop
        self._listener = listener
        self._watchers: list[socket.socket] = []  # they see us close
        self._door: socket.socket | None = None
        self._path: Path | None = None
        self._inode = 0

    def tell(self, watcher: socket.socket) -> None:
        """Also let this one know when no more callers are taken."""
        self._watchers.append(watcher)

    def open(self, path: Path) -> None:
        """
        Raises:
            OSError: nobody can ask for the socket; all else works.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A Unix socket's path may have 108 bytes; one by way of a descriptor always fits.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            with suppress(FileNotFoundError):
                path.unlink()  # of the gateway before us, which needs it no more
            door.bind(f"/proc/self/fd/{folder}/{path.name}")
            path.chmod(0o600)
            door.listen(MAX_WAITING)
            door.setblocking(False)
        except OSError:
            door.close()
            raise
        finally:
            os.close(folder)
        self._door, self._path, self._inode = door, path, path.stat().st_ino
        self._loop.add_reader(door.fileno(), self._answer)

    def close(self) -> None:
        """No more callers are taken."""
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()
        if self._door is not None and self._path is not None:
            self._loop.remove_reader(self._door.fileno())
            self._door.close()
            self._door = None
            with suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()

    def _answer(self) -> None:
        assert self._door is not None
        try:
            asker, _ = self._door.accept()
        except OSError:
            return
        _, user, _ = struct.unpack(
            "3i", asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
        if user != os.getuid():
            asker.close()
            return
        try:
            socket.send_fds(asker, [b"\0"], [self._listener.fileno()])
        except OSError:
            asker.close()
            return
        if len(self._watchers) >= MAX_WAITING:
            self._watchers.pop(1).close()
        self._watchers.append(asker)
