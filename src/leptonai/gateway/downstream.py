"""One connection of a client: reads requests, and gives their answers in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import httptools

from leptonai.errors import InvalidRequest, LeptonError, RequestError

from .answers import error_answer, head_too_large, head_too_slow
from .exchange import Exchange
from .head import Fields, read_request
from .known_heads import KnownRequest
from .limits import (
    BODY_BUFFER_BYTES,
    DRAIN_IDLE_S,
    LINGER_S,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
)

if TYPE_CHECKING:
    from .gateway import Gateway
    from .passage import Passage

NEVER = float("inf")


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_active",
        "_deaf",
        "_early",
        "_fields",
        "_head_bytes",
        "_in_head",
        "_known",
        "_known_passage",
        "_lingering",
        "_parser",
        "_passage",
        "_queue",
        "_quiet_bytes",
        "_read_paused",
        "_reading",
        "_resume_body",
        "_skip_head",
        "_starting",
        "_target",
        "_tunnel",
        "address",
        "deadline",
        "gateway",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.address = ""
        self.deadline = NEVER
        self.write_paused = False
        self._parser = httptools.HttpRequestParser(self)
        self._active: Exchange | None = None  # whose answer is next
        self._queue: deque[Exchange] = deque()  # pipelined behind it
        self._reading: Exchange | None = None  # whose body is being read
        self._starting = False
        self._in_head = False
        self._fields: Fields = []
        self._target = b""
        self._head_bytes = 0
        self._quiet_bytes = 0  # since the parser last told of something
        self._read_paused = False
        self._deaf = False  # what else comes is not read as HTTP
        self._tunnel = False
        self._lingering = False
        self._skip_head = False
        self._resume_body = b""
        self._passage: Passage | None = None  # of the head that was read last
        self._known: KnownRequest | None = None  # the last that came whole, at once …
        self._known_passage: Passage | None = None  # … and what it came to
        self._early = b""  # sent by the client before the replica agreed to a WebSocket

    # --- its transport tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        self.deadline = self.gateway.now() + self.gateway.limits.idle_s
        self.gateway.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.closed(self)
        self._deaf = True
        del self._parser  # which refers to us: no work for the garbage collector
        active, self._active = self._active, None
        if active is not None:
            active.abandon()
        while self._queue:
            self._queue.popleft().abandon()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            if self._tunnel:
                self._into_tunnel(data)
            return
        between = self._active is None and self._reading is None and not self._in_head
        if between and self._known is not None and self._asks_the_same(data, self._known):
            return
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._malformed(
                InvalidRequest(f"this is not HTTP: {error}", hint="send HTTP/1.1 as RFC 9112 says")
            )
        else:
            if between:
                self._remember(data)
        if self._quiet_bytes > MAX_HEAD_BYTES:
            self._malformed(head_too_large())
        if self._queue:
            self._start_queued(self.gateway.now())
        if self._active is not None:
            self._active.flush()
        self.balance_reading()

    def _asks_the_same(self, data: bytes, known: KnownRequest) -> bool:
        """Take a whole request whose head is known, if this is one."""
        gateway, passage = self.gateway, self._known_passage
        assert passage is not None
        found = known.body(data) if passage.table == gateway.tables else None
        if found is None:
            return False
        length, body = found
        now = gateway.now()
        exchange = Exchange(self, now)
        exchange.head_only = passage.head.method == b"HEAD"
        exchange.request_done = True
        gateway.enter(exchange, passage, length)
        if body and exchange.answer is None:
            exchange.put(body)
        self._active = exchange
        exchange.start(now)
        self.balance_reading()
        return True

    def _remember(self, data: bytes) -> None:
        """`data` was read from between two messages: it may have been one whole request."""
        passage, self._passage = self._passage, None
        if passage is None or self._reading is not None or self._in_head or self._deaf:
            return
        head = passage.head
        if not head.chunked:
            has_length = head.content_length is not None
            self._known = KnownRequest.of(data, has_length=has_length)
            self._known_passage = passage

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._active is not None and self._active.link is not None:
            self._active.link.transport.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._active is not None and self._active.link is not None:
            self._active.link.transport.resume_reading()

    # --- its parser tells ---

    def on_message_begin(self) -> None:
        if self._deaf or self._skip_head:
            return
        self._in_head = True
        self._fields = []
        self._target = b""
        self._head_bytes = 0
        if self._active is None:
            self.deadline = self.gateway.now() + self.gateway.limits.head_s

    def on_url(self, target: bytes) -> None:
        if self._in_head:
            self._target += target
            self._head_bytes += len(target)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._malformed(head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._quiet_bytes = 0
        if self._in_head:  # else it is a trailer, which concerns nobody behind us
            fields = self._fields
            fields.append((name, value))
            self._head_bytes = size = self._head_bytes + len(name) + len(value)
            if size > MAX_HEAD_BYTES or len(fields) > MAX_HEADERS:
                self._malformed(head_too_large())

    def on_headers_complete(self) -> None:
        self._quiet_bytes = 0
        if not self._in_head:
            return
        self._in_head = False
        self._passage = None  # of an earlier head it would let this one in
        parser = self._parser
        exchange = Exchange(self, self.gateway.now())
        try:
            version = parser.get_http_version()
            exchange.version_1_0 = version == "1.0"
            method = parser.get_method()
            exchange.head_only = method == b"HEAD"
            head = read_request(method, self._target, version, self._fields)
            exchange.close = not parser.should_keep_alive()
            if head.websocket and (self._active is not None or self._queue):
                raise InvalidRequest(
                    "a WebSocket handshake came behind another request",
                    hint="wait for the answer to that request first",
                )
            if parser.should_upgrade() and not head.websocket and head.has_body:
                self._resume_body = head.framing
        except RequestError as error:
            self._deaf = True
            exchange.close = True
            exchange.answer = error_answer(error)
        else:
            passage = self.gateway.admit(exchange, head)
            if passage is not None:
                self.gateway.enter(exchange, passage, head.content_length)
                if version == "1.1" and not exchange.close and passage.lasting:
                    self._passage = passage
            self._reading = exchange
        self._enqueue(exchange)

    def on_body(self, data: bytes) -> None:
        self._quiet_bytes = 0
        if self._reading is not None:
            self._reading.add_body(data)

    def on_message_complete(self) -> None:
        self._quiet_bytes = 0
        exchange = self._reading
        if exchange is None or self._resume_body:
            return
        self._reading = None
        exchange.end_body()
        if exchange.close:
            self._deaf = True

    # --- its exchanges tell ---

    def balance_reading(self) -> None:
        """Read on only while somebody takes what is read."""
        active = self._active
        if active is None:
            pause = bool(self._queue)
        elif self._tunnel:
            pause = active.blocked or len(self._early) > BODY_BUFFER_BYTES
        else:
            pause = bool(self._queue) or (self._reading is active and active.blocked)
        if pause is not self._read_paused:
            self._read_paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def next_exchange(self, finished: Exchange, now: float) -> None:
        assert finished is self._active
        self._active = None
        if finished.close:
            self._close_after(finished)
            return
        if self._queue:
            self._start_queued(now)
        if self._active is None and not self._lingering:
            limits = self.gateway.limits
            idle_s = DRAIN_IDLE_S if self.gateway.draining else limits.idle_s
            self.deadline = now + (limits.head_s if self._in_head else idle_s)
        self.balance_reading()

    def open_tunnel(self) -> None:
        """The replica has agreed to a WebSocket: from here on, bytes are bytes."""
        early, self._early = self._early, b""
        if early:
            self._into_tunnel(early)

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        if self._active is not None and not self._active.done:
            self._active.expire(now)
        elif self._in_head and not self._deaf:
            self._malformed(head_too_slow(self.gateway.limits.head_s))
            self._start_queued(now)
        else:
            self.transport.abort()

    def abort(self) -> None:
        self._deaf = True
        self.transport.abort()

    @property
    def resting(self) -> bool:
        return self._active is None and not self._in_head and not self._lingering

    # --- inside ---

    def _enqueue(self, exchange: Exchange) -> None:
        """Take its turn once all that came with it has been read."""
        self._queue.append(exchange)
        if len(self._queue) >= MAX_PIPELINED:
            # Closing after an answer tells the client to send the rest again (RFC 9112 §9.3.2).
            exchange.close = True
            self._deaf = self._reading is None

    def _start_queued(self, now: float) -> None:
        """A loop, since an exchange may end inside `start` and would have to start the next."""
        if self._starting:
            return
        self._starting = True
        while self._queue and self._active is None and not self._lingering:
            self._active = self._queue.popleft()
            self._active.start(now)
        self._starting = False

    def _malformed(self, error: LeptonError) -> None:
        """Nothing that follows can be understood: answer what can be, and close."""
        if self._deaf:
            return
        self._deaf = True
        self._in_head = False
        broken, self._reading = self._reading, None
        if broken is not None:
            if broken is self._active:
                broken.fail(error)
            else:
                broken.answer = error_answer(error)
                broken.close = True
            return
        exchange = Exchange(self, self.gateway.now())
        exchange.close = True
        exchange.answer = error_answer(error)
        self._enqueue(exchange)

    def _after_upgrade(self, rest: bytes) -> None:
        """The parser stops after a head that asks to change the protocol."""
        if self._deaf:
            return
        exchange = self._queue[-1]
        passage = exchange.passage
        if passage is not None and passage.head.websocket:
            self._deaf = self._tunnel = exchange.close = True
            self._early = rest
            return
        # Any other protocol is declined by answering as if it had not been asked for. A fresh
        # parser reads on; it is told of the body that the first one left unread.
        self._parser = httptools.HttpRequestParser(self)
        framing, self._resume_body = self._resume_body, b""
        if framing:
            self._skip_head = True
            self._parser.feed_data(framing)
            self._skip_head = False
        if rest:
            self.data_received(rest)

    def _into_tunnel(self, data: bytes) -> None:
        exchange = self._active
        if exchange is None or exchange.status != 101 or exchange.link is None:
            self._early += data  # not a byte to the replica before it has agreed
        else:
            assert exchange.endpoint is not None
            self.deadline = self.gateway.now() + exchange.endpoint.route.timeout_s
            exchange.link.transport.write(data)
        self.balance_reading()

    def _close_after(self, exchange: Exchange) -> None:
        self._deaf = True
        self._queue.clear()
        self._tunnel = False
        if exchange.request_done or exchange.status == 101:
            self.transport.close()
            return
        # Closing now would reset the connection, and the client would not see its answer.
        self._lingering = True
        self.deadline = self.gateway.now() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.balance_reading()
