"""Copies of requests for a shadow version: sent when the user has been answered, compared with
what the user got, and thrown away."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import httptools

from .balance import choose, draw
from .limits import CONNECT_S, MAX_SHADOWS
from .observers import Digest
from .target import Target

if TYPE_CHECKING:
    from leptonai.core.routing import Shadow

    from .gateway import Gateway
    from .metrics import Traffic

LINE = b"x-lepton-shadow: 1\r\nconnection: close\r\n"


class Shadows:
    """Of one endpoint."""

    def __init__(
        self, gateway: Gateway, shadow: Shadow, targets: list[Target], traffic: Traffic
    ) -> None:
        self._gateway = gateway
        self._share = shadow.percent / 100
        self._targets = [target for target in targets if target.upstream.version == shadow.version]
        self._traffic = traffic
        self._turn = 0
        self._under_way: set[asyncio.Task[None]] = set()

    def wants(self) -> bool:
        """Whether the next request is copied."""
        self._turn += 1
        return (
            bool(self._targets)
            and draw(self._turn) < self._share
            and len(self._under_way) < MAX_SHADOWS
        )

    def send(self, request: bytes, *, status: int, digest: bytes, timeout_s: float) -> None:
        """
        Args:
            request: whole, as it was sent to a replica.
            status, digest: of the answer that the user got.
        """
        target = choose(self._targets, self._turn, self._gateway.now())
        if target is None:
            return
        first_line = request.index(b"\r\n") + 2
        copy = request[:first_line] + LINE + request[first_line:]
        task = self._gateway.loop.create_task(
            self._compare(target, copy, status, digest, timeout_s)
        )
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _compare(
        self, target: Target, request: bytes, status: int, digest: bytes, timeout_s: float
    ) -> None:
        gateway, traffic = self._gateway, self._traffic
        began = gateway.now()
        traffic.arrivals += 1
        traffic.dispatched(began)
        target.outstanding += 1
        answer = _Answer(head_only=request[:5] == b"HEAD ")
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, _ = await gateway.loop.create_connection(
                    lambda: answer, target.upstream.host, target.upstream.port
                )
            transport.write(request)
            async with asyncio.timeout(timeout_s):
                await answer.ended.wait()
        except (OSError, TimeoutError, ValueError):
            answer.status = 0
        finally:
            if transport is not None:
                transport.abort()
            target.release()
            now = gateway.now()
            traffic.returned(now)
        took = now - began
        if not answer.complete or answer.status == 0:
            traffic.lost_attempts += 1
            traffic.count(502, took)
            return
        traffic.count(answer.status, took)
        traffic.served(took)
        traffic.compared += 1
        if answer.status != status:
            traffic.status_differs += 1
        elif answer.digest.value != digest:
            traffic.body_differs += 1


class _Answer(asyncio.Protocol):
    def __init__(self, *, head_only: bool) -> None:
        self.ended = asyncio.Event()
        self.complete = False
        self.status = 0
        self.digest = Digest()
        self._head_only = head_only
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(data)
            return
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.status and not self.ended.is_set():
            self.complete = True  # a body that ends with its connection
        self.ended.set()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self._head_only:
            self.on_message_complete()

    def on_body(self, data: bytes) -> None:
        self.digest.body(data)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True
            self.ended.set()
