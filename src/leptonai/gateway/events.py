"""An event stream that began while its request was held. Pure."""

from .head import chunk

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\nx-request-id: %b\r\n%b\r\n"
)


def waiting(seconds: int) -> bytes:
    return chunk(b": waiting for a replica, %d s\n\n" % seconds)


def failed(data: bytes) -> bytes:
    """What ends a stream whose status was 200 before anything was known."""
    return chunk(b"event: error\ndata: %b\n\n" % data)
