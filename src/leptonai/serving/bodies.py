"""Bodies of requests, within a bound."""

import inspect
from typing import Any

from leptonai.errors import TooLarge
from leptonai.serving.calls import ClientGone
from leptonai.serving.handlers import Route
from leptonai.serving.responses import Message, Receive, Scope

MAX_BODY_BYTES = 64 << 20


async def read_body(fields: dict[bytes, bytes], receive: Receive) -> bytes:
    """The whole body.

    Raises:
        TooLarge: as soon as it is known to be more than `MAX_BODY_BYTES`.
        ClientGone: it hung up before the end.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise too_large()
        return body  # nearly always
    if int(fields.get(b"content-length", b"0")) > MAX_BODY_BYTES:
        raise too_large()
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise too_large()
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def too_large() -> TooLarge:
    return TooLarge(f"the body is larger than the {MAX_BODY_BYTES} bytes that are accepted")


async def with_request(route: Route, scope: Scope, receive: Receive) -> dict[str, Any]:
    """For use_raw_args: Starlette's Request."""
    from starlette.requests import Request

    if not route.is_async:  # it cannot wait for the body: let it be there
        body = await read_body(dict(scope["headers"]), receive)

        async def receive_read() -> Message:
            return {"type": "http.request", "body": body}

        receive = receive_read
    names = inspect.signature(route.call).parameters
    return {name: Request(scope, receive) for name in names}
