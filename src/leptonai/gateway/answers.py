"""What the gateway says itself, in place of a replica."""

from math import ceil

import msgspec

from leptonai.errors import LeptonError, RequestError, TryLater, Unauthenticated

from .limits import MAX_HEAD_BYTES, MAX_HEADERS


class RequestTooSlow(RequestError):
    code, status, retry = "RequestTimeout", 408, True


class HeadTooLarge(RequestError):
    code, status = "HeaderTooLarge", 431


class ReplicaFailed(TryLater):
    """Part of the request had gone out: only its sender knows whether it may be repeated."""

    code, status = "ReplicaFailed", 502


class ReplicaTooSlow(TryLater):
    code, status = "ReplicaTimeout", 504


def head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"the head is larger than {MAX_HEAD_BYTES} bytes or has more than {MAX_HEADERS} fields",
        hint="send less in headers and in the path",
    )


def head_too_slow(within_s: float) -> RequestTooSlow:
    return RequestTooSlow(
        f"the head did not arrive within {within_s:g} s", hint="send the whole head at once"
    )


def body_too_slow(within_s: float) -> RequestTooSlow:
    return RequestTooSlow(
        f"the request's body did not arrive within {within_s:g} s",
        hint="send it faster, or raise the endpoint's ingress timeout",
    )


def replica_too_slow(endpoint: str, within_s: float, *, as_asked: bool) -> ReplicaTooSlow:
    """
    Args:
        as_asked: its caller would not wait for longer.
    """
    return ReplicaTooSlow(
        f"endpoint {endpoint!r} did not answer within {within_s:g} s",
        hint="wait for longer: X-Lepton-Timeout-Ms says how long"
        if as_asked
        else "make its work shorter, or raise its ingress timeout",
    )


REASONS = {
    200: b"OK",
    303: b"See Other",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    408: b"Request Timeout",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
RETRY_AFTER_S = 1

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    content_type: bytes = JSON
    extra: bytes = b""  # more header lines

    def encode(self, *, close: bool, keep_alive_1_0: bool, head_only: bool) -> bytes:
        if close:
            connection = b"connection: close\r\n"
        else:
            connection = b"connection: keep-alive\r\n" if keep_alive_1_0 else b""
        return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
            self.status,
            REASONS[self.status],
            self.content_type,
            len(self.body),
            connection,
            self.extra,
            b"" if head_only else self.body,
        )


def error_answer(
    error: LeptonError,
    request_id: bytes = b"",
    *,
    extra: bytes = b"",
    retry_after_s: float = RETRY_AFTER_S,
) -> Answer:
    """
    Args:
        extra: more header lines.
        retry_after_s: after which another try is worth it, where it is at all.
    """
    if request_id:
        extra += b"x-request-id: %b\r\n" % request_id
    if isinstance(error, Unauthenticated):
        extra += b"www-authenticate: Bearer\r\n"
    if error.status in (429, 503):
        extra += b"retry-after: %d\r\n" % ceil(max(1.0, retry_after_s))
    return Answer(error.status, msgspec.json.encode(error.wire()), extra=extra)
