"""One connection to a replica: sends requests one after the other and passes their answers on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httptools

from . import events
from .head import LAST_CHUNK, Fields, ResponseHead, chunk, value_of
from .limits import MAX_HEAD_BYTES, MAX_HEADERS

if TYPE_CHECKING:
    from .exchange import Exchange
    from .gateway import Gateway
    from .observers import Observer
    from .target import Target

NO_BODY = frozenset((204, 304))


class ReplicaConnection(asyncio.Protocol):
    __slots__ = (
        "_body_until_close",
        "_chunking",
        "_ended",
        "_fields",
        "_head_bytes",
        "_head_only",
        "_interim",
        "_known_as",
        "_muted",
        "_observers",
        "_out",
        "_parser",
        "_poisoned",
        "_quiet_bytes",
        "_reason",
        "_reusable",
        "_too_large",
        "answered",
        "bytes_sent",
        "exchange",
        "gateway",
        "idle_since",
        "served",
        "target",
        "transport",
        "tunnel",
        "unproven",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway, target: Target) -> None:
        self.gateway = gateway
        self.target = target
        self.exchange: Exchange | None = None
        self.served = 0  # answers it has given
        self.bytes_sent = False  # of the present request
        self.answered = False  # a byte of the present answer has come
        self.write_paused = False
        self.tunnel = False  # after 101: bytes, not messages
        self.idle_since = 0.0  # 0.0 while it is not idle
        self.unproven = False  # the replica may not have accepted it yet
        self._parser = httptools.HttpResponseParser(self)
        self._out: list[bytes] = []
        self._fields: Fields = []
        self._reason = b""
        self._quiet_bytes = 0  # since the parser last told of something
        self._head_bytes = 0
        self._too_large = False
        self._ended = False
        self._poisoned = False  # more came than was asked for
        self._reusable = False
        self._interim = False
        self._known_as: tuple[int, bytes] | None = None  # what can be learnt of the answer
        self._chunking = False
        self._head_only = False
        self._observers: tuple[Observer, ...] = ()
        self._muted = False  # the answer's body is not passed on
        self._body_until_close = False

    # --- its exchange tells ---

    def serve(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.bytes_sent = self.answered = self._ended = self._muted = False
        self._head_only = exchange.head_only
        self._observers = exchange.observers

    def rest(self, now: float) -> None:
        """Go on with a request that waits for a connection, or wait for one, or close."""
        self.exchange = None
        target = self.target
        waiting = target.next_waiting()
        if waiting is not None:
            waiting.attach(self)
        elif self.gateway.draining or not target.keep(self, now):
            self.transport.close()

    def close_idle(self) -> None:
        self._forget_idle()
        self.transport.close()

    def _forget_idle(self) -> None:
        if self.idle_since:
            self.idle_since = 0.0
            self.target.idle.remove(self)

    # --- its transport tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.exchange is not None:
            self.exchange.client.balance_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.exchange is not None:
            self.exchange.client.balance_reading()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # nobody asked
            self.transport.abort()
            return
        client = exchange.client
        if self.tunnel:
            client.deadline = self.gateway.now() + exchange.endpoint.route.timeout_s  # type: ignore[union-attr]
            client.transport.write(data)
            return
        if not self.answered:
            self.answered = True
            if exchange.hedge is not None:
                exchange.hedge.answered(self)
            self._known_as = None
            known = self.gateway.answer_heads.of(data)
            if known is not None and self._passes_whole(exchange):
                exchange.status, answer = known
                exchange.responding = True
                client.transport.write(answer)
                self._reusable = True
                self._finish(exchange)
                return
            whole = True  # if the answer ends with it
        else:
            whole = False
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._ended:
                self._open_tunnel(exchange, data[upgrade.args[0] :])
                return
        except httptools.HttpParserError as error:
            if not self._ended:
                if whole:  # its head came along, and has not gone on to the client
                    exchange.responding = False
                self._garbled(exchange, str(error))
                return
            self._poisoned = True
        if self._too_large or self._quiet_bytes > MAX_HEAD_BYTES:
            self._garbled(exchange, "its head is too large")
            return
        out = self._out
        if out:
            client.transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
        if self._ended:
            if whole and self._known_as is not None and not self._poisoned:
                self.gateway.answer_heads.learn(data, *self._known_as)
            self._finish(exchange)
        elif self.exchange is exchange:
            client.deadline = (
                self.gateway.now() + exchange.endpoint.route.timeout_s  # type: ignore[union-attr]
                if exchange.responding
                else exchange.deadline
            )

    def _passes_whole(self, exchange: Exchange) -> bool:
        """Whether a keep-alive answer of known length reaches the client unchanged."""
        return (
            exchange.plain
            and exchange.request_done
            and not exchange.close
            and not self.gateway.draining
        )

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        del self._parser  # which refers to us: no work for the garbage collector
        self.target.proven(self)
        if exchange is None:
            self._forget_idle()
        elif self.tunnel:
            exchange.finish(self.gateway.now())
        elif self._body_until_close and exc is None:
            if self._chunking:
                exchange.client.transport.write(LAST_CHUNK)
            exchange.finish(self.gateway.now())
        else:
            exchange.lost(self, "closed the connection before it had answered")

    # --- its parser tells ---

    def on_message_begin(self) -> None:
        if self._ended:
            self._poisoned = True
        self._fields = []
        self._head_bytes = 0
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._quiet_bytes = 0
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= MAX_HEAD_BYTES and len(self._fields) < MAX_HEADERS:
            self._fields.append((name, value))
        else:
            self._too_large = True

    def on_headers_complete(self) -> None:
        self._quiet_bytes = 0
        exchange = self.exchange
        if exchange is None or self._ended or self._too_large:
            return
        status = self._parser.get_status_code()
        head = ResponseHead(status, self._reason, self._fields)
        if status < 200:
            self._interim = True
            if not exchange.version_1_0 and (status != 101 or exchange.passage.head.websocket):  # type: ignore[union-attr]
                more = b"connection: Upgrade\r\nupgrade: websocket\r\n" if status == 101 else b""
                self._out.append(head.encode(more))
            return
        if exchange.events:
            self._continue_events(exchange, head, status)
            return
        close = exchange.close or not exchange.request_done or self.gateway.draining
        length = head.content_length
        ours = exchange.answer_lines()
        self._chunking = self._body_until_close = False
        if not self._head_only and status not in NO_BODY and length is None:
            self._body_until_close = not head.transfer_encoding
            if exchange.version_1_0:
                close = True
            else:
                self._chunking = True
                ours += b"transfer-encoding: chunked\r\n"
        if close:
            exchange.close = True
            ours += b"connection: close\r\n"
        elif exchange.version_1_0:
            ours += b"connection: keep-alive\r\n"
        encoded = head.encode(ours)
        self._out.append(encoded)
        self._reusable = self._parser.should_keep_alive()
        if not ours and length is not None and self._reusable and status not in NO_BODY:
            self._known_as = status, encoded
        exchange.status = status
        exchange.responding = True
        if self._head_only:
            self._ended = True

    def on_body(self, data: bytes) -> None:
        self._quiet_bytes = 0
        if not self._ended and not self._muted:
            self._out.append(chunk(data) if self._chunking else data)
            for observer in self._observers:
                observer.body(data)

    def on_message_complete(self) -> None:
        self._quiet_bytes = 0
        if self._interim:
            self._interim = False
        elif not self._ended:
            self._ended = True
            if self._muted:
                self._out.append(events.failed(b'{"status":%d}' % self._parser.get_status_code()))
            if self._chunking:
                self._out.append(LAST_CHUNK)

    def _continue_events(self, exchange: Exchange, head: ResponseHead, status: int) -> None:
        """The client was told of its wait in an event stream: the answer goes on in it, if it is
        one, and else becomes an event that says with which status it failed."""
        kind = value_of(head.fields, b"content-type").lower()
        self._muted = status != 200 or not kind.startswith(b"text/event-stream")
        self._chunking = True
        self._body_until_close = head.content_length is None and not head.transfer_encoding
        self._reusable = self._parser.should_keep_alive()
        exchange.status = status
        exchange.responding = True

    def _open_tunnel(self, exchange: Exchange, rest: bytes) -> None:
        if not exchange.passage.head.websocket:  # type: ignore[union-attr]
            self._garbled(exchange, "it switched to another protocol unasked")
            return
        self.tunnel = True
        exchange.status = 101
        exchange.responding = exchange.close = True
        exchange.client.transport.write(b"".join((*self._out, rest)))
        self._out.clear()
        exchange.client.open_tunnel()

    def _garbled(self, exchange: Exchange, why: str) -> None:
        self.exchange = None
        self.transport.abort()
        exchange.lost(self, f"answered with something that is not HTTP ({why})", garbled=True)

    def _finish(self, exchange: Exchange) -> None:
        self.served += 1
        if self._head_only:
            # The parser still waits for the body that an answer to GET would have had.
            self._parser = httptools.HttpResponseParser(self)
        if exchange.client.write_paused:
            self.transport.resume_reading()
        if self.unproven:
            self.target.proven(self)
        now = self.gateway.now()
        if (
            self._reusable
            and not self._poisoned
            and exchange.request_done
            and not self.write_paused
            and self.bytes_sent
        ):
            self.rest(now)
        else:
            self.exchange = None
            self.transport.close()
        exchange.finish(now)
