"""A request, as a photon's `App` takes it: from an ASGI server, or from our own connections."""

from typing import Protocol
from urllib.parse import unquote

from leptonai.serving.bodies import read_body
from leptonai.serving.responses import Message, Receive, Scope

Fields = dict[bytes, bytes]  # the headers of a request; of one that is there twice the last


class Incoming(Protocol):
    method: str
    path: str  # decoded, below what the photon is mounted under
    query: bytes
    fields: Fields
    name: str  # of the handler that answers it, for metrics

    async def body(self) -> bytes:
        """All of it.

        Raises:
            TooLarge: as soon as it is known to be more than may be.
            ClientGone: it hung up before the end.
        """
        ...

    @property
    def receive(self) -> Receive:
        """ASGI's."""
        ...

    @property
    def scope(self) -> Scope:
        """ASGI's."""
        ...

    @property
    def address(self) -> str:
        """Of the client."""
        ...


class Connection(Protocol):
    peer: tuple[str, int] | None

    async def gone(self) -> None:
        """Return when the client has hung up."""
        ...


class FromASGI:
    """What an ASGI server has received."""

    __slots__ = ("fields", "method", "name", "path", "query", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        if scope.get("root_path"):  # this photon is mounted in another one
            self.path = self.path[len(scope["root_path"]) :] or "/"
        self.query: bytes = scope["query_string"]
        self.fields: Fields = dict(scope["headers"])
        self.name = "none"

    async def body(self) -> bytes:
        return await read_body(self.fields, self.receive)

    @property
    def address(self) -> str:
        peer = self.scope.get("client")
        return str(peer[0]) if peer else ""


class Received:
    """What one of our own connections has read, to its end."""

    __slots__ = (
        *("_body", "_connection", "fields", "keep_alive"),
        *("method", "name", "path", "query", "version_1_0"),
    )

    def __init__(self, connection: Connection, method: str, target: bytes, fields: Fields) -> None:
        raw_path, _, self.query = target.partition(b"?")
        path = raw_path.decode("latin-1")
        self.path = unquote(path) if "%" in path else path
        self.method = method
        self.fields = fields
        self.name = "none"
        self.keep_alive = True
        self.version_1_0 = False
        self._body: list[bytes] = []
        self._connection = connection

    def add(self, data: bytes) -> None:
        self._body.append(data)

    @property
    def whole(self) -> bytes:
        body = self._body
        return body[0] if len(body) == 1 else b"".join(body)

    async def body(self) -> bytes:
        return self.whole

    async def receive(self) -> Message:
        """The body has been read: all that can still come is the client's end."""
        await self._connection.gone()
        return {"type": "http.disconnect"}

    @property
    def scope(self) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.fields.items()),
            "client": self._connection.peer,
            "server": None,
            "state": {},
        }

    @property
    def address(self) -> str:
        peer = self._connection.peer
        return "" if peer is None else peer[0]
