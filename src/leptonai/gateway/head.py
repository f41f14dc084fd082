"""Heads of requests and responses: what is refused, what is passed on, what is added. Pure."""

import re

from leptonai.errors import InvalidRequest
from leptonai.spec.pods import JUPYTER_AT, PROXY_AT

from .deadlines import HEADER as TIMEOUT
from .deadlines import timeout_ms
from .limits import MAX_REQUEST_ID_BYTES

Fields = list[tuple[bytes, bytes]]

# What concerns one connection only, and never crosses us (RFC 9110 §7.6.1).
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# What only we may say: a client's own would be believed by the replica.
FORWARDED = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-lepton-client",
        b"x-real-ip",
    )
)
_READ = frozenset(
    (
        *(b"host", b"authorization", b"content-length", b"x-request-id", b"idempotency-key"),
        *(b"traceparent", TIMEOUT, b"x-lepton-shadow"),
    )
)
_WATCHED = HOP_BY_HOP | FORWARDED | _READ | {b"x-lepton-replica-target"}

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE", b"QUERY"))
_CONNECTION_WORDS = frozenset((b"close", b"keep-alive", b"upgrade"))
# Of the W3C's Trace Context; version 00 has these parts, a later one may have more.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
_OF_PODS = (f"/{JUPYTER_AT}/".encode(), f"/{PROXY_AT}/".encode())
_ID_BYTES = bytes(range(0x21, 0x7F))


class RequestHead:
    """A request's head, understood. Nothing changes it: the next request may have the very same."""

    __slots__ = (
        "authorization",
        "chunked",
        "content_length",
        "host",
        "idempotency_key",
        "method",
        "passed",
        "replica",
        "request_id",
        "target",
        "timeout_ms",
        "traceparent",
        "websocket",
    )

    def __init__(self, method: bytes, target: bytes) -> None:
        self.method = method
        self.target = target
        self.host = b""
        self.authorization: bytes | None = None
        self.content_length: bytes | None = None
        self.chunked = False
        self.websocket = False
        self.idempotency_key = False  # there is one
        self.request_id = b""
        self.traceparent = b""
        self.timeout_ms: int | None = None  # that the caller waits
        self.replica = b""  # X-Lepton-Replica-Target
        self.passed: Fields = []  # on to the replica, as they came

    @property
    def has_body(self) -> bool:
        return self.chunked or (self.content_length or b"0").strip(b"0") != b""

    @property
    def framing(self) -> bytes:
        """A head for a parser that is to read this one's body."""
        if self.chunked:
            return b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        assert self.content_length is not None
        return b"POST / HTTP/1.1\r\ncontent-length: %b\r\n\r\n" % self.content_length


def read_request(method: bytes, target: bytes, version: str, fields: Fields) -> RequestHead:
    """Understand a head that the parser let through.

    The parser has refused: two lengths, a length beside Transfer-Encoding, folded lines, spaces
    before a colon, bare line feeds, control characters and bytes beyond ASCII in the target.

    Raises:
        InvalidRequest: two servers could read it differently, or it is not meant for us.
    """
    if version != "1.1" and version != "1.0":
        raise InvalidRequest(f"HTTP/{version} is not spoken here", hint="use HTTP/1.1")
    if target[:1] != b"/" or b"#" in target:
        raise InvalidRequest(
            "the request target is not a path",
            hint="this is not a forward proxy: send `GET /e/WORKSPACE/NAME/…`",
        )
    head = RequestHead(method, target)
    passed = head.passed
    hosts = 0
    upgrade = connection = b""
    for field in fields:
        name, value = field
        key = name.lower()
        if key not in _WATCHED:
            # To CGI and WSGI an underscore is a dash: `X_Forwarded_For` would be believed there.
            if b"_" not in key or key.replace(b"_", b"-") not in _WATCHED:
                passed.append(field)
        elif key == b"host":
            hosts += 1
            head.host = value
        elif key == b"authorization":
            if head.authorization is not None:
                raise InvalidRequest("two Authorization headers", hint="send one")
            head.authorization = value
        elif key == b"content-length":
            head.content_length = value
        elif key == b"connection":
            connection = b"%b,%b" % (connection, value) if connection else value
        elif key == b"transfer-encoding":
            if value.lower() != b"chunked" or version == "1.0":
                raise InvalidRequest(
                    "an unknown Transfer-Encoding", hint="send the body chunked, or with its length"
                )
            head.chunked = True
        elif key == b"upgrade":
            upgrade = value
        elif key == b"x-request-id":
            if len(value) <= MAX_REQUEST_ID_BYTES and not value.translate(None, _ID_BYTES):
                head.request_id = value
        elif key == b"traceparent":
            if _TRACEPARENT.fullmatch(value):
                head.traceparent = value
        elif key == TIMEOUT:
            head.timeout_ms = timeout_ms(value)
        elif key == b"idempotency-key":
            head.idempotency_key = bool(value)
            passed.append(field)
        elif key == b"x-lepton-replica-target":
            head.replica = value
            passed.append(field)
    if hosts != 1 and (hosts > 1 or version == "1.1"):
        raise InvalidRequest("a request names its host exactly once", hint="send one Host header")
    if connection:
        words = _words(connection)
        # h2c and the like would carry requests past us that nobody has let in.
        head.websocket = (
            upgrade.lower() == b"websocket" and b"upgrade" in words and method == b"GET"
        )
        named = words - _CONNECTION_WORDS
        if named:
            head.passed = [field for field in passed if field[0].lower() not in named]
    if head.websocket and head.has_body:
        raise InvalidRequest("a WebSocket handshake has no body", hint="send none")
    return head


def upstream_request(
    head: RequestHead,
    path: bytes,
    *,
    prefix: bytes,
    address: bytes,
    client: bytes,
    show_authorization: bool,
    credential: bytes = b"",
    plain_answer: bool = False,
) -> tuple[bytes, bytes]:
    """The head as the replica gets it: what comes before its id, trace and length, and what after.

    Args:
        path: what follows the prefix, query included; starts with a slash.
        prefix: `/e/WORKSPACE/NAME`, so that a server can make links to itself; b"" where a host
            is the endpoint's own.
        address: of the client.
        client: who asks, the same for one token or address.
        credential: is shown in place of the caller's Authorization.
        plain_answer: it must not be compressed, since we read it.
    """
    # Of equals, one format call is the quickest way to make bytes.
    before = (
        b"%b %b HTTP/1.1\r\nhost: %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: http\r\n"
        b"x-forwarded-host: %b\r\nx-forwarded-prefix: %b\r\nx-lepton-client: %b\r\n"
        b"x-request-id: "
    ) % (head.method, path, head.host, address, head.host, prefix or b"/", client)
    passed = head.passed
    if plain_answer:
        passed = [field for field in passed if field[0].lower() != b"accept-encoding"]
    lines = [b"", *[b": ".join(field) for field in passed]]
    if credential:
        lines.append(b"authorization: " + credential)
    elif show_authorization and head.authorization is not None:
        lines.append(b"authorization: " + head.authorization)
    if head.chunked:
        lines.append(b"transfer-encoding: chunked")
    if head.websocket:
        lines.append(b"connection: Upgrade\r\nupgrade: websocket")
    lines.append(b"\r\n")
    return before, b"\r\n".join(lines)


class ResponseHead:
    """A replica's head, as the client gets it, and how its body is framed."""

    __slots__ = ("content_length", "fields", "start", "transfer_encoding")

    def __init__(self, status: int, reason: bytes, fields: Fields) -> None:
        self.start = b"HTTP/1.1 %d %b" % (status, reason)
        self.fields: Fields = []
        self.content_length: bytes | None = None
        self.transfer_encoding = b""
        connection = b""
        for field in fields:
            key = field[0].lower()
            if key not in HOP_BY_HOP:
                if key == b"content-length":
                    self.content_length = field[1]
                self.fields.append(field)
            elif key == b"transfer-encoding":
                self.transfer_encoding = field[1].lower()
            elif key == b"connection":
                connection = b"%b,%b" % (connection, field[1]) if connection else field[1]
        if connection:
            named = _words(connection) - _CONNECTION_WORDS - {b"content-length"}
            if named:
                self.fields = [each for each in self.fields if each[0].lower() not in named]

    def encode(self, ours: bytes) -> bytes:
        """
        Args:
            ours: more lines, each with its end.
        """
        lines = [self.start, *[b": ".join(field) for field in self.fields], ours]
        return b"\r\n".join(lines) + b"\r\n"


def value_of(fields: Fields, name: bytes) -> bytes:
    """The first of that name; b"" without one. `name` is in lower case."""
    for key, value in fields:
        if key.lower() == name:
            return value.strip()
    return b""


def cookie_of(fields: Fields, name: bytes) -> bytes:
    for part in value_of(fields, b"cookie").split(b";"):
        key, _, value = part.strip().partition(b"=")
        if key == name:
            return value
    return b""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def split_target(target: bytes) -> tuple[bytes, bytes] | None:
    """`/e/WORKSPACE/NAME/rest?query` as (`/e/WORKSPACE/NAME`, `/rest?query`), else None."""
    if target[:3] == b"/e/":
        slash = target.find(b"/", 3)
    elif target.startswith(_OF_PODS):
        slash = target.find(b"/", target.index(b"/", 1) + 1)
    else:
        return None
    if slash < 0:
        return None
    end = target.find(b"/", slash + 1)
    query = target.find(b"?", slash + 1, end if end >= 0 else len(target))
    if query >= 0:
        return target[:query], b"/" + target[query:]
    if end < 0:
        return target, b"/"
    return target[:end], target[end:]


def _words(value: bytes) -> frozenset[bytes]:
    return frozenset(word.strip(b" \t").lower() for word in value.split(b","))
