"""Spans of requests for an OpenTelemetry collector: OTLP over HTTP, as JSON.

A request that is let in is a span, with the caller's as its parent, and what the replica makes is
below it. Spans wait in memory, go out in bundles while requests go on, and are dropped where the
collector does not keep up: no request ever waits for one.

Source: OpenTelemetry protocol 1.x; its JSON writes ids in hex and 64-bit numbers as strings.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from .asking import FAILURES, ask
from .balance import draw

if TYPE_CHECKING:
    from leptonai.otlp import Collector

    from .exchange import Exchange
    from .gateway import Gateway
    from .target import Target

EVERY_S = 1.0  # spans go out, if there are some
MAX_SPANS_A_POST = 512
MAX_SPANS = 4_096  # that wait; more are only counted
POST_S = 10.0  # for the collector's answer
MAX_RETRY_S = 30.0
MAX_ANSWER_BYTES = 1024 * 1024
RETRIED = frozenset((429, 502, 503, 504))  # by the protocol; what else is refused is dropped
SERVER = 2  # SPAN_KIND_SERVER
ERROR = 2  # STATUS_CODE_ERROR

_encode = msgspec.json.Encoder().encode


class Span:
    """Of one request, from its head to its answer's last byte."""

    __slots__ = ("id", "method", "parent", "path", "trace")

    def __init__(self, trace: bytes, id: bytes, parent: bytes, method: bytes, path: bytes) -> None:
        self.trace = trace
        self.id = id
        self.parent = parent  # b"" where the trace begins here
        self.method = method
        self.path = path


class Tracer:
    def __init__(self, gateway: Gateway, collector: Collector) -> None:
        parts = urlsplit(collector.url)
        self._gateway = gateway
        self._collector = collector
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._prefix = int.from_bytes(os.urandom(8), "big")
        self._turn = 0
        self._waiting: list[bytes] = []
        self._some = asyncio.Event()
        self._posting = asyncio.Lock()
        self.sent = 0
        self.dropped = 0

    def begin(
        self, method: bytes, path: bytes, traceparent: bytes, *, begins_here: bool
    ) -> tuple[Span | None, bytes]:
        """The span of a request, None where it is not recorded; and the traceparent that makes
        what follows a part of it.

        Args:
            path: of the endpoint; its query is nobody's business.
        """
        self._turn += 1
        trace, parent, flags = traceparent[3:35], traceparent[36:52], traceparent[53:55]
        if begins_here:
            parent = b""
            if draw(self._turn) >= self._collector.share:
                return None, traceparent[:53] + b"00"
        elif not int(flags, 16) & 1:
            return None, traceparent
        # A counter from a random start, which no two gateways share.
        id = b"%016x" % (((self._prefix + self._turn) % (2**64 - 1)) + 1)
        span = Span(trace, id, parent, method, path.partition(b"?")[0])
        return span, b"%b%b%b" % (traceparent[:36], id, traceparent[52:])

    def end(self, exchange: Exchange, span: Span, now: float, target: Target | None) -> None:
        if len(self._waiting) >= MAX_SPANS:
            self.dropped += 1
            return
        assert exchange.endpoint is not None
        route = exchange.endpoint.route
        status = exchange.status
        ended_ns = time.time_ns()
        about: dict[str, str | int] = {
            "http.request.method": span.method.decode("latin-1"),
            "url.path": span.path.decode("latin-1"),
            "http.response.status_code": status,
            "client.address": exchange.client.address,
            "lepton.workspace": route.workspace,
            "lepton.endpoint": route.name,
            "lepton.attempts": exchange.attempts,
            "lepton.request_id": exchange.request_id.decode("latin-1"),
        }
        if target is not None:
            about["lepton.version"] = target.upstream.version
            about["lepton.replica"] = target.upstream.replica
        told: dict[str, Any] = {
            "traceId": span.trace.decode(),
            "spanId": span.id.decode(),
            "name": f"{about['http.request.method']} {route.workspace}/{route.name}",
            "kind": SERVER,
            "startTimeUnixNano": str(ended_ns - int(1e9 * (now - exchange.started_at))),
            "endTimeUnixNano": str(ended_ns),
            "attributes": _attributes(about),
        }
        if span.parent:
            told["parentSpanId"] = span.parent.decode()
        if status >= 500:
            told["status"] = {"code": ERROR}
        self._waiting.append(_encode(told))
        self._some.set()

    async def run(self) -> None:
        """Send what there is, for ever."""
        retry_s = EVERY_S
        while True:
            await self._some.wait()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, MAX_RETRY_S)
            while self._waiting and await self._post():
                retry_s = EVERY_S
            if not self._waiting:
                self._some.clear()

    def exposition(self) -> str:
        return (
            "# HELP lepton_gateway_spans_total Spans for the collector, by what became of them.\n"
            "# TYPE lepton_gateway_spans_total counter\n"
            f'lepton_gateway_spans_total{{outcome="sent"}} {self.sent}\n'
            f'lepton_gateway_spans_total{{outcome="dropped"}} {self.dropped}\n'
        )

    async def send_the_rest(self, within_s: float) -> None:
        """Before the gateway ends; not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._waiting and await self._post():
                    pass

    async def _post(self) -> bool:
        """Whether some went out, or can never: else they wait on."""
        async with self._posting:
            return await self._post_some()

    async def _post_some(self) -> bool:
        bundle = self._waiting[:MAX_SPANS_A_POST]
        if not bundle:
            return True  # another has just sent them
        try:
            status, _ = await ask(
                "POST",
                self._host,
                self._port,
                self._path,
                headers={**self._collector.headers, "content-type": "application/json"},
                body=_request(bundle),
                tls=self._tls,
                within_s=POST_S,
                most_bytes=MAX_ANSWER_BYTES,
            )
        except FAILURES as error:
            self._gateway.log(f"spans cannot be sent: {error or type(error).__name__}")
            return False
        if status in RETRIED:
            self._gateway.log(f"spans cannot be sent: the collector answered with {status}")
            return False
        del self._waiting[: len(bundle)]
        if status == 200:
            self.sent += len(bundle)
        else:
            self.dropped += len(bundle)
            self._gateway.log(f"the collector refused {len(bundle)} spans with {status}")
        return True


def _request(spans: list[bytes]) -> bytes:
    return _encode(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": _attributes({"service.name": "lepton-gateway"})},
                    "scopeSpans": [
                        {
                            "scope": {"name": "leptonai.gateway"},
                            "spans": [msgspec.Raw(span) for span in spans],
                        }
                    ],
                }
            ]
        }
    )


def _attributes(about: Mapping[str, str | int]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
        }
        for key, value in about.items()
    ]
