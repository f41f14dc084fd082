"""Answers that a handler makes itself: `Response` and those of a media type, `HTTPException`."""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
)
from typing import IO, Any, ClassVar

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CHUNK_BYTES = 64 << 10

Content = bytes | str | IO[bytes] | Iterable[bytes | str] | AsyncIterable[bytes | str] | None


class HTTPException(Exception):  # the name that its users know
    """Raised by a handler to answer `status_code` with ``{"error": detail}``."""

    def __init__(
        self, status_code: int, detail: Any = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status_code}: {detail}")
        self.status_code = status_code
        self.detail = detail
        self.headers = headers


class Response:
    """Sent as it is. An ASGI application, as the responses of Starlette are, which do as well.

    Args:
        content: the body; or a file, or what gives it piece by piece, which is sent as it comes.
        media_type: its Content-Type; that of the class unless given.
    """

    media_type: ClassVar[str] = "application/octet-stream"

    def __init__(
        self,
        content: Content = None,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        self.status_code = status_code
        self.headers = dict(headers or {})
        self._content = content
        self._media_type = media_type or type(self).media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content = self._content
        headers = {"content-type": self._media_type}
        whole = b"" if content is None else content
        if isinstance(whole, str):
            whole = whole.encode()
        if isinstance(whole, bytes | bytearray | memoryview):
            headers["content-length"] = str(len(whole))
        headers |= {name.lower(): value for name, value in self.headers.items()}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status_code, "headers": raw})
        if isinstance(whole, bytes | bytearray | memoryview):
            await send({"type": "http.response.body", "body": bytes(whole)})
            return
        async for piece in _pieces(whole):
            body = piece.encode() if isinstance(piece, str) else bytes(piece)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class StreamingResponse(Response):
    """Sent piece by piece."""


class PNGResponse(Response):
    media_type = "image/png"


class JPEGResponse(Response):
    media_type = "image/jpeg"


class WAVResponse(Response):
    media_type = "audio/wav"


async def _pieces(content: Any) -> AsyncIterator[bytes | str]:
    import asyncio

    if isinstance(content, AsyncIterable):
        async for piece in content:
            yield piece
        return
    loop = asyncio.get_running_loop()
    steps = (
        iter(lambda: content.read(CHUNK_BYTES), b"") if hasattr(content, "read") else iter(content)
    )
    while (piece := await loop.run_in_executor(None, next, steps, None)) is not None:
        yield piece
