"""What a connection to the API may cost before anybody knows who asks: uvicorn bounds neither the
size of a request's head nor how long it takes, nor how many connections there are."""

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from leptonai.control.api.routing import UPGRADE, Streams

MAX_HEAD_BYTES = 128 << 10  # or of what follows a body; the API refuses smaller ones in words
HEAD_S = 10.0  # from the connection, or the first byte of the next request, to the head's end
MAX_CONNECTIONS = 10_000
FILES_FOR_CONNECTIONS = 0.5  # of those that this process may open

_TOO_LARGE = b"HTTP/1.1 431 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedConnection(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, within bounds."""

    _fruitless = 0  # bytes read since the last that were the end of a head, or of a body
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > max_connections():
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._fruitless += len(data)
        super().data_received(data)
        if self._fruitless > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def take_over(self) -> Streams:
        """The bytes of a connection whose request asked for a WebSocket, from here on: who did
        sends nothing before the answer. HTTP is over on it: nobody else reads, writes, counts or
        closes it any more."""
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self.cycle.disconnected = True  # nothing more is to be sent as an answer
        reader = asyncio.StreamReader(loop=self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        if self.transport.is_closing():  # which was told to us alone
            protocol.connection_lost(None)
        return reader, asyncio.StreamWriter(self.transport, protocol, reader, self.loop)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what follows a body proves nothing any more
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._fruitless = 0
        self._stop_waiting()
        super().on_headers_complete()
        if self._get_upgrade() == b"websocket":
            self.scope["extensions"] = {UPGRADE: {"take_over": self.take_over}}

    def _unsupported_upgrade_warning(self) -> None:
        """It is answered as the request that it is, or taken over."""

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._fruitless = 0
        super().on_message_complete()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def max_connections() -> int:
    """So many that this process always has files left for its own work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, int(soft * FILES_FOR_CONNECTIONS))
