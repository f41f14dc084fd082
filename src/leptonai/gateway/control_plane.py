"""How a gateway asks the control plane: one request a connection, with its own token."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import httptools

from leptonai.errors import InvalidRequest, Unavailable

ANSWER_S = 45.0  # for one answer; the control plane holds a poll for about 30 s
MAX_ANSWER_BYTES = 64 * 1024 * 1024

# What asking may end with.
FAILURES = (OSError, TimeoutError, EOFError, httptools.HttpParserError, Unavailable)


class ControlPlane:
    def __init__(self, url: str, token_file: Path) -> None:
        """
        Raises:
            InvalidRequest: the URL is no address of a control plane.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise InvalidRequest(
                f"{url!r} is no address of a control plane", hint="use http://HOST:PORT"
            )
        self._host = parts.hostname
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._token_file = token_file

    async def get(self, path: str) -> bytes | None:
        """The answer's body; None where there is none."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: bytes) -> None:
        await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: bytes) -> bytes | None:
        token = self._token_file.read_text().strip()  # each time: it may have been replaced
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(self._host, self._port)
            try:
                writer.write(
                    f"{method} {self._base}{path} HTTP/1.1\r\n"
                    f"host: {self._host}:{self._port}\r\nauthorization: Bearer {token}\r\n"
                    f"accept: application/json\r\nconnection: close\r\n".encode()
                )
                if body:
                    writer.write(
                        b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
                    )
                writer.write(b"\r\n" + body)
                answer = _Answer()
                while not answer.complete:
                    data = await reader.read(64 * 1024)
                    if not data:
                        raise EOFError("it closed the connection")
                    answer.feed(data)
            finally:
                writer.close()
        if answer.status == 204:
            return None
        if answer.status != 200:
            raise Unavailable(f"it answered with status {answer.status}")
        return b"".join(answer.body)


class _Answer:
    """Reads one answer of the control plane."""

    def __init__(self) -> None:
        self.status = 0
        self.body: list[bytes] = []
        self.complete = False
        self._size = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            raise Unavailable("it sent more than a route table")
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True
