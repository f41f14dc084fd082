"""Requests and answers as values: what to send, what an answer means, when to try again. Pure."""

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from leptonai.errors import Internal, InvalidRequest, LeptonError, from_wire

T = TypeVar("T")
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Parameter = str | int | bool | None | list[str]
Told = Callable[[int], None]  # how many bytes are done

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0  # without a byte, where an answer is due
KEEPALIVE_IDLE_S = 30  # a silent stream is probed after this, so that a dead peer is noticed
KEEPALIVE_PROBES = 3
CHUNK_BYTES = 1 << 18
MAX_ANSWER_BYTES = 256 << 20  # of one that is read as a whole
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
MAX_LINE_CHARS = 1 << 20  # a longer line is cut there


class NotReached(Exception):
    """No connection, so nothing was sent."""


def too_large() -> Internal:
    return Internal(
        f"the server's answer is larger than {MAX_ANSWER_BYTES} bytes",
        hint="is this the URL of a Lepton workspace?",
    )


class Cut(Exception):
    """The connection broke, or fell silent, before the answer was complete: it may have been
    done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: Method
    path: str  # below the workspace's URL; quoted, with its query
    body: bytes | Path | None = None  # a Path is streamed
    key: str = ""  # Idempotency-Key: the server answers the same key with the same resource
    ranged: bool = False  # what it asks for never changes: where it is cut, ask for the rest
    start: int = 0  # of such a one: how many bytes are here already
    content_range: str = ""  # of a body that is a part of a file
    told: Told | None = field(default=None, compare=False)  # how many bytes of the body were sent
    media: str = "application/json"  # of a body of bytes
    once: bool = False  # though its method says that it may be sent twice, that does something else
    linking: bool = False  # a redirect is its answer, and is not followed

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice is sending it once."""
        return not self.once and (self.method != "POST" or self.key != "")

    def headers(self, token: str) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, */*",
            "User-Agent": "openlepton",
        }
        if isinstance(self.body, Path):
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Length"] = str(self.body.stat().st_size)
        elif self.body is not None:
            part = "application/octet-stream" if self.content_range else self.media
            headers["Content-Type"] = part
            headers["Prefer"] = "handling=strict"  # a field that nobody knows is refused
            headers["Content-Length"] = str(len(self.body))
        if self.content_range:
            headers["Content-Range"] = self.content_range
        if self.start:
            headers["Range"] = f"bytes={self.start}-"
        if self.key:
            headers["Idempotency-Key"] = self.key
        return headers


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after_s(self) -> float | None:
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() else None

    def error(self) -> LeptonError:
        try:
            body: object = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            body = None
        return from_wire(self.status, body)

    def read(self, kind: type[T]) -> T:
        """Raises:
        Internal: this is not the answer of a Lepton server of our version.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as unreadable:
            raise Internal(
                f"the server's answer cannot be read: {unreadable}",
                hint="is this the URL of a Lepton workspace, and is the server as new as the "
                "client?",
            ) from unreadable


def may_try_again(request: Request, answer: Answer) -> bool:
    """Whether the same request may do better shortly."""
    if answer.status == 429:  # refused before anything was done
        return True
    return answer.status in (502, 503) and request.repeatable


def is_done_already(request: Request, answer: Answer) -> bool:
    """Whether a repeated request was refused because its first sending did it."""
    return request.method == "DELETE" and answer.status == 404


def pause_s(attempt: int, chance: float) -> float:
    """How long to wait after attempt 0, 1, …; `chance` in [0, 1) spreads the callers."""
    longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt, 16))
    return longest * (0.5 + chance / 2)


def path_of(*parts: str, **query: Parameter) -> str:
    """`/jobs/x?page=1` of ("jobs", "x", page=1); parameters that are None are left out.

    Raises:
        InvalidRequest: a part cannot name anything.
    """
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidRequest(
                f"{part!r} is not a name or an id",
                hint="a path goes down from its root, without '..'"
                if part
                else "see the list for names",
            )
    path = "".join("/" + quote(part, safe="@:", errors="replace") for part in parts)
    given = {key: _parameter(value) for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given, doseq=True, errors='replace')}" if given else path


def _parameter(value: Parameter) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def encode(body: object) -> bytes:
    """Raises:
    InvalidRequest: something in it cannot be JSON.
    """
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as invalid:
        raise InvalidRequest(
            f"not valid UTF-8: {invalid.object!a}", hint="send bytes as base64 or in a file"
        ) from invalid


def merge_patch(**fields: Any) -> bytes:
    """A merge patch (RFC 7386) of these fields: None deletes."""
    return encode(fields)


def get_of(*parts: str, **query: Parameter) -> Request:
    return Request(method="GET", path=path_of(*parts, **query))


def post_to(path: str, body: object, key: str) -> Request:
    return Request(method="POST", path=path, body=encode(body), key=key)


def patch_of(body: bytes, *parts: str) -> Request:
    return Request(method="PATCH", path=path_of(*parts), body=body)


def delete_of(*parts: str, **query: Parameter) -> Request:
    return Request(method="DELETE", path=path_of(*parts, **query))


class Lines:
    """Text lines out of chunks of bytes that are cut anywhere, also inside a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes, without their ends."""
        lines = (self._rest + self._decoder.decode(chunk)).split("\n")
        self._rest = lines.pop()
        while len(self._rest) >= MAX_LINE_CHARS:
            lines.append(self._rest[:MAX_LINE_CHARS])
            self._rest = self._rest[MAX_LINE_CHARS:]
        return [line.removesuffix("\r") for line in lines]

    def end(self) -> list[str]:
        """The last line, if it has no end."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        return [rest] if rest else []


def skip_bytes(chunk: bytes, count: int) -> tuple[bytes, int]:
    """The chunk without its first `count` bytes, and how many are still to be skipped."""
    return chunk[count:], max(0, count - len(chunk))
