"""Runs handlers: in threads, on the event loop or in batches; with bounds on number and time."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

from leptonai.errors import TooManyRequests
from leptonai.serving.answers import is_sent_piece_by_piece
from leptonai.serving.batches import Batcher
from leptonai.serving.batching import BatchQueue
from leptonai.serving.deadlines import Deadlines
from leptonai.serving.handlers import Route
from leptonai.serving.responses import HTTPException, Receive
from leptonai.serving.streams import Stream
from leptonai.serving.threads import Threads

MAX_QUEUE = 1_000  # calls that wait or run; one more is answered 429


class ClientGone(Exception):
    """It hung up before it was answered; there is nobody to answer."""


class Calls:
    """All calls of one photon that wait or run."""

    def __init__(
        self, name: str, routes: list[Route], max_concurrency: int, timeout_s: float
    ) -> None:
        # Init runs in the same threads as the handlers, since some libraries keep state by thread.
        self.threads = Threads(max_concurrency, name)
        self.length = 0
        self._timeout_s = timeout_s
        self._deadlines = Deadlines(timeout_s, self._end_late)
        self._late: set[asyncio.Task[Any]] = set()
        self._deserted: set[asyncio.Task[Any]] = set()
        self._batchers = {
            route.call: Batcher(
                route.call,
                BatchQueue(
                    route.declared.max_batch_size, route.declared.max_wait_s, capacity=MAX_QUEUE
                ),
                self.threads,
                max_concurrency,
            )
            for route in routes
            if route.declared.max_batch_size is not None
        }

    async def result(
        self,
        route: Route,
        arguments: Callable[[], Any],
        encode: Callable[[Any], Any],
        client: Hashable,
        receive: Receive,
    ) -> Any:
        """What `encode` makes of the handler's result; a `Stream` if it comes piece by piece.

        Args:
            arguments: an awaitable of the handler's; its time counts.

        Raises:
            TooManyRequests: as many wait as may.
            HTTPException: 504, it took longer than the photon allows.
            ClientGone: before it was answered, and the handler wants to know that.
        """
        if self.length >= MAX_QUEUE:
            raise TooManyRequests(f"{self.length} calls wait already; try again in a second")
        self.length += 1
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self._deadlines.begin(task, loop)
        watch: asyncio.Task[None] | None = None
        try:
            given = await arguments()
            if route.declared.cancel_on_disconnect:
                watch = loop.create_task(self._watch(task, receive))
            if route.call in self._batchers:
                result = await self._batchers[route.call].call(given, client, encode)
            elif route.is_async:
                result = encode(await route.call(**given))
            else:
                result = await self.threads.run(_call, route.call, given, encode)
            if is_sent_piece_by_piece(result):
                result = await Stream.begun(result, self.threads)
        except asyncio.CancelledError:
            if task in self._late:
                task.uncancel()
                raise HTTPException(
                    504, f"handler timeout after {self._timeout_s:g} seconds"
                ) from None
            if task in self._deserted:
                task.uncancel()
                raise ClientGone from None
            raise
        finally:
            self.length -= 1
            self._deadlines.over(task)
            self._late.discard(task)
            if watch is not None:
                watch.cancel()
                self._deserted.discard(task)
        return result

    def _end_late(self, task: asyncio.Task[Any]) -> None:
        self._late.add(task)
        task.cancel()

    async def _watch(self, task: asyncio.Task[Any], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._deserted.add(task)
        task.cancel()


def _call(call: Callable[..., Any], arguments: dict[str, Any], encode: Callable[[Any], Any]) -> Any:
    # Encoded in the handler's thread, so that a large result does not hold up the event loop.
    return encode(call(**arguments))
