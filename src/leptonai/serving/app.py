"""A photon as an ASGI application, without a framework between the server and the handler."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from leptonai.errors import LeptonError, NotFound
from leptonai.serving.access import PREFLIGHT, access_told
from leptonai.serving.answers import JSON, Answer, failure, in_json, problem
from leptonai.serving.bodies import with_request
from leptonai.serving.calls import Calls, ClientGone, TasklessCall, Tell
from leptonai.serving.documentation import PAGE, PAGE_HEADERS
from leptonai.serving.formats import encoder_for
from leptonai.serving.handlers import Route, mounts, routes
from leptonai.serving.incoming import FromASGI, Incoming, Received
from leptonai.serving.inference import Inference, InferenceRoutes, Tensors
from leptonai.serving.mounts import Mount, mounted
from leptonai.serving.openapi import document
from leptonai.serving.photon import Photon
from leptonai.serving.request_metrics import CONTENT_TYPE, RequestMetrics
from leptonai.serving.responses import Receive, Scope, Send
from leptonai.serving.sending import send_itself

CLIENT_HEADER = (
    b"x-lepton-client"  # who asks, as the gateway says: the same for one token or address
)

_NO_PARTS: Mapping[str, str] = {}

log = logging.getLogger("leptonai.serving")


class App:
    """Answers for one photon.

    The server calls `init` before it listens (ASGI's lifespan). Where nothing runs the lifespan, as
    under a test client, the first call waits for `init`.
    """

    def __init__(self, photon: Photon, *, initialised: bool = False) -> None:
        self._photon = photon
        self._initialised = initialised  # its `init` has run
        self._routes: dict[tuple[str, str], Route] = {}
        self._patterns: list[Route] = []
        made = routes(photon)
        for route in made:
            if route.pattern is None:
                self._routes[route.method, route.path] = route
            else:
                self._patterns.append(route)
        self._plain = {
            address for address, route in self._routes.items() if not route.declared.takes_request
        }
        self._taskless = {
            address: route for address, route in self._routes.items() if route.is_taskless
        }
        self.document = document(type(photon).__name__, type(photon).__doc__ or "", made)
        self._mounts: list[Mount] = []
        self._calls = Calls(
            type(photon).__name__, made, photon.handler_max_concurrency, photon.handler_timeout
        )
        tensors: Callable[[], Tensors] = getattr(photon, "_tensors", dict)
        self._inference = InferenceRoutes(type(photon).__name__, made, tensors)
        self._metrics = RequestMetrics()
        self._own: dict[str, Callable[[], Answer]] = {
            "/healthz": _healthy,
            "/livez": _healthy,
            "/health": _healthy,  # as vLLM and SGLang have it
            "/metrics": self._metrics_text,
            "/queue-length": lambda: Answer(200, b"%d" % self.waiting),
            "/openapi.json": lambda: Answer(200, JSON.encode(self.document)),
            "/favicon.ico": lambda: Answer(204, b""),
            **dict.fromkeys(("/docs", "/redoc", "/ledoc", "/ledoc/"), _documentation),
        }
        self._access = access_told(os.environ)
        self._init_run: asyncio.Task[None] | None = None
        self._ready = False  # init has returned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (
                self._lifespan(receive, send)
                if scope["type"] == "lifespan"
                else self._websocket(scope, receive, send)
            )
            return
        began_s = time.perf_counter()
        request = FromASGI(scope, receive)
        try:
            answer = await self.answer(request, began_s)
        except ClientGone:
            return
        if type(answer) is Answer:
            status = answer.status
            length = (b"content-length", b"%d" % len(answer.body))
            kind = (b"content-type", answer.content_type)
            headers = answer.headers if status == 204 else (kind, length, *answer.headers)
            await send({"type": "http.response.start", "status": status, "headers": [*headers]})
            await send({"type": "http.response.body", "body": answer.body})
        else:
            status = await self.send_itself(answer, request, send)
        self.answered(request, status, began_s)

    async def answer(self, request: Incoming, began_s: float) -> Any:
        """An `Answer`; or a stream or an ASGI application, for `send_itself`.

        Args:
            began_s: by time.perf_counter.

        Raises:
            ClientGone: nobody waits for it any more.
        """
        method, path, fields = request.method, request.path, request.fields
        route, parts = self._find(method, path)
        if route is not None:
            request.name = route.path
        try:
            if not self._access.lets_in(method, path, fields):
                answer: Any = problem(403, "the token is missing or wrong")
            elif route is not None:
                answer = await self._answer(route, parts, request, began_s)
            else:
                answer = await self._other(request)
        except ClientGone:
            raise
        except Exception as error:
            answer = failure(error, method, request.name)
        return self._access.allowing(answer, fields)

    def begin(self, request: Received, began_s: float, tell: Tell) -> TasklessCall | None:
        """Answer without a task, where the handler is not on the event loop and nothing else is to
        be waited for. A task takes a turn of the loop before it runs, and one after.

        Args:
            tell: called, though not before this returns, with what `told` makes an answer of.

        Returns:
            None where a task has to await `answer`.
        """
        method, fields = request.method, request.fields
        route = self._taskless.get((method, request.path))
        if route is None or not self._ready:
            return None
        if not self._access.lets_in(method, request.path, fields):
            return None
        request.name = route.path
        calls = self._calls
        accept = fields.get(b"accept")
        try:
            calls.admit()
            encode = in_json if accept is None else encoder_for(accept)
            body = request.whole if method == "POST" else b""
            arguments = route.arguments(
                body, request.query, _NO_PARTS, fields.get(b"content-type", b"")
            )
            return calls.begin(route, arguments, encode, _client(request), began_s, tell)
        except Exception as error:
            return calls.failed(route, error, tell)

    def told(self, request: Received, result: Any, error: BaseException | None) -> Any:
        """What `answer` would have returned; or a result for `begun`, which comes piece by piece.

        Raises:
            CancelledError: of the call.
        """
        if error is None:
            answer = result
        elif isinstance(error, Exception):
            answer = failure(error, request.method, request.name)
        else:
            raise error
        return self._access.allowing(answer, request.fields)

    async def begun(self, result: Any, request: Incoming, began_s: float) -> Any:
        """As `answer`, of what `told` returned."""
        task = self._calls.enter(began_s)
        try:
            return await self._calls.begun(result)
        except asyncio.CancelledError:
            why = self._calls.cancelled(task)
            if why is None:
                raise
            failed = why
        except Exception as error:
            failed = error
        finally:
            self._calls.leave(task)
        return self._access.allowing(failure(failed, request.method, request.name), request.fields)

    async def send_itself(self, answer: Any, request: Incoming, send: Send) -> int:
        """Have a stream, or an ASGI application, answer. Returns its status.

        Raises:
            Exception: it failed after it began; then the server breaks off.
        """
        return await send_itself(answer, request, send, self._access.lines(request.fields))

    @property
    def waiting(self) -> int:
        """Calls that wait or run."""
        return self._calls.length

    def answered(self, request: Incoming, status: int, began_s: float) -> None:
        """Count it."""
        name, method = request.name, request.method
        known = method == "GET" or (name != "none" and method == "POST")
        known_method = method if known else "other"
        self._metrics.observe(name, known_method, status, time.perf_counter() - began_s)

    def needs_asgi(self, method: str, path: str) -> bool:
        """Whether a request can be answered with all of ASGI alone: it is for an application that
        is mounted, or for a handler that takes the request itself."""
        if (method, path) in self._plain:
            return False
        route, _ = self._find(method, path)
        if route is not None:
            return route.declared.takes_request
        return any(mount.holds(path) for mount in self._mounts)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # startup
        try:
            await self.init()
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
        self._calls.threads.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def init(self) -> None:
        """Run `init` once, however many calls wait for it."""
        if self._init_run is None:
            self._init_run = asyncio.ensure_future(self._run_init())
        await asyncio.shield(self._init_run)

    async def _run_init(self) -> None:
        if not self._initialised:
            await self._calls.threads.run(self._photon.init)
        await self._calls.threads.run(self._photon.warm_up)
        for path, make in mounts(self._photon).items():
            made = await self._calls.threads.run(make)
            if isinstance(made, Photon):
                inner = App(made)
                await inner.init()
                self.document["paths"] |= {
                    path + below: operations
                    for below, operations in inner.document["paths"].items()
                }
                self.document["components"]["schemas"] |= inner.document["components"]["schemas"]
                self._mounts.append(Mount(path, inner))
            else:
                self._mounts.append(Mount(path, mounted(made, path)))
        self._ready = True

    def _find(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        route = self._routes.get((method, path))
        if route is None:
            for candidate in self._patterns:
                assert candidate.pattern is not None
                match = candidate.pattern.fullmatch(path)
                if match and candidate.method == method:
                    return candidate, match.groupdict()
        return route, {}

    async def _answer(
        self,
        route: Route,
        parts: dict[str, str],
        request: Incoming,
        began_s: float,
    ) -> Any:
        calls, fields = self._calls, request.fields
        accept = fields.get(b"accept")
        encode = in_json if accept is None else encoder_for(accept)
        calls.admit()
        task = calls.enter(began_s)
        try:
            if not self._ready:
                await self.init()
            if route.declared.takes_request:
                arguments = await with_request(route, request.scope, request.receive)
            else:
                body = await request.body() if route.method == "POST" else b""
                content_type = fields.get(b"content-type", b"")
                arguments = route.arguments(body, request.query, parts, content_type)
            if route.is_direct:
                result = encode(await route.call(**arguments))
                return result if type(result) is Answer else await calls.begun(result)
            return await calls.run(route, arguments, encode, _client(request), request.receive)
        except asyncio.CancelledError:
            why = calls.cancelled(task)
            if why is None:
                raise
            raise why from None
        finally:
            calls.leave(task)

    async def _other(self, request: Incoming) -> Any:
        """What is no handler of the photon's."""
        method, path, fields = request.method, request.path, request.fields
        if method == "OPTIONS" and b"access-control-request-method" in fields:
            return Answer(204, b"", headers=PREFLIGHT)
        own = self._own.get(path)
        if own is not None and method in ("GET", "HEAD"):
            answer = own()
            return answer if method == "GET" else answer._replace(body=b"")
        if not self._ready:
            await self.init()
        for mount in self._mounts:
            if mount.holds(path):
                request.name = mount.path
                return mount.serve
        found = self._inference.find(method, path)
        if found is not None:
            return await self._infer(found, request)
        allowed = {other for other in ("GET", "POST") if self._find(other, path)[0]}
        if own is not None:
            allowed |= {"GET", "HEAD"}
        if allowed:
            allow = ", ".join(sorted(allowed))
            answer = problem(405, f"{path} does not answer {method}; it answers {allow}")
            return answer._replace(headers=((b"allow", allow.encode()),))
        if method == "GET" and b"text/html" in fields.get(b"accept", b""):
            # For people in a browser; relative, since a gateway may have cut a prefix off.
            there = b"../" * (path.count("/") - 1) + b"docs"
            return Answer(307, b"", headers=((b"location", there),))
        raise NotFound(f"there is no {path} here; /openapi.json lists what there is")

    async def _infer(self, call: Inference, request: Incoming) -> Answer:
        if call.route is None:
            return call.told
        asked = call.read(await request.body(), request.fields)
        client = _client(request)
        self._calls.admit()
        task = self._calls.enter(time.perf_counter())
        try:
            answer: Answer = await self._calls.run(
                call.route, asked.arguments, asked.encode, client, request.receive
            )
            return answer
        except asyncio.CancelledError:
            why = self._calls.cancelled(task)
            if why is None:
                raise
            raise why from None
        finally:
            self._calls.leave(task)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"][len(scope.get("root_path", "")) :]
        fields = dict(scope["headers"])
        mount = next((mount for mount in self._mounts if mount.holds(path)), None)
        if mount is None or (not self._access.lets_in("GET", path, fields)):
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            await mount.serve(scope, receive, send)

    def _metrics_text(self) -> Answer:
        text = self._metrics.text(self.waiting)
        return Answer(200, text.encode(), CONTENT_TYPE.encode())


def _healthy() -> Answer:
    return Answer(200, b'{"status":"ok"}')


def _documentation() -> Answer:
    return Answer(200, PAGE, b"text/html; charset=utf-8", PAGE_HEADERS)


def _client(request: Incoming) -> bytes | str:
    """Whose turn it is in a batch: as the gateway says, else by address."""
    fields = request.fields
    return fields.get(CLIENT_HEADER) or fields.get(b"x-forwarded-for") or request.address
