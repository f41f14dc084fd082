"""Asking a template for a copy: the other end of `template.py`."""

import asyncio
import json
import os
import socket
from contextlib import suppress
from typing import Any

from leptonai.supervisor.template import SOCKET, Request, peer_is_ours

CLAIMED_WITHIN_S = 1.0  # or the attempt is started without the template


class Copying:
    """A copy that has claimed its attempt."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def trouble(self) -> str | None:
        """Why it was not ready in time, and its command was run instead; "" if it was, None if
        nobody knows. Waits until it is clear."""
        try:
            told = await _told(self._reader)
        finally:
            self._writer.close()
        if told is None:
            return None
        return str(told.get("failed", ""))


async def ask(folder: str, request: Request) -> Copying | None:
    """Have the template of this folder run the request in a copy. None: it has not claimed it in
    time, and may still; whoever then starts it otherwise is as likely to be first."""
    try:
        async with asyncio.timeout(CLAIMED_WITHIN_S):
            reader, writer = await _connect(folder)
            try:
                writer.write(request.encode())
                await writer.drain()
                if await _told(reader) is not None:
                    return Copying(reader, writer)
            except BaseException:
                writer.close()
                raise
            writer.close()
    except (OSError, TimeoutError):
        pass
    return None


async def _connect(folder: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # By a descriptor of its folder: the name of a socket may only have some hundred bytes.
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A local socket takes a connection at once, or refuses it.
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(f"/proc/self/fd/{place}/{SOCKET}")
            if not peer_is_ours(connection):
                raise PermissionError
            return await asyncio.open_unix_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
    finally:
        os.close(place)


async def _told(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next thing it says, None where it says nothing more."""
    line = b""
    with suppress(OSError, ValueError):
        line = await reader.readline()
    with suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict):
            return told
    return None
