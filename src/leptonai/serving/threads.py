"""The threads that plain handlers run in.

Results are handed to the event loop all at once: while it is busy, any number of calls that end
wake it up once, where `loop.run_in_executor` would do so for each.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class _Call:
    __slots__ = ("arguments", "error", "function", "future", "result")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        self.future = future
        self.function = function
        self.arguments = arguments
        self.result: Any = None
        self.error: BaseException | None = None


class Threads:
    """At most `count` calls at a time, in the order in which they were asked for.

    Threads start with the first call, and daemons they are: what never returns does not keep the
    process from ending.

    Args:
        begin: called in each thread before all else.
    """

    def __init__(self, count: int, name: str, begin: Callable[[], None] | None = None) -> None:
        self._count = count
        self._name = name
        self._begin = begin
        self._started = False
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended: deque[_Call] = deque()
        self._waking = False  # the loop has been asked to look at `_ended`

    def run(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        """Its result. One that is cancelled before its turn does not run at all."""
        if not self._started:
            self._start()
        future = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(future, function, arguments))
        return future

    def stop(self) -> None:
        """Let the threads go when they have done what was asked for."""
        if self._started:
            for _ in range(self._count):
                self._calls.put(None)

    def _start(self) -> None:
        self._started = True
        loop = asyncio.get_running_loop()
        for number in range(self._count):
            name = f"{self._name}_{number}"
            threading.Thread(target=self._work, args=(loop,), name=name, daemon=True).start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._begin is not None:
            self._begin()
        while (call := self._calls.get()) is not None:
            if call.future.cancelled():
                continue
            try:
                call.result = call.function(*call.arguments)
            except BaseException as error:  # SystemExit too: it is the caller's
                call.error = error
            self._ended.append(call)
            if not self._waking:
                self._waking = True
                try:
                    loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop was closed: nobody waits any more
                    return
            del call

    def _deliver(self) -> None:
        self._waking = False  # first: what ends from here on asks again
        while self._ended:
            call = self._ended.popleft()
            if call.future.done():
                continue
            if call.error is None:
                call.future.set_result(call.result)
            elif isinstance(call.error, StopIteration):
                call.future.set_exception(RuntimeError("the handler raised StopIteration"))
            elif isinstance(call.error, Exception):
                call.future.set_exception(call.error)
            else:
                call.future.set_exception(RuntimeError(repr(call.error)))
