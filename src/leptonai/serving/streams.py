"""Results that come piece by piece: as chunks, or as events where the client takes those."""

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

from leptonai.serving.answers import JSON, refusal
from leptonai.serving.responses import Receive, Send
from leptonai.serving.threads import Threads

EVENTS = b"text/event-stream"

_END = object()

log = logging.getLogger("leptonai.serving")


class Stream:
    """A result of which the first piece is there, so that what fails at once has its own status."""

    def __init__(self, pieces: Any, threads: Threads, first: Any) -> None:
        self._pieces = pieces
        self._threads = threads
        self._first = first
        self._stepping = threading.Lock()  # a step that nobody waits for any more may still run

    @classmethod
    async def begun(cls, pieces: Any, threads: Threads) -> "Stream":
        stream = cls(pieces, threads, _END)
        stream._first = await stream._next()
        return stream

    async def send(self, send: Send, receive: Receive, accept: bytes) -> None:
        """To the end, or until the client hangs up.

        Raises:
            Exception: what the handler raised after its first piece, where the answer cannot say so
                but by breaking off.
        """
        as_events = EVENTS in accept
        content_type = EVENTS if as_events else _content_type(self._first)
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        encode = _event if as_events else _chunk
        sending = asyncio.ensure_future(self._send_pieces(send, encode))
        gone = asyncio.ensure_future(hung_up(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                try:
                    sending.result()
                except Exception as error:
                    if not as_events:
                        raise
                    await send(_body(b"event: error\ndata: " + _told(error) + b"\n\n"))
                await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sending
            await self._close()

    async def _send_pieces(self, send: Send, encode: Any) -> None:
        piece = self._first
        while piece is not _END:
            await send(_body(encode(piece)))
            piece = await self._next()

    async def _next(self) -> Any:
        if isinstance(self._pieces, AsyncIterator):
            return await anext(self._pieces, _END)
        return await self._threads.run(self._step)

    def _step(self) -> Any:
        with self._stepping:
            return next(self._pieces, _END)

    async def _close(self) -> None:
        """Let the handler see that nobody listens any more."""
        if hasattr(self._pieces, "aclose"):
            await self._pieces.aclose()
        elif inspect.isgenerator(self._pieces):
            await self._threads.run(self._close_generator)

    def _close_generator(self) -> None:
        with self._stepping:
            self._pieces.close()


async def hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(chunk: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, "more_body": True}


def _told(error: Exception) -> bytes:
    known = refusal(error)
    if known is not None:
        return known.body
    log.error("a stream failed", exc_info=error)
    return JSON.encode({"error": str(error) or type(error).__name__})


def _content_type(first: Any) -> bytes:
    if isinstance(first, str) or first is _END:
        return b"text/plain; charset=utf-8"
    if isinstance(first, bytes | bytearray | memoryview):
        return b"application/octet-stream"
    return b"application/x-ndjson"


def _chunk(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    return JSON.encode(piece) + b"\n"


def _event(piece: Any) -> bytes:
    if isinstance(piece, bytes | bytearray | memoryview):
        piece = bytes(piece).decode("utf-8", "replace")
    if not isinstance(piece, str):
        return b"data: " + JSON.encode(piece) + b"\n\n"
    lines = piece.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
