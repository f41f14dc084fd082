"""Runs handlers: in threads, on the event loop or in batches; with bounds on number and time."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

from leptonai.errors import TooManyRequests
from leptonai.serving.answers import Answer, is_sent_piece_by_piece
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
        self._ended: dict[asyncio.Task[Any], Exception] = {}  # by us, and why
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

    def enter(self, began_s: float) -> "asyncio.Task[Any]":
        """Count the current task's call, which began then by time.perf_counter, until `leave`.

        Raises:
            TooManyRequests: as many wait or run as may.
        """
        if self.length >= MAX_QUEUE:
            raise TooManyRequests(f"{self.length} calls wait already; try again in a second")
        self.length += 1
        task = asyncio.current_task()
        assert task is not None
        self._deadlines.begin(task, began_s)
        return task

    def leave(self, task: "asyncio.Task[Any]") -> None:
        self.length -= 1
        self._deadlines.over(task)
        if self._ended:
            self._ended.pop(task, None)

    def cancelled(self, task: "asyncio.Task[Any]") -> Exception | None:
        """What to raise in the place of a cancellation, if it was ours: 504, or ClientGone."""
        why = self._ended.get(task)
        if why is not None:
            task.uncancel()
        return why

    async def run(
        self,
        route: Route,
        arguments: dict[str, Any],
        encode: Callable[[Any], Any],
        client: Hashable,
        receive: Receive,
    ) -> Any:
        """What `encode` makes of the handler's result; a `Stream` if it comes piece by piece."""
        watch: asyncio.Task[None] | None = None
        if route.declared.cancel_on_disconnect:
            task = asyncio.current_task()
            assert task is not None
            watch = asyncio.ensure_future(self._watch(task, receive))
        try:
            if route.declared.max_batch_size is not None:
                result = await self._batchers[route.call].call(arguments, client, encode)
            elif route.is_async:
                result = encode(await route.call(**arguments))
            else:
                result = await self.threads.run(_call, route.call, arguments, encode)
            return result if type(result) is Answer else await self.begun(result)
        finally:
            if watch is not None:
                watch.cancel()

    async def begun(self, result: Any) -> Any:
        """A result; the beginning of one that comes piece by piece."""
        if is_sent_piece_by_piece(result):
            return await Stream.begun(result, self.threads)
        return result

    def _end_late(self, task: "asyncio.Task[Any]") -> None:
        error = f"handler timeout after {self._timeout_s:g} seconds"
        self._ended[task] = HTTPException(504, error)
        task.cancel()

    async def _watch(self, task: "asyncio.Task[Any]", receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._ended[task] = ClientGone()
        task.cancel()


def _call(call: Callable[..., Any], arguments: dict[str, Any], encode: Callable[[Any], Any]) -> Any:
    # Encoded in the handler's thread, so that a large result does not hold up the event loop.
    return encode(call(**arguments))
