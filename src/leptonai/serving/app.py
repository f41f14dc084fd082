"""A photon as an ASGI application, without a framework between the server and the handler."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from leptonai.errors import InvalidRequest, LeptonError, NotFound, TooLarge, TooManyRequests
from leptonai.serving.handlers import Route, routes
from leptonai.serving.openapi import document
from leptonai.serving.photon import HTTPException, Photon
from leptonai.serving.request_metrics import CONTENT_TYPE, RequestMetrics

MAX_BODY_BYTES = 64 << 20
MAX_QUEUE = 1_000  # calls that wait or run; one more is answered 429

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("leptonai.serving")


class Answer(NamedTuple):
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class ClientGone(Exception):
    """It hung up before its request was complete; there is nobody to answer."""


class App:
    """Answers for one photon.

    The server calls `init` before it listens (ASGI's lifespan). Where nothing runs the lifespan, as
    under a test client, the first call waits for `init`.
    """

    def __init__(self, photon: Photon) -> None:
        self.queue_length = 0  # calls that wait or run
        self._photon = photon
        self._routes: dict[tuple[str, str], Route] = {}
        self._patterns: list[Route] = []
        for route in routes(photon):
            if route.pattern is None:
                self._routes[route.method, route.path] = route
            else:
                self._patterns.append(route)
        cls = type(photon)
        self._openapi = msgspec.json.encode(
            document(cls.__name__, cls.__doc__ or "", [*self._routes.values(), *self._patterns])
        )
        self._metrics = RequestMetrics()
        self._own: dict[str, Callable[[], Answer]] = {
            "/healthz": _healthy,
            "/livez": _healthy,
            "/metrics": self._metrics_text,
            "/queue-length": lambda: Answer(200, b"%d" % self.queue_length),
            "/openapi.json": lambda: Answer(200, self._openapi),
        }
        # Init runs in the same threads as the handlers, since some libraries keep state by thread.
        self._threads = ThreadPoolExecutor(
            max_workers=cls.handler_max_concurrency, thread_name_prefix=cls.__name__
        )
        self._init_run: asyncio.Task[None] | None = None
        self._ready = False  # init has returned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # startup
        try:
            await self._init()
        except LeptonError as error:
            message = f"{error.message}\nhint: {error.hint}" if error.hint else error.message
            await send({"type": "lifespan.startup.failed", "message": message})
            return
        except Exception as error:
            log.exception("%s.init failed", type(self._photon).__name__)
            await send({"type": "lifespan.startup.failed", "message": f"init failed: {error!r}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # shutdown: every accepted call has been answered
        self._threads.shutdown(wait=False)
        await send({"type": "lifespan.shutdown.complete"})

    async def _init(self) -> None:
        """Run `init` once, however many calls wait for it."""
        if self._init_run is None:
            self._init_run = asyncio.ensure_future(self._run_init())
        await asyncio.shield(self._init_run)

    async def _run_init(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._photon.init)
        self._ready = True

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        method: str = scope["method"]
        route, parts = self._find(method, scope["path"])
        name = "none" if route is None else route.path
        try:
            if route is None:
                answer = self._own_answer(method, scope["path"])
            else:
                answer = await self._answer(route, parts, scope, receive)
        except HTTPException as error:
            answer = _problem(error.status_code, error.detail)
        except LeptonError as error:
            answer = _refusal(error)
        except ClientGone:
            return
        except Exception as error:
            log.exception("%s %s failed", method, name)
            answer = _problem(500, str(error) or type(error).__name__)
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
        ]
        if answer.status == 204:
            headers = []
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        known_method = method if route is not None or method == "GET" else "other"
        self._metrics.observe(name, known_method, answer.status, time.perf_counter() - began)

    def _find(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        route = self._routes.get((method, path))
        if route is None:
            for candidate in self._patterns:
                assert candidate.pattern is not None
                match = candidate.pattern.fullmatch(path)
                if match and candidate.method == method:
                    return candidate, match.groupdict()
        return route, {}

    def _own_answer(self, method: str, path: str) -> Answer:
        own = self._own.get(path)
        if method in ("GET", "HEAD") and own is not None:
            answer = own()
            return answer if method == "GET" else answer._replace(body=b"")
        allowed = {other for other in ("GET", "POST") if self._find(other, path)[0]}
        if own is not None:
            allowed |= {"GET", "HEAD"}
        if allowed:
            allow = ", ".join(sorted(allowed))
            answer = _problem(405, f"{path} does not answer {method}; it answers {allow}")
            return answer._replace(headers=((b"allow", allow.encode()),))
        raise NotFound(f"there is no {path} here; /openapi.json lists what there is")

    async def _answer(
        self, route: Route, parts: dict[str, str], scope: Scope, receive: Receive
    ) -> Answer:
        if self.queue_length >= MAX_QUEUE:
            raise TooManyRequests(f"{self.queue_length} calls wait already; try again in a second")
        self.queue_length += 1
        try:
            if not self._ready:
                await self._init()
            body = await _read(scope, receive) if route.method == "POST" else b""
            arguments = route.arguments(body, scope["query_string"], parts)
            if route.is_async:
                encoded = _encode(await route.call(**arguments))
            else:
                encoded = await asyncio.get_running_loop().run_in_executor(
                    self._threads, _call, route.call, arguments
                )
        finally:
            self.queue_length -= 1
        return _NOTHING if encoded is None else Answer(200, encoded)

    def _metrics_text(self) -> Answer:
        text = self._metrics.text(self.queue_length)
        return Answer(200, text.encode(), CONTENT_TYPE.encode())


_NOTHING = Answer(204, b"")


def _healthy() -> Answer:
    return Answer(200, b'{"status":"ok"}')


def _call(call: Callable[..., Any], arguments: dict[str, Any]) -> bytes | None:
    # Encoded in the handler's thread, so that a large result does not hold up the event loop.
    return _encode(call(**arguments))


def _encode(result: Any) -> bytes | None:
    return None if result is None else _ENCODER.encode(result)


def _as_plain(value: Any) -> Any:
    """Arrays and tensors, of whichever library, as lists; their scalars as numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the handler returned a {type(value).__name__}, which cannot be sent as JSON")


_ENCODER = msgspec.json.Encoder(enc_hook=_as_plain)


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The whole body.

    Raises:
        TooLarge: as soon as it is known to be more than `MAX_BODY_BYTES`.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            raise _too_large()
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))  # nearly always
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than the {MAX_BODY_BYTES} bytes that are accepted")


def _refusal(error: LeptonError) -> Answer:
    if isinstance(error, InvalidRequest):
        return _problem(422, error.message)
    answer = _problem(error.status, error.message)
    if isinstance(error, TooManyRequests):
        return answer._replace(headers=((b"retry-after", b"1"),))
    return answer


def _problem(status: int, detail: Any) -> Answer:
    return Answer(status, _ENCODER.encode({"error": detail}))
