"""The same exchanges as `http_sync`, for asyncio, over httpx."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

import httpx

from leptonai.client.http_sync import keepalive_options, system_words
from leptonai.client.messages import (
    CHUNK_BYTES,
    CONNECT_TIMEOUT_S,
    MAX_ANSWER_BYTES,
    Answer,
    Cut,
    NotReached,
    Request,
    Told,
    too_large,
)

P = ParamSpec("P")
T = TypeVar("T")
Feed: TypeAlias = AsyncGenerator[T, None]
MAX_CONNECTIONS = 100
MAX_IDLE_CONNECTIONS = 8


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Slow work, kept off the event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


class AsyncStream:
    """An answer whose body is still arriving."""

    def __init__(self, response: httpx.Response, held: AsyncExitStack) -> None:
        self._response = response
        self._held = held
        self.status = response.status_code

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises:
        Cut: the body is not complete.
        """
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as broken:
            raise Cut(_reason(broken)) from broken

    async def read(self) -> bytes:
        parts, size = [], 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise too_large()
        return b"".join(parts)

    async def aclose(self) -> None:
        await self._held.aclose()


class AsyncHttp:
    """Exchanges with one server; safe for many tasks of one event loop."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None)
        self._endless = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, read=None, pool=None)
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=ssl.create_default_context() if url.startswith("https:") else False,
                limits=httpx.Limits(
                    max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS
                ),
                socket_options=keepalive_options(),
            ),
            trust_env=False,  # as in http_sync: no proxies
        )

    async def exchange(self, request: Request, token: str) -> Answer:
        """Raises:
        NotReached: nothing was sent.
        Cut: no complete answer came.
        """
        stream = await self._open(request, token, self._timeout)
        try:
            body = await stream.read()
            return Answer(stream.status, body, dict(stream._response.headers))
        finally:
            await stream.aclose()

    async def stream(self, request: Request, token: str) -> AsyncStream:
        """The answer as it arrives, however long it is silent, unless it can be asked for again;
        raises as `exchange` does."""
        timeout = self._timeout if request.ranged else self._endless
        return await self._open(request, token, timeout)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _open(self, request: Request, token: str, timeout: httpx.Timeout) -> AsyncStream:
        body = request.body
        async with AsyncExitStack() as held:
            try:
                response = await held.enter_async_context(
                    self._client.stream(
                        request.method,
                        self._url + request.path,
                        headers=request.headers(token) | {"Accept-Encoding": "identity"},
                        content=_file_chunks(body, request.told)
                        if isinstance(body, Path)
                        else body,
                        timeout=timeout,
                    )
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
                raise NotReached(_reason(failure)) from failure
            except httpx.HTTPError as broken:
                raise Cut(_reason(broken)) from broken
            return AsyncStream(response, held.pop_all())
        raise AssertionError("unreachable")


async def _file_chunks(path: Path, told: Told | None) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    done = 0
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
            done += len(chunk)
            if told is not None:
                told(done)
    finally:
        file.close()


def _reason(failure: httpx.HTTPError) -> str:
    if isinstance(failure, httpx.TimeoutException):
        return "no answer in time"
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return system_words(cause)
        cause = cause.__cause__ or cause.__context__
    return str(failure) or type(failure).__name__
