"""Runs handlers: in threads, on the event loop or in batches; with bounds on number and time.

Who calls is a task of the event loop. But most calls need none: they wait for their handler's
result, and for nothing else. Those are counted themselves.
"""

import asyncio
import functools
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
from leptonai.serving.threads import Call, Threads, settle

Encode = Callable[[Any], Any]
Tell = Callable[[Any, BaseException | None], None]

MAX_QUEUE = 1_000  # calls that wait or run; one more is answered 429


class ClientGone(Exception):
    """It hung up before it was answered; there is nobody to answer."""


class TasklessCall(Call):
    """A call that is counted, and has a deadline, itself. It can be cancelled as a task can."""

    __slots__ = ("_calls", "_route")

    def __init__(
        self, calls: "Calls", route: Route, arguments: dict[str, Any], encode: Encode, tell: Tell
    ) -> None:
        super().__init__(route.call, arguments, encode, tell)
        self._calls = calls
        self._route = route

    def end(self, result: Any, error: BaseException | None = None) -> None:
        if not self.over:
            self.over = True
            self._calls.leave(self)
            self.tell(result, error)

    def cancel(self, msg: str | None = None) -> None:
        """Soon, as that of a task: whoever cancels may be looking at all there are."""
        error = asyncio.CancelledError(msg)
        asyncio.get_running_loop().call_soon(self.give_up, error)

    def give_up(self, error: BaseException) -> None:
        if not self.over:
            self._calls.discard(self._route, self)
            self.end(None, error)


Caller = asyncio.Task[Any] | TasklessCall


class Calls:
    """All calls of one photon that wait or run."""

    def __init__(
        self, name: str, routes: list[Route], max_concurrency: int, timeout_s: float
    ) -> None:
        # Init runs in the same threads as the handlers, since some libraries keep state by thread.
        self.threads = Threads(max_concurrency, name)
        self.length = 0
        self._timeout_s = timeout_s
        self._deadlines: Deadlines[Caller] = Deadlines(timeout_s, self._end_late)
        self._ended: dict[Caller, Exception] = {}  # by us, and why
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

    def admit(self) -> None:
        """
        Raises:
            TooManyRequests: as many wait or run as may.
        """
        if self.length >= MAX_QUEUE:
            raise TooManyRequests(f"{self.length} calls wait already; try again in a second")

    def enter(self, began_s: float) -> "asyncio.Task[Any]":
        """Count the current task's call, which began then by time.perf_counter, until `leave`."""
        task = asyncio.current_task()
        assert task is not None
        self.length += 1
        self._deadlines.begin(task, began_s)
        return task

    def leave(self, caller: Caller) -> None:
        self.length -= 1
        self._deadlines.over(caller)
        if self._ended:
            self._ended.pop(caller, None)

    def cancelled(self, task: "asyncio.Task[Any]") -> Exception | None:
        """What to raise in the place of a cancellation, if it was ours: 504, or ClientGone."""
        why = self._ended.get(task)
        if why is not None:
            task.uncancel()
        return why

    def begin(
        self,
        route: Route,
        arguments: dict[str, Any],
        encode: Encode,
        client: Hashable,
        began_s: float,
        tell: Tell,
    ) -> TasklessCall:
        """Have a handler run that is not on the event loop, and count it until `tell` is called.

        Raises:
            TooManyRequests: as many wait as may.
        """
        call = TasklessCall(self, route, arguments, encode, tell)
        self._put(route, call, client)
        self.length += 1
        self._deadlines.begin(call, began_s)
        return call

    def failed(self, route: Route, error: Exception, tell: Tell) -> TasklessCall:
        """One that did not even begin; `tell` is called soon."""
        call = TasklessCall(self, route, {}, lambda result: result, tell)
        call.over = True
        asyncio.get_running_loop().call_soon(tell, None, error)
        return call

    async def run(
        self,
        route: Route,
        arguments: dict[str, Any],
        encode: Encode,
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
            if route.is_async and route.declared.max_batch_size is None:
                result = encode(await route.call(**arguments))
            else:
                result = await self._result(route, arguments, encode, client)
            return result if type(result) is Answer else await self.begun(result)
        finally:
            if watch is not None:
                watch.cancel()

    async def _result(
        self, route: Route, arguments: dict[str, Any], encode: Encode, client: Hashable
    ) -> Any:
        future = asyncio.get_running_loop().create_future()
        call = Call(route.call, arguments, encode, functools.partial(settle, future))
        self._put(route, call, client)
        try:
            return await future
        except asyncio.CancelledError:
            call.over = True
            self.discard(route, call)
            raise

    def _put(self, route: Route, call: Call, client: Hashable) -> None:
        if route.declared.max_batch_size is None:
            self.threads.submit_soon(call)
        else:
            self._batchers[route.call].put(call, client)

    def discard(self, route: Route, call: Call) -> None:
        """Let it go from the queue of its batches, if it waits there."""
        if route.declared.max_batch_size is not None:
            self._batchers[route.call].discard(call)

    async def begun(self, result: Any) -> Any:
        """A result; the beginning of one that comes piece by piece."""
        if is_sent_piece_by_piece(result):
            return await Stream.begun(result, self.threads)
        return result

    def _end_late(self, caller: Caller) -> None:
        error = HTTPException(504, f"handler timeout after {self._timeout_s:g} seconds")
        if isinstance(caller, TasklessCall):
            caller.give_up(error)
        else:
            self._ended[caller] = error
            caller.cancel()

    async def _watch(self, task: "asyncio.Task[Any]", receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._ended[task] = ClientGone()
        task.cancel()
