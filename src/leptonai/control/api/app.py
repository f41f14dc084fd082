"""The API as an ASGI application: who asks, which route, what came of it.

Bare ASGI with Starlette's paths and requests: no middleware, so the hot paths stay cheap.
"""

import asyncio
import itertools
import logging
import os
import re
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import Message, Receive, Scope, Send

from leptonai.control.api import routing
from leptonai.control.api.openapi import document
from leptonai.control.api.routes import ROUTES
from leptonai.control.api.routing import Answer, Call, Route, json_answer
from leptonai.control.world import World
from leptonai.core.access import Principal, Role
from leptonai.errors import Forbidden, Internal, LeptonError, NotFound, RequestError, TooLarge
from leptonai.monitoring.audit import AuditLine
from leptonai.security.links import LINK_PREFIX

MAX_HEADER_BYTES = 64 << 10
MAX_QUERY_BYTES = 16 << 10
MAX_PATH_PART_CHARS = 512
MAX_FILE_PATH_CHARS = 4_096
RETRY_AFTER_S = 1
NO_CONTENT = 204  # has no body, and says nothing about one
TOKEN = re.compile(r"lepton_[A-Za-z0-9_.-]{16,}")
READING = frozenset({"GET", "HEAD"})  # methods that change nothing

log = logging.getLogger("leptonai.api")

_PROCESS = os.urandom(4).hex()  # the first part of the ids of its requests
_numbers = itertools.count(1)


class MethodNotAllowed(RequestError):
    code, status = "MethodNotAllowed", 405


def make_app(world: World) -> "Api":
    return Api(world)


class Api:
    """Everything but ``/healthz`` needs a token, an unknown path too."""

    def __init__(self, world: World, routes: Sequence[Route] = ROUTES) -> None:
        self._world = world
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.full_path, {})[route.method] = route
        self._paths = [(compile_path(path)[0], methods) for path, methods in by_path.items()]
        self._schema = document(routes, version=world.config.version)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Break off the streams: their readers would keep the server from ending for hours. A
        stream that is broken off is not taken for one that came to its end."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/healthz":
            await _send(json_answer({"status": "ok"}), scope["method"], send)
            return
        exchange = _Exchange(scope, receive, send, self._stopping)
        try:
            try:
                await self._answer(exchange, Request(scope, receive))
            except LeptonError as error:
                await exchange.refuse(error)
            except Exception:
                log.exception("request %s %s failed", exchange.id, exchange.action)
                await exchange.refuse(_unexpected(exchange.id))
        finally:
            self._record(exchange)

    async def _answer(self, exchange: "_Exchange", request: Request) -> None:
        scope = request.scope
        _check_size(scope)
        principal = await self._world.authenticator.principal(_bearer(request))
        exchange.principal = principal
        route = self._route(request)
        exchange.route = route
        if principal.role is Role.LINK and not route.linked:
            raise Forbidden("a link is good for its object alone", hint="Send a token.")
        call = Call(self._world, principal, route, request)
        if route.scope is routing.Scope.WORKSPACE and call.workspace != principal.workspace:
            raise _no_workspace(call.workspace)
        if call.workspace and call.workspace not in self._world.config.workspaces:
            raise _no_workspace(call.workspace)
        if route.path == "/openapi.json":
            await exchange.send(Answer(body=self._schema))
            return
        answered = await route.handler(call)
        if not isinstance(answered, Answer):
            answered = json_answer(answered, route.status)
        if call.ignored:
            warning = routing.ignored_warning(call.ignored)
            answered = replace(answered, headers=(*answered.headers, warning))
        await exchange.send(answered)

    def _route(self, request: Request) -> Route:
        """The route, with its path's parts in the request."""
        scope = request.scope
        for pattern, methods in self._paths:
            match = pattern.fullmatch(scope["path"])  # "$" alone lets a line end pass
            if match is None:
                continue
            parts = match.groupdict()
            if any("\0" in part or len(part) > _longest(name) for name, part in parts.items()):
                break
            scope["path_params"] = parts
            route = methods.get(scope["method"])
            if route is None:
                allowed = ", ".join(sorted(methods))
                raise MethodNotAllowed(
                    f"{scope['method'][:20]} is not possible here", hint=f"Possible: {allowed}."
                )
            return route
        raise NotFound(
            "there is nothing at this path", hint="GET /openapi.json lists every path there is."
        )

    def _record(self, exchange: "_Exchange") -> None:
        """Count it; and if it was to change something, keep who asked for what."""
        route = exchange.route.full_path if exchange.route else "unknown"
        method = exchange.method if exchange.route else "unknown"
        measures = self._world.measures
        measures.requests.add(method, route, str(exchange.status))
        measures.seconds.observe(perf_counter() - exchange.started, method, route)
        told = exchange.route is None or exchange.route.audited or exchange.status >= 400
        if exchange.method in READING or not told:
            return
        principal = exchange.principal
        self._world.audit.write(
            AuditLine(
                at_ms=self._world.clock.now_ms(),
                request=exchange.id,
                principal=principal.name if principal else "",
                role=principal.role.value if principal else "",
                workspace=principal.workspace if principal else "",
                job=principal.job if principal else "",
                action=exchange.action,
                status=exchange.status,
                code=exchange.code,
                address=exchange.address,
            )
        )


class _Exchange:
    """One request and what became of it."""

    __slots__ = (
        "_receive",
        "_send",
        "action",
        "address",
        "code",
        "id",
        "method",
        "principal",
        "route",
        "started",
        "status",
        "stopping",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, stopping: asyncio.Event) -> None:
        self.stopping = stopping
        self._receive = receive
        self._send = send
        self.id = f"{_PROCESS}-{next(_numbers):x}"
        self.started = perf_counter()
        self.method: str = scope["method"]
        # Some send their token in the path: what is logged must not open anything.
        self.action = TOKEN.sub("lepton_***", f"{self.method} {scope['path'][:1000]}")
        client = scope.get("client")
        self.address = client[0] if client else ""
        self.principal: Principal | None = None
        self.route: Route | None = None
        self.status = 0
        self.code = ""

    async def send(self, answer: Answer) -> None:
        self.status = answer.status
        if answer.tunnel is not None:
            await _while_wanted(answer.tunnel(), self.stopping.wait())
            return
        sending = _send(answer, self.method, self._send, self.id)
        if answer.stream is None:
            await sending
        else:
            await _while_wanted(sending, _until_disconnected(self._receive), self.stopping.wait())

    async def refuse(self, error: LeptonError) -> None:
        self.code = error.code
        if self.status:  # the answer is under way: breaking it off says that it is not whole
            raise error
        headers: tuple[tuple[str, str], ...] = ()
        if error.status == 401:
            headers = (("www-authenticate", "Bearer"),)
        elif error.retry:
            headers = (("retry-after", str(RETRY_AFTER_S)),)
        body = error.wire()
        body = {**body, **{name: plain(body[name]) for name in ("code", "message", "hint")}}
        await self.send(
            Answer(status=error.status, body=msgspec.json.encode(body), headers=headers)
        )


async def _send(answer: Answer, method: str, send: Send, id: str = "") -> None:
    headers = [
        (b"x-content-type-options", b"nosniff"),
        *((name.encode(), value.encode("latin-1")) for name, value in answer.headers),
    ]
    if id:
        headers.append((b"x-request-id", id.encode()))
    start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
    if answer.status != NO_CONTENT:
        headers.append((b"content-type", answer.media.encode()))
    if answer.stream is None:
        stated = answer.status == NO_CONTENT or any(
            name == "content-length" for name, _ in answer.headers
        )
        if not stated:
            headers.append((b"content-length", str(len(answer.body)).encode()))
        await send(start)
        body = b"" if method == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})
        return
    try:
        await send(start)
        async for chunk in answer.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    finally:
        close = getattr(answer.stream, "aclose", None)
        if close is not None:
            await close()
    await send({"type": "http.response.body", "body": b""})


async def _while_wanted(
    sending: Coroutine[Any, Any, None], *reasons_to_end: Coroutine[Any, Any, object]
) -> None:
    """A stream may have nothing to send for hours: only asking tells that its reader has left."""
    tasks = [asyncio.ensure_future(each) for each in (sending, *reasons_to_end)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _longest(part: str) -> int:
    return MAX_FILE_PATH_CHARS if part in ("path", "prefix") else MAX_PATH_PART_CHARS


_MARKUP = re.compile(r"\[([a-z#/@][^\[\]]*)\]")


def plain(text: str) -> str:
    """Without what a terminal client takes for markup: `[x]` would vanish, `[/x]` crash it."""
    return _MARKUP.sub(r"(\1)", text)


def _check_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size > MAX_HEADER_BYTES or len(scope["query_string"]) > MAX_QUERY_BYTES:
        raise TooLarge(
            "the headers or the query are too large",
            hint=f"At most {MAX_HEADER_BYTES} bytes of headers and {MAX_QUERY_BYTES} of query.",
        )


def _bearer(request: Request) -> str:
    """A link has its token in the query; no other token is read there."""
    link = request.query_params.get("link", "")
    if link.startswith(LINK_PREFIX):
        return link
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _no_workspace(name: str) -> NotFound:
    """The same words for a workspace that is another's and for one that is not."""
    return NotFound(
        f"there is no workspace {name[:60]!r} for this token",
        hint="`leptonai workspace current` prints the workspace; its token opens no other.",
    )


def _unexpected(id: str) -> LeptonError:
    return Internal(
        f"the server failed at this request, {id}",
        hint="This is a fault of the server: its log tells more under that id.",
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
