"""How answers are written: heads that are made once, and ASGI's messages as HTTP/1.1."""

import logging
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from leptonai.serving.answers import Answer, failure, problem
from leptonai.serving.incoming import Incoming
from leptonai.serving.responses import Message, Send
from leptonai.serving.streams import Stream

if TYPE_CHECKING:
    import asyncio

    from uvicorn.server import ServerState

    Lines = list[tuple[bytes, bytes]]

JOINED_BYTES = 16 << 10  # a body up to this size is copied behind its head
MAX_STARTS = 256  # heads that are kept made
NO_BODY = frozenset((204, 304))

log = logging.getLogger("leptonai.serving")

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


def write_whole(
    write: Callable[[bytes], None],
    heads: Heads,
    answer: Answer,
    *,
    head_only: bool,
    keep_alive: bool,
) -> None:
    body = answer.body
    if not answer.headers and keep_alive and answer.status != 204 and not head_only:
        start = heads.start(answer.status, answer.content_type)
        if len(body) <= JOINED_BYTES:
            write(b"%b%d\r\n\r\n%b" % (start, len(body), body))
            return
        write(b"%b%d\r\n\r\n" % (start, len(body)))
        write(body)
        return
    headers = [*answer.headers]
    if answer.status != 204:
        length = (b"content-length", b"%d" % len(body))
        headers = [(b"content-type", answer.content_type), length, *headers]
    try:
        head = heads.encode(answer.status, headers, keep_alive=keep_alive)
    except ValueError as error:  # of what the handler made up
        log.error("an answer cannot be sent: %s", error)
        wrong = problem(500, "the handler's answer has a header that is none")
        write_whole(write, heads, wrong, head_only=head_only, keep_alive=keep_alive)
        return
    write(head)
    if not head_only and answer.status != 204:
        write(body)


async def send_itself(
    answer: Any, request: Incoming, send: Send, more: Iterable[tuple[bytes, bytes]]
) -> int:
    """Have a stream, or an ASGI application, answer. Returns its status.

    Args:
        more: header lines.

    Raises:
        Exception: it failed after it began; then the server breaks off.
    """
    status = 0

    async def sending(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            if more:
                message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    try:
        if isinstance(answer, Stream):
            accept = request.fields.get(b"accept", b"")
            await answer.send(sending, request.receive, accept)
        else:
            await answer(request.scope, request.receive, sending)
    except Exception as error:
        if status:
            raise
        failed = failure(error, request.method, request.path)
        headers = [(b"content-type", failed.content_type), *failed.headers]
        await sending({"type": "http.response.start", "status": failed.status, "headers": headers})
        await send({"type": "http.response.body", "body": failed.body})
    return status


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
