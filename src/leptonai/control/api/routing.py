"""The route table's rows, and what a handler gets to see of a request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from leptonai.control.world import World
from leptonai.core.access import Principal
from leptonai.errors import InvalidRequest, TooLarge
from leptonai.spec import codec

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
MAX_PAGE_SIZE = 1_000
MAX_QUERY_CHARS = 1_024  # of one parameter
MAX_PARAMETERS = 100
MAX_NUMBER = (1 << 63) - 1  # of a parameter: nanoseconds since 1970 must fit

STRICT = "handling=strict"  # of the header Prefer
MAX_SHOWN_FIELDS = 8
MAX_SHOWN_CHARS = 100

UPGRADE = "leptonai.upgrade"  # in the extensions of a scope: how a connection is taken over

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of the query. `kind` is what it is read as."""

    name: str
    kind: type = str
    about: str = ""
    repeated: bool = False
    least: int | None = None
    most: int | None = None


DRY_RUN = Parameter(
    "dry_run",
    kind=bool,
    about="Only say where it would start now, or why it would wait, for how long, and what would "
    "start it now: in `explanation`.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a handler answers where plain JSON with status 200 will not do."""

    status: int = 200
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None  # instead of `body`
    # Instead of an answer: what speaks on the connection from here on, and ends it.
    tunnel: Callable[[], Coroutine[Any, Any, None]] | None = None
    media: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


DONE = Answer(body=b"{}")  # and nothing to say of it


class Scope(Enum):
    WORKSPACE = "/api/v2/workspaces/{workspace}"
    PLATFORM = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    handler: Callable[["Call"], Awaitable[Any]]
    summary: str
    body: Any = None  # the type of its JSON
    patch: bool = False  # the body is a merge patch of that type
    raw_body: bool = False  # bytes, read by the handler
    answer: Any = None  # the type of its JSON; None answers nothing
    media: str = JSON
    status: int = 200
    ranges: bool = False  # it may be asked for a part, and then answers 206
    audited: bool = True  # if it changes something
    linked: bool = False  # a link to an object is good here, too
    nothing: str = ""  # what it means where it answers 204 instead, if it may
    query: tuple[Parameter, ...] = ()
    scope: Scope = Scope.WORKSPACE

    @property
    def full_path(self) -> str:
        return self.scope.value + self.path


class Call:
    """A request, authenticated, in its route."""

    __slots__ = ("_request", "ignored", "path", "principal", "route", "workspace", "world")

    def __init__(self, world: World, principal: Principal, route: Route, request: Request) -> None:
        self.world = world
        self.principal = principal
        self.route = route
        self.path: dict[str, str] = request.path_params
        self.workspace: str = self.path.get("workspace", "")
        self.ignored: list[str] = []  # fields of the body that nobody knows
        self._request = request

    def header(self, name: str) -> str:
        return str(self._request.headers.get(name, ""))

    @property
    def length(self) -> int | None:
        """Bytes that the body is said to have."""
        said = self.header("content-length")
        return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None

    async def json(self) -> Any:
        """The body, as its route declares it: a whole value, or a merge patch as a plain dict.

        Unknown fields are left out, as the published client expects of a platform that is older or
        younger than itself, and the answer names them; who prefers to be strict is refused.
        """
        value = codec.parse(await self._bounded_body())
        if self.route.patch and not isinstance(value, dict):
            raise InvalidRequest("the body: expected object", hint="Send a JSON merge patch.")
        if self.strict:
            codec.refuse_unknown_fields(self.route.body, value)
        else:
            value, self.ignored = codec.known_part(self.route.body, value)
        if not self.route.patch:
            return codec.convert(self.route.body, value)
        for part in ("metadata", "spec"):
            if not isinstance(value.get(part) or {}, dict):
                raise InvalidRequest(f"{part}: expected object", hint="Send a JSON merge patch.")
        return value

    @property
    def strict(self) -> bool:
        """Whether a field that nobody knows is to be refused (RFC 7240)."""
        preferred = self.header("prefer").split(",")
        return STRICT in (part.strip().lower() for part in preferred)

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(self._request.scope["headers"])

    @property
    def raw_target(self) -> bytes:
        """The path and the query, as they were sent."""
        scope = self._request.scope
        query: bytes = scope["query_string"]
        path: bytes = scope["raw_path"]
        return path + (b"?" + query if query else b"")

    @property
    def upgrade(self) -> Callable[[], Streams] | None:
        """Takes the connection over, where the request asks for a WebSocket on it."""
        found = (self._request.scope.get("extensions") or {}).get(UPGRADE)
        return found["take_over"] if found else None

    async def small_body(self) -> bytes:
        """A raw one, as it is."""
        return await self._bounded_body()

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._request.stream():
                if chunk:
                    yield chunk
        except ClientDisconnect:
            raise InvalidRequest(
                "the body ended before it was complete", hint="Send it again."
            ) from None

    def text(self, name: str, default: str = "") -> str:
        values = self.texts(name)
        return values[-1] if values else default

    def texts(self, name: str) -> list[str]:
        values = self._request.query_params.getlist(name)
        if len(values) > MAX_PARAMETERS or any(len(each) > MAX_QUERY_CHARS for each in values):
            raise InvalidRequest(
                f"the parameter {name} is too long", hint=f"At most {MAX_QUERY_CHARS} characters."
            )
        if any("\0" in each for each in values):
            raise InvalidRequest(
                f"the parameter {name} holds a NUL character", hint="Leave it out."
            )
        return values

    def number(self, name: str, default: int) -> int:
        """Whole, and within the bounds that the route declares."""
        text = self.text(name)
        if not text:
            return default
        parameter = next(each for each in self.route.query if each.name == name)
        least = 0 if parameter.least is None else parameter.least
        most = MAX_NUMBER if parameter.most is None else parameter.most
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
            raise InvalidRequest(f"the parameter {name}: expected int", hint="Send a whole number.")
        value = int(text)
        if not least <= value <= most:
            raise InvalidRequest(
                f"the parameter {name}: {value} is out of bounds",
                hint=f"It goes from {least} to {most}.",
            )
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        text = self.text(name).lower() or str(default).lower()
        if text not in ("true", "false", "1", "0"):
            raise InvalidRequest(
                f"the parameter {name}: expected true or false", hint="Send true or false."
            )
        return text in ("true", "1")

    def one_of(self, name: str, known: tuple[str, ...], default: str) -> str:
        text = self.text(name, default)
        if text not in known:
            raise InvalidRequest(
                f"the parameter {name}: there is no {text[:60]!r}",
                hint=f"Use one of {', '.join(known)}.",
            )
        return text

    async def _bounded_body(self) -> bytes:
        """Refused as soon as it is known to be too large: at its header, or a byte too many."""
        length = self.length
        if length is not None and length > codec.MAX_BODY_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        total = 0
        async for chunk in self.chunks():
            total += len(chunk)
            if total > codec.MAX_BODY_BYTES:
                raise _too_large()
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def ignored_warning(fields: list[str]) -> tuple[str, str]:
    """The header that names what was ignored."""
    shown = ", ".join(field[:MAX_SHOWN_CHARS] for field in fields[:MAX_SHOWN_FIELDS])
    more = f" and {len(fields) - MAX_SHOWN_FIELDS} more" if len(fields) > MAX_SHOWN_FIELDS else ""
    safe = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in shown)
    return "warning", f'299 - "unknown fields were ignored: {safe}{more}"'


def json_answer(value: object, status: int = 200) -> Answer:
    return Answer(status=status, body=msgspec.json.encode(value))


def _too_large() -> TooLarge:
    return TooLarge(
        f"the body has more than {codec.MAX_BODY_BYTES} bytes",
        hint="Send files as blobs, and the rest in several requests.",
    )
