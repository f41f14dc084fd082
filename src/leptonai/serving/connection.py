"""Connections to a photon: HTTP/1.1 for its handlers, with nothing between the socket and the app.

uvicorn listens, keeps the time and ends; it is told to make these connections in place of its own.
What needs all of ASGI, which is mounted applications, WebSockets and handlers that take the request
itself, goes on in a connection of uvicorn's: it gets the bytes that came.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools

from leptonai.serving.answers import NOTHING, Answer, problem, refusal
from leptonai.serving.app import App
from leptonai.serving.bodies import MAX_BODY_BYTES, too_large
from leptonai.serving.calls import ClientGone
from leptonai.serving.incoming import Fields, Received
from leptonai.serving.sending import Heads, Sending

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

MAX_HEAD_BYTES = 64 << 10  # of a head that comes in more than one read
MAX_PIPELINED = 64  # requests that wait behind the one being answered
TICK_S = 5.0  # how often silent connections are looked for
SILENT_TICKS = 12  # that a client may be silent within a request, or take for its head
JOINED_BYTES = 16 << 10  # a body up to this size is copied behind its head
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger("leptonai.serving")


class Connections:
    """Makes them, and holds what they share."""

    def __init__(self, app: App, keep_alive_s: float) -> None:
        self.app = app
        self.ticks = 0
        self.idle_ticks = int(keep_alive_s / TICK_S)
        self.open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "Connection":
        """As uvicorn calls the class of its connections."""
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        def uvicorns() -> asyncio.Protocol:
            return HttpToolsProtocol(config, server_state, app_state, _loop)

        return Connection(self, server_state, uvicorns)

    def opened(self, connection: "Connection") -> None:
        self.open.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """One look over all connections is cheaper than a timer for each request."""
        self.ticks += 1
        for connection in [each for each in self.open if each.overdue]:
            connection.transport.abort()
        self._timer = (
            asyncio.get_running_loop().call_later(TICK_S, self._tick) if self.open else None
        )


class Connection(asyncio.Protocol):
    """Reads requests, and answers them one after the other in the order in which they came."""

    transport: asyncio.Transport

    def __init__(
        self,
        shared: Connections,
        server_state: "ServerState",
        uvicorns: Callable[[], asyncio.Protocol],
    ) -> None:
        self.peer: tuple[str, int] | None = None
        self.writable = asyncio.Event()  # of one that was paused
        self.write_paused = False
        self._shared = shared
        self._app = shared.app
        self._state = server_state
        self._uvicorns = uvicorns
        self._parser = httptools.HttpRequestParser(self)
        self._heads = Heads(server_state)
        self._ready: deque[Received] = deque()  # read, and yet to be answered
        self._task: asyncio.Task[None] | None = None  # answers the one before those
        self._reading: Received | None = None  # its body is still coming
        self._body_bytes = 0
        self._in_head = False
        self._head = b""  # what came of the head that is coming, from its first byte on
        self._target = b""
        self._fields: Fields = {}
        self._first = False  # the head that is coming is the first of what was read
        self._read_paused = False
        self._deaf = False  # what else comes is not read
        self._lingering = False  # all that still comes is the client's end
        self._handing_over = False
        self._closing = False  # after the answers to what was read
        self._refusal: Answer | None = None  # of what was read last, and cannot be answered
        self._since = 0  # the tick of the last news
        self._lost = False
        self._gone: asyncio.Future[None] | None = None

    # --- its transport and its server tell ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        peer = transport.get_extra_info("peername")
        self.peer = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        self._since = self._shared.ticks
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._shared.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._lost = self._deaf = True
        self._ready.clear()
        self.write_paused = False
        self.writable.set()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        del self._parser  # which refers to us: no work for the garbage collector

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._in_head:
            self._head += data
        else:
            self._since = self._shared.ticks
            self._first = self._reading is None
            self._head = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # handed over, or declined by closing
        except httptools.HttpParserError as error:
            self._refuse(problem(400, f"this is not HTTP: {error}"))
        if self._handing_over:
            self._hand_over()
            return
        if not self._in_head:
            self._head = b""
        elif len(self._head) > MAX_HEAD_BYTES:
            self._refuse(problem(431, f"the head is larger than {MAX_HEAD_BYTES} bytes"))
        if self._task is None:
            self._next()
        elif self._ready and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.write_paused = True
        self.writable.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.writable.set()
        if self._task is None:
            self._next()

    def shutdown(self) -> None:
        """The server ends: no more requests after those that are here."""
        self._closing = True
        if self._idle and self._reading is None and not self._in_head:
            self.transport.close()

    @property
    def overdue(self) -> bool:
        silent = self._shared.ticks - self._since
        if self._lingering:
            return silent > 1
        if self._in_head or self._reading is not None:
            return silent > SILENT_TICKS and self._idle
        return silent > self._shared.idle_ticks and self._idle

    @property
    def _idle(self) -> bool:
        return self._task is None and not self._ready

    # --- its parser tells ---

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target = b""
        self._fields = {}

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer
            self._fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        parser, fields = self._parser, self._fields
        method = parser.get_method().decode("ascii")
        target = self._target
        request = Received(self, method, target, fields)
        if (
            parser.should_upgrade()
            or target[:1] != b"/"
            or b"#" in target
            or self._app.needs_asgi(method, request.path)
        ):
            self._deaf = True
            # Behind another request its first byte is not known: whoever sends several at once
            # sends what was not answered again, on a connection of its own.
            self._handing_over = self._first and self._idle
            self._closing = not self._handing_over
            return
        self._first = False
        request.version_1_0 = parser.get_http_version() != "1.1"
        request.keep_alive = parser.should_keep_alive() and not request.version_1_0
        self._reading = request
        self._body_bytes = 0
        length = fields.get(b"content-length")
        if length is not None and int(length) > MAX_BODY_BYTES:
            self._refuse(refusal(too_large()) or NOTHING)
        elif fields.get(b"expect", b"").lower() == b"100-continue" and self._idle:
            self.transport.write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self._reading is None:
            return
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(refusal(too_large()) or NOTHING)
        else:
            self._reading.add(data)

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, None
        if request is None:
            return
        self._ready.append(request)
        if not request.keep_alive or len(self._ready) > MAX_PIPELINED:
            request.keep_alive = False
            self._deaf = True

    # --- answering ---

    def _next(self) -> None:
        if self._ready:
            if not self.write_paused:
                request = self._ready.popleft()
                self._task = task = asyncio.get_running_loop().create_task(self._answer(request))
                self._state.tasks.add(task)
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self._write(refusal, head_only=False, keep_alive=False)
            self._linger()
        elif self._closing and self._reading is None:
            self.transport.close()
        elif self._read_paused and not self._deaf:
            self._read_paused = False
            self.transport.resume_reading()

    async def _answer(self, request: Received) -> None:
        began_s = time.perf_counter()
        app = self._app
        keep_alive = False
        try:
            answer = await app.answer(request, began_s)
            last = self._closing and not self._ready and self._refusal is None
            keep_alive = request.keep_alive and not last
            if self._lost:
                raise ClientGone
            if type(answer) is Answer:
                status = answer.status
                self._write(answer, head_only=request.method == "HEAD", keep_alive=keep_alive)
            else:
                sending = Sending(
                    self,
                    self._heads,
                    head_only=request.method == "HEAD",
                    keep_alive=keep_alive,
                    chunks=not request.version_1_0,
                )
                keep_alive = False  # unless it ends well
                status = await app.send_itself(answer, request, sending.send)
                keep_alive = sending.ended_well
            app.answered(request, status, began_s)
        except ClientGone:
            keep_alive = False
        except Exception:
            keep_alive = False  # all that can be said now
            log.exception("%s %s broke off", request.method, request.name)
        finally:
            task, self._task = self._task, None
            assert task is not None
            self._state.tasks.discard(task)
            self._state.total_requests += 1
            self._since = self._shared.ticks
            if not keep_alive:
                self._deaf = True
                self._ready.clear()
                self.transport.close()
            else:
                self._next()

    def _write(self, answer: Answer, *, head_only: bool, keep_alive: bool) -> None:
        body = answer.body
        write = self.transport.write
        if not answer.headers and keep_alive and answer.status != 204 and not head_only:
            start = self._heads.start(answer.status, answer.content_type)
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
            head = self._heads.encode(answer.status, headers, keep_alive=keep_alive)
        except ValueError as error:  # of what the handler made up
            log.error("an answer cannot be sent: %s", error)
            wrong = problem(500, "the handler's answer has a header that is none")
            self._write(wrong, head_only=head_only, keep_alive=keep_alive)
            return
        write(head)
        if not head_only and answer.status != 204:
            write(body)

    def _refuse(self, answer: Answer) -> None:
        """Answer so when all before has been answered, and close."""
        if not self._deaf:
            self._deaf = self._closing = True
            self._in_head = False
            self._reading = None
            self._refusal = answer

    async def gone(self) -> None:
        """Return when the client has hung up."""
        if self._lost:
            return
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._gone)

    def _linger(self) -> None:
        """Closing now would reset the connection, and the client would not see its answer."""
        self._lingering = True
        self._since = self._shared.ticks
        if self._read_paused:
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _hand_over(self) -> None:
        self._leave()
        protocol = self._uvicorns()
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(self._head)
        del self._parser

    def _leave(self) -> None:
        self._state.connections.discard(self)
        self._shared.open.discard(self)
