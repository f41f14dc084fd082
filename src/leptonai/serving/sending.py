"""How answers are written: heads that are made once, and ASGI's messages as HTTP/1.1."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from leptonai.serving.responses import Message

if TYPE_CHECKING:
    import asyncio

    from uvicorn.server import ServerState

    Lines = list[tuple[bytes, bytes]]

MAX_STARTS = 256  # heads that are kept made
NO_BODY = frozenset((204, 304))
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110's token
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # in a value
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Heads:
    """Of the answers of one server; its own header lines, Date among them, change once a second."""

    def __init__(self, state: "ServerState") -> None:
        self._state = state
        self._of: Lines = []  # the server's own lines that `_starts` were made of
        self._starts: dict[tuple[int, bytes], bytes] = {}

    def start(self, status: int, content_type: bytes) -> bytes:
        """A head up to the number of its length."""
        if self._of is not self._state.default_headers or len(self._starts) > MAX_STARTS:
            self._of = self._state.default_headers
            self._starts.clear()
        start = self._starts.get((status, content_type))
        if start is None:
            kind = ((b"content-type", content_type),)
            start = self.encode(status, kind, keep_alive=True)[:-2] + b"content-length: "
            self._starts[status, content_type] = start
        return start

    def encode(
        self, status: int, lines: Iterable[tuple[bytes, bytes]], *, keep_alive: bool
    ) -> bytes:
        """
        Raises:
            ValueError: a line would end early, or begin another one.
        """
        head = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b""))]
        for name, value in (*self._state.default_headers, *lines):
            if not _NAME.fullmatch(name) or _FORBIDDEN.search(value):
                raise ValueError(f"this is no header: {name!r}: {value!r}")
            head.append(b"%b: %b" % (name, value))
        if not keep_alive:
            head.append(b"connection: close")
        return b"\r\n".join(head) + b"\r\n\r\n"


class Writer(Protocol):
    transport: "asyncio.Transport"
    write_paused: bool
    writable: "asyncio.Event"


class Sending:
    """ASGI's `send` for one answer."""

    def __init__(
        self, writer: Writer, heads: Heads, *, head_only: bool, keep_alive: bool, chunks: bool
    ) -> None:
        """
        Args:
            chunks: the client understands them; an answer without length ends with its connection
                otherwise.
        """
        self.ended_well = False  # and the connection can go on
        self._writer = writer
        self._heads = heads
        self._head_only = head_only
        self._keep_alive = keep_alive
        self._chunks = chunks
        self._left: int | None = None  # of the body, where its length was said
        self._chunking = False
        self._started = False

    async def send(self, message: Message) -> None:
        """
        Raises:
            RuntimeError: a message that cannot come now, or a body that is not as long as was said.
        """
        writer = self._writer
        if writer.write_paused:
            await writer.writable.wait()
        if writer.transport.is_closing():
            return
        if not self._started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"{message['type']} came before http.response.start")
            self._started = True
            writer.transport.write(self._start(message["status"], message.get("headers", ())))
        elif message["type"] != "http.response.body" or self.ended_well:
            raise RuntimeError(f"{message['type']} cannot come here")
        else:
            self._send_body(message.get("body", b""), last=not message.get("more_body", False))

    def _start(self, status: int, lines: Iterable[tuple[bytes, bytes]]) -> bytes:
        kept = []
        for name, value in lines:
            name = name.lower()
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection":
                if b"close" in value.lower():
                    self._keep_alive = False
                continue
            elif name == b"transfer-encoding":
                continue  # ours to say
            kept.append((name, bytes(value)))
        bodiless = self._head_only or status in NO_BODY
        if bodiless:
            self._left = 0
        elif self._left is None:
            self._chunking = self._chunks
            if self._chunking:
                kept.append((b"transfer-encoding", b"chunked"))
            else:
                self._keep_alive = False
        return self._heads.encode(status, kept, keep_alive=self._keep_alive)

    def _send_body(self, body: bytes, *, last: bool) -> None:
        write = self._writer.transport.write
        if self._chunking:
            if body:
                write(b"%x\r\n%b\r\n%b" % (len(body), body, b"0\r\n\r\n" if last else b""))
            elif last:
                write(b"0\r\n\r\n")
        elif self._left is None:
            write(body)
        elif not self._head_only:
            self._left -= len(body)
            if self._left < 0:
                raise RuntimeError("the body is longer than was said")
            write(body)
        if last:
            if self._left:
                raise RuntimeError("the body is shorter than was said")
            self.ended_well = self._keep_alive
