"""Connections to a photon: HTTP/1.1 for its handlers, with nothing between the socket and the app.

uvicorn listens, keeps the time and ends; it is told to make these connections in place of its own.
What needs all of ASGI, which is mounted applications, WebSockets and handlers that take the request
itself, goes on in a connection of uvicorn's: it gets the bytes that came.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import httptools

from leptonai.serving.answers import NOTHING, Answer, problem, refusal
from leptonai.serving.app import App
from leptonai.serving.bodies import MAX_BODY_BYTES, too_large
from leptonai.serving.calls import ClientGone, TasklessCall
from leptonai.serving.incoming import Fields, Received
from leptonai.serving.sending import Heads, Sending, write_whole

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

MAX_HEAD_BYTES = 64 << 10  # of a head that comes in more than one read
MAX_PIPELINED = 64  # requests that wait behind the one being answered
TICK_S = 5.0  # how often silent connections are looked for
SILENT_TICKS = 12  # that a client may be silent within a request, or take for its head
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
        # What answers the one before those, and that one with the time it began.
        self._answering: asyncio.Task[None] | TasklessCall | None = None
        self._request: Received | None = None
        self._began_s = 0.0
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
        if self._answering is None:
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
        if self._answering is None:
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
        return self._answering is None and not self._ready

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
                self._begin(self._ready.popleft())
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self._write(refusal, head_only=False, keep_alive=False)
            self._linger()
        elif self._closing and self._reading is None:
            self.transport.close()
        elif self._read_paused and not self._deaf:
            self._read_paused = False
            self.transport.resume_reading()

    def _begin(self, request: Received) -> None:
        self._request = request
        self._began_s = began_s = time.perf_counter()
        call = self._app.begin(request, began_s, self._told)
        if call is None:
            self._go_on(self._app.answer(request, began_s))
        else:
            self._answering = call
            self._state.tasks.add(call)  # type: ignore[arg-type]  # it is cancelled as a task is

    def _go_on(self, answering: Coroutine[Any, Any, Any]) -> None:
        self._answering = task = asyncio.get_running_loop().create_task(self._answer(answering))
        self._state.tasks.add(task)

    def _told(self, result: Any, error: BaseException | None) -> None:
        """How a call without a task ended."""
        request = self._request
        assert request is not None
        keep_alive = False
        try:
            answer = self._app.told(request, result, error)
            if type(answer) is not Answer:
                self._state.tasks.discard(self._answering)
                self._go_on(self._app.begun(answer, request, self._began_s))
                return
            keep_alive = self._send(request, answer)
        except (ClientGone, asyncio.CancelledError):
            pass
        except Exception:
            log.exception("%s %s broke off", request.method, request.name)
        self._answered(keep_alive)

    async def _answer(self, answering: Coroutine[Any, Any, Any]) -> None:
        request = self._request
        assert request is not None
        keep_alive = False
        try:
            answer = await answering
            if type(answer) is Answer:
                keep_alive = self._send(request, answer)
            else:
                keep_alive = await self._send_itself(request, answer)
        except ClientGone:
            pass
        except Exception:
            log.exception("%s %s broke off", request.method, request.name)
        finally:
            self._answered(keep_alive)

    def _send(self, request: Received, answer: Answer) -> bool:
        """Returns whether another request may follow.

        Raises:
            ClientGone: it cannot be sent.
        """
        keep_alive = self._keeps_alive(request)
        self._write(answer, head_only=request.method == "HEAD", keep_alive=keep_alive)
        self._app.answered(request, answer.status, self._began_s)
        return keep_alive

    async def _send_itself(self, request: Received, answer: Any) -> bool:
        sending = Sending(
            self,
            self._heads,
            head_only=request.method == "HEAD",
            keep_alive=self._keeps_alive(request),
            chunks=not request.version_1_0,
        )
        status = await self._app.send_itself(answer, request, sending.send)
        self._app.answered(request, status, self._began_s)
        return sending.ended_well

    def _keeps_alive(self, request: Received) -> bool:
        if self._lost:
            raise ClientGone
        last = self._closing and not self._ready and self._refusal is None
        return request.keep_alive and not last

    def _answered(self, keep_alive: bool) -> None:
        task, self._answering, self._request = self._answering, None, None
        assert task is not None
        self._state.tasks.discard(task)
        self._state.total_requests += 1
        self._since = self._shared.ticks
        if keep_alive:
            self._next()
        else:
            self._deaf = True
            self._ready.clear()
            self.transport.close()

    def _write(self, answer: Answer, *, head_only: bool, keep_alive: bool) -> None:
        write_whole(
            self.transport.write, self._heads, answer, head_only=head_only, keep_alive=keep_alive
        )

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
