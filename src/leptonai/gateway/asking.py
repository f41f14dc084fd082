"""One HTTP request on a connection of its own: for what a gateway asks of others."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import httptools

from leptonai.errors import Unavailable

# What asking may end with.
FAILURES = (OSError, TimeoutError, EOFError, httptools.HttpParserError, Unavailable)


async def ask(
    method: str,
    host: str,
    port: int,
    path: str,
    *,
    headers: Mapping[str, str],
    body: bytes = b"",
    tls: ssl.SSLContext | None = None,
    within_s: float,
    most_bytes: int,
    at: str = "",
) -> tuple[int, bytes]:
    """The status, and the body of the answer.

    Args:
        at: the path of a Unix socket, in place of a connection to the host.

    Raises:
        OSError, TimeoutError, EOFError, httptools.HttpParserError: there is none, or it is no HTTP.
        Unavailable: it is larger than it may be.
    """
    async with asyncio.timeout(within_s):
        if at:
            reader, writer = await asyncio.open_unix_connection(at)
        else:
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            lines = [f"{method} {path} HTTP/1.1", f"host: {host}:{port}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            if body:
                lines.append(f"content-length: {len(body)}")
            writer.write("\r\n".join([*lines, "\r\n"]).encode() + body)
            answer = _Answer(most_bytes)
            while not answer.complete:
                data = await reader.read(64 * 1024)
                if not data:
                    raise EOFError("it closed the connection")
                answer.feed(data)
        finally:
            writer.close()
    return answer.status, b"".join(answer.body)


class _Answer:
    def __init__(self, most_bytes: int) -> None:
        self.status = 0
        self.body: list[bytes] = []
        self.complete = False
        self._left = most_bytes
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise Unavailable("it sent more than was asked for")
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True
