"""The threads that plain handlers run in, and what they do there.

Results are handed to the event loop all at once: while it is busy, any number of calls that end
wake it up once, where `loop.run_in_executor` would do so for each. And they are settled in that one
turn of it: a future's waiter would have the next, which is time that a small model's answer shows.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

log = logging.getLogger("leptonai.serving")


class Work(Protocol):
    """What a thread does."""

    @property
    def over(self) -> bool:
        """Nobody waits for it any more. Threads read it too."""
        ...

    def do(self) -> Any:
        """In a thread, unless it is over."""
        ...

    def end(self, result: Any, error: Exception | None = None) -> None:
        """On the event loop, with what came of it."""
        ...


class Call:
    """One call of a handler, alone or as a part of a batch. It ends once.

    Args:
        encode: makes what is sent of what the handler returned; where that was made, so that a
            large result does not hold up the event loop.
        tell: called on the event loop with the encoded result, or with None and what went wrong.
    """

    __slots__ = ("arguments", "encode", "handler", "over", "pieces", "tell", "waiting")

    def __init__(
        self,
        handler: Callable[..., Any],
        arguments: Mapping[str, Any],
        encode: Callable[[Any], Any],
        tell: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.handler = handler
        self.arguments = arguments
        self.encode = encode
        self.tell = tell
        self.over = False
        self.pieces: Any = None  # of the answer to one of a batch, where they come one by one
        self.waiting: Any = None  # its place in the queue of a batched handler

    def do(self) -> Any:
        return self.encode(self.handler(**self.arguments))

    def end(self, result: Any, error: BaseException | None = None) -> None:
        if not self.over:
            self.over = True
            self.tell(result, error)


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
        self._loop: asyncio.AbstractEventLoop | None = None  # since the first call
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._soon: list[Work] = []  # what this turn of the loop has found
        self._inside = 0  # that was asked for, and has not ended
        self._ended: deque[tuple[Work, Any, BaseException | None]] = deque()
        self._waking = False  # the loop has been asked to look at `_ended`

    def run(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        """Its result. One that is cancelled before its turn does not run at all."""
        future = asyncio.get_running_loop().create_future()
        self.submit(_Awaited(future, function, arguments))
        return future

    def submit(self, work: Work) -> None:
        if self._loop is None:
            self._start()
        self._submit_those()  # they came before
        self._inside += 1
        self._work.put(work)

    def submit_soon(self, work: Work) -> None:
        """At once where there is nothing else to do. Else with all that this turn of the loop
        finds: a thread that begins meanwhile takes the interpreter from the loop, and back, for
        each request that is still to be read."""
        if not self._inside:
            self.submit(work)
            return
        self._inside += 1
        self._soon.append(work)
        if len(self._soon) == 1:
            assert self._loop is not None
            self._loop.call_soon(self._submit_those)

    def stop(self) -> None:
        """Let the threads go when they have done what was asked for."""
        if self._loop is not None:
            self._submit_those()
            for _ in range(self._count):
                self._work.put(None)

    def _start(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        for number in range(self._count):
            name = f"{self._name}_{number}"
            threading.Thread(target=self._run, args=(loop,), name=name, daemon=True).start()

    def _submit_those(self) -> None:
        if self._soon:
            for work in self._soon:
                self._work.put(work)
            self._soon.clear()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._begin is not None:
            self._begin()
        while (work := self._work.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                if not work.over:
                    result = work.do()
            except BaseException as raised:  # SystemExit too: it is the caller's
                error = raised
            self._ended.append((work, result, error))
            del work, result, error
            if not self._waking:
                self._waking = True
                try:
                    loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop was closed: nobody waits any more
                    return

    def _deliver(self) -> None:
        self._waking = False  # first: what ends from here on asks again
        for _ in range(len(self._ended)):  # those alone: what is told may ask for more
            work, result, error = self._ended.popleft()
            self._inside -= 1
            if isinstance(error, StopIteration):
                error = RuntimeError("the handler raised StopIteration")
            elif error is not None and not isinstance(error, Exception):
                error = RuntimeError(repr(error))
            try:
                work.end(result, error)
            except Exception:  # of ours: the others' answers shall be sent
                log.exception("a call's end could not be told")


class _Awaited:
    """Work of which a future tells."""

    __slots__ = ("_arguments", "_function", "_future")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        self._future = future
        self._function = function
        self._arguments = arguments

    @property
    def over(self) -> bool:
        return self._future.done()

    def do(self) -> Any:
        return self._function(*self._arguments)

    def end(self, result: Any, error: Exception | None = None) -> None:
        settle(self._future, result, error)


def settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)
