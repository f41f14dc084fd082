"""Requests that go on to a server which only the platform can reach, and its answers.

Nothing of a request gets there but what is listed here, in a framing of our own, over a connection
for it alone: so no header, and no second request behind the first, is smuggled past who was asked
whether it may.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import httptools

from leptonai.errors import LeptonError, RequestError, TooManyRequests, Unavailable

MAX_AT_ONCE = 200  # requests and connections
CONNECT_S = 10.0
ANSWER_S = 120.0  # from the request's end to the answer's head
QUIET_S = 120.0  # of whoever is to send, or to take, what is under way
LINGER_S = 10.0  # of what was written last, before a connection is broken off
LONGEST_S = 86_400.0  # of a connection
MAX_HEAD_BYTES = 64 << 10
PIECE_BYTES = 64 << 10

SENT = frozenset(
    (
        *(b"accept", b"accept-encoding", b"accept-language", b"content-encoding", b"content-type"),
        *(b"if-modified-since", b"if-none-match", b"range", b"user-agent"),
    )
)
OF_WEBSOCKETS = frozenset(
    f"sec-websocket-{name}".encode() for name in ("extensions", "key", "protocol", "version")
)
ANSWERED = frozenset(
    (
        *(b"accept-ranges", b"cache-control", b"content-disposition", b"content-encoding"),
        *(b"content-length", b"content-range", b"etag", b"last-modified", b"vary"),
    )
)
ANSWERED_TO_UPGRADES = frozenset(
    f"sec-websocket-{name}".encode() for name in ("accept", "extensions", "protocol")
)
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"/[!-~]*")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ClientStalled(RequestError):
    code, status = "RequestTimeout", 408


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    token: str = field(repr=False)  # that it knows us by
    name: str  # for people


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: bytes  # with the query
    headers: tuple[tuple[bytes, bytes], ...]  # as they came
    body: AsyncIterator[bytes] | None = None
    length: int | None = None  # of the body, where it is known
    upgrades: bool = False  # to a WebSocket


class Relays:
    """All that are under way."""

    def __init__(self) -> None:
        self.under_way = 0

    async def ask(self, target: Target, asked: Asked) -> "Relay":
        """The answer's head.

        Raises:
            Unavailable: the target does not answer, or not in HTTP.
            TooManyRequests: so many are under way already.
            ClientStalled: whoever asks does not send what was announced.
        """
        if self.under_way >= MAX_AT_ONCE:
            raise TooManyRequests(
                f"{MAX_AT_ONCE} requests to dashboards are under way", hint="Ask again shortly."
            )
        self.under_way += 1
        relay = Relay(target, self._over)
        try:
            await relay.begin(asked)
        except BaseException:
            relay.close()
            raise
        return relay

    def _over(self) -> None:
        self.under_way -= 1


class Relay:
    """One request and its answer. Belongs to whoever asked, until closed."""

    def __init__(self, target: Target, over: Callable[[], None]) -> None:
        self._target = target
        self._over: Callable[[], None] | None = over
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answer = _Answer()
        self._method = ""
        self._waits: asyncio.TimerHandle | None = None  # for who takes what was read

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def upgraded(self) -> bool:
        return self.status == 101

    @property
    def media(self) -> str:
        told = dict(self._answer.headers).get(b"content-type", b"application/octet-stream")
        return told.decode("latin-1")

    def headers(self, kept: frozenset[bytes]) -> tuple[tuple[bytes, bytes], ...]:
        return _kept(self._answer.headers, kept)

    async def begin(self, asked: Asked) -> None:
        self._method = asked.method
        try:
            async with asyncio.timeout(CONNECT_S):
                self._reader, self._writer = await asyncio.open_connection(
                    self._target.host, self._target.port, limit=PIECE_BYTES
                )
            self._writer.write(request_head(self._target, asked))
            sending = asyncio.create_task(self._send_body(asked))
            answering = asyncio.create_task(self._read_head())
            try:
                # It may answer before it has read everything: that it is too large, say.
                await asyncio.wait((sending, answering), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    with contextlib.suppress(OSError):  # its answer may be that it is too much
                        await sending
                    async with asyncio.timeout(ANSWER_S):
                        await answering
                answering.result()
                if self.upgraded and not asked.upgrades:
                    raise EOFError("it speaks of an upgrade that nobody asked for")
            finally:
                for task in (sending, answering):
                    task.cancel()
                await asyncio.gather(sending, answering, return_exceptions=True)
        except LeptonError:
            raise
        except (OSError, TimeoutError, EOFError, httptools.HttpParserError) as error:
            raise self._unavailable(error) from error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The answer's body, as it comes. One that ends too early raises, and one that nobody
        takes is given up."""
        self._stop_waiting()
        answer = self._answer
        while not answer.pieces:
            if answer.complete or self._method == "HEAD":
                raise StopAsyncIteration
            try:
                async with asyncio.timeout(QUIET_S):
                    more = await self._read()
                if not more and not answer.ends_with_connection:
                    raise EOFError("it broke its answer off")
            except (OSError, TimeoutError, EOFError, httptools.HttpParserError) as error:
                raise self._unavailable(error) from error
            if not more:
                raise StopAsyncIteration
        self._waits = asyncio.get_running_loop().call_later(QUIET_S, self.close)
        return answer.pieces.pop(0)

    async def aclose(self) -> None:
        self.close()

    async def join(self, client: Streams) -> None:
        """Hand bytes over in both directions until either side has ended, or for a day."""
        assert self._reader is not None and self._writer is not None
        reader, writer = client
        try:
            writer.write(self._switching() + self._answer.beyond)
            pumps = [
                asyncio.create_task(_pump(reader, self._writer)),
                asyncio.create_task(_pump(self._reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, timeout=LONGEST_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            _let_go(writer)
            self.close()

    def close(self) -> None:
        self._stop_waiting()
        if self._writer is not None:
            _let_go(self._writer)
        if self._over is not None:
            self._over()
            self._over = None

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None

    def _switching(self) -> bytes:
        lines = [b"HTTP/1.1 101 Switching Protocols", b"connection: upgrade", b"upgrade: websocket"]
        lines += [name + b": " + value for name, value in self.headers(ANSWERED_TO_UPGRADES)]
        return b"\r\n".join([*lines, b"", b""])

    async def _send_body(self, asked: Asked) -> None:
        if asked.body is None or self._writer is None:
            return
        pieces = aiter(asked.body)
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise ClientStalled(
                    f"nothing of the body came for {QUIET_S:g} s", hint="Send it again."
                ) from None
            if piece is None:
                break
            self._writer.write(piece if asked.length is not None else _chunk(piece))
            async with asyncio.timeout(QUIET_S):
                await self._writer.drain()
        if asked.length is None:
            self._writer.write(b"0\r\n\r\n")

    async def _read_head(self) -> None:
        while not self._answer.begun:
            if not await self._read():
                raise EOFError("it closed the connection")
            if self._answer.head_bytes > MAX_HEAD_BYTES:
                raise EOFError("its answer has too large a head")

    async def _read(self) -> bool:
        assert self._reader is not None
        data = await self._reader.read(PIECE_BYTES)
        if data:
            self._answer.feed(data)
        return bool(data)

    def _unavailable(self, error: BaseException) -> Unavailable:
        return Unavailable(
            f"{self._target.name} does not answer: {error or type(error).__name__}",
            hint="Ask again shortly.",
        )


def request_head(target: Target, asked: Asked) -> bytes:
    """What is sent of a request before its body."""
    assert _TARGET.fullmatch(asked.path), asked.path
    lines = [
        b"%s %s HTTP/1.1" % (asked.method.encode(), asked.path),
        f"host: {target.host}:{target.port}".encode(),
        b"authorization: Bearer " + target.token.encode(),
    ]
    lines += [name + b": " + value for name, value in _kept(asked.headers, SENT)]
    if asked.upgrades:
        lines += [b"connection: upgrade", b"upgrade: websocket"]
        lines += [name + b": " + value for name, value in _kept(asked.headers, OF_WEBSOCKETS)]
    else:
        lines.append(b"connection: close")
    if asked.body is not None:
        if asked.length is None:
            lines.append(b"transfer-encoding: chunked")
        else:
            lines.append(b"content-length: %d" % asked.length)
    return b"\r\n".join([*lines, b"", b""])


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """A peer that vanished without a word is found out by the kernel."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _kept(
    headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]
) -> tuple[tuple[bytes, bytes], ...]:
    """Each once: of two that are alike, servers differ in which one they believe."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.lower() in names and _VALUE.fullmatch(value):
            found.setdefault(name.lower(), value)
    return tuple(found.items())


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            async with asyncio.timeout(QUIET_S):
                await writer.drain()


def _let_go(writer: asyncio.StreamWriter) -> None:
    """Close it, even if the other side takes nothing any more."""
    if not writer.is_closing():
        writer.close()
        asyncio.get_running_loop().call_later(LINGER_S, writer.transport.abort)


class _Answer:
    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.begun = False  # its head is complete
        self.complete = False
        self.head_bytes = 0
        self.beyond = b""  # of what follows an upgrade
        self._parser = httptools.HttpResponseParser(self)

    @property
    def ends_with_connection(self) -> bool:
        names = {name for name, _ in self.headers}
        return not names & {b"content-length", b"transfer-encoding"}

    def feed(self, data: bytes) -> None:
        if not self.begun:
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.beyond = data[upgrade.args[0] :]

    def on_message_begin(self) -> None:
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.begun = self.status >= 200 or self.status == 101

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = self.begun
