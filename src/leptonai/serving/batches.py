"""Runs a batched handler: gathers calls with a `BatchQueue`, and deals out what comes back."""

import asyncio
import functools
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence, Sized
from typing import Any

from leptonai.errors import TooManyRequests
from leptonai.serving.batching import BatchQueue
from leptonai.serving.threads import Call, Threads, settle

MAX_PIECES = 1_000  # of a stream that its client has not taken yet

Encode = Callable[[Any], Any]  # what a handler returned as what is sent

_END = object()

log = logging.getLogger("leptonai.serving")


class Batcher:
    """Calls of one handler.

    A batch that is due starts when fewer than `concurrency` run. A call that comes alone to a model
    that is free starts at once; where several came together of late, with those that the event loop
    finds together on its connections.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        queue: BatchQueue[Call],
        threads: Threads,
        concurrency: int,
    ) -> None:
        self._handler = handler
        self._queue = queue
        self._threads = threads
        self._concurrency = concurrency
        self._running = 0
        self._asked_to_start = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_async = inspect.iscoroutinefunction(handler)
        self._streams = inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler)
        self._tasks: set[asyncio.Future[Any]] = set()  # the loop itself would forget them

    async def call(self, arguments: Mapping[str, Any], client: Hashable, encode: Encode) -> Any:
        """What `encode` made of this call's own result, or `Pieces` of a handler that yields.

        Raises:
            TooManyRequests: as many wait as may.
            Exception: what the handler gave back for this call, or raised for all of the batch.
        """
        future = asyncio.get_running_loop().create_future()
        call = Call(self._handler, arguments, encode, functools.partial(settle, future))
        self.put(call, client)
        try:
            return await future
        except asyncio.CancelledError:
            call.over = True
            self.discard(call)
            raise

    def put(self, call: Call, client: Hashable) -> None:
        """
        Raises:
            TooManyRequests: as many wait as may.
        """
        is_free = self._running < self._concurrency
        if is_free and self._queue.lets_pass:
            self._begin([call])
            return
        if self._queue.full:
            raise TooManyRequests(f"{len(self._queue)} calls wait already; try again in a second")
        loop = asyncio.get_running_loop()
        call.waiting = self._queue.put(call, client, _shapes(call.arguments), loop.time())
        if self._asked_to_start or not is_free:
            return
        if self._queue.crowded:
            self._asked_to_start = True
            loop.call_soon(self._start)
        else:
            self._start()

    def discard(self, call: Call) -> None:
        """Let it go from the queue, if it waits there."""
        if call.waiting is not None:
            self._queue.discard(call.waiting)

    def _start(self) -> None:
        self._asked_to_start = False
        loop = asyncio.get_running_loop()
        while self._running < self._concurrency:
            batch = self._queue.take(loop.time())
            if not batch:
                self._start_when_due(loop)
                return
            self._begin(batch)

    def _start_when_due(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._queue.due_s()
        if due_s is not None:
            self._timer = loop.call_at(due_s, self._start)

    def _begin(self, batch: list[Call]) -> None:
        self._running += 1
        if not (self._streams or self._is_async):
            self._threads.submit(_Batch(self._handler, batch, self._ended))
            return
        task = asyncio.ensure_future(self._stream(batch) if self._streams else self._call(batch))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._task_ended, batch))

    def _task_ended(self, batch: list[Call], task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._ended(batch, None, asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._ended(batch, None, error)
        else:
            self._ended(batch, task.result())

    def _ended(self, batch: list[Call], results: Any, error: BaseException | None = None) -> None:
        self._running -= 1
        if self._queue:
            self._start()  # the model shall not wait until the answers are written
        if error is not None:
            for call in batch:
                if call.pieces is not None:
                    call.pieces.end(error)
                call.end(None, error)
            return
        for call, result in zip(batch, results or (), strict=False):
            if isinstance(result, BaseException):
                call.end(None, result)
            else:
                call.end(result)

    async def _call(self, batch: list[Call]) -> list[Any]:
        return _encoded(await self._handler(**_together(batch)), batch)

    async def _stream(self, batch: list[Call]) -> None:
        """Deal out each list that the handler yields, until it ends or nobody listens."""
        steps = self._handler(**_together(batch))
        listening = True
        try:
            while listening and (step := await self._next(steps)) is not _END:
                listening = _deal(_results(step, batch), batch)
        finally:
            if inspect.isasyncgen(steps):
                await steps.aclose()
            else:
                await self._threads.run(steps.close)
        for call in batch:
            if call.pieces is not None:
                call.pieces.end()
            else:
                call.end(call.encode(None))

    async def _next(self, steps: Any) -> Any:
        if inspect.isasyncgen(steps):
            return await anext(steps, _END)
        return await self._threads.run(next, steps, _END)


class _Batch:
    """As work for a thread."""

    __slots__ = ("_calls", "_handler", "_tell")

    over = False  # others in it may be waited for

    def __init__(
        self, handler: Callable[..., Any], calls: list[Call], tell: Callable[..., None]
    ) -> None:
        self._handler = handler
        self._calls = calls
        self._tell = tell

    def do(self) -> list[Any]:
        return _encoded(self._handler(**_together(self._calls)), self._calls)

    def end(self, result: Any, error: Exception | None = None) -> None:
        self._tell(self._calls, result, error)


class Pieces(AsyncIterator[Any]):
    """What a handler that yields gives one of its calls, piece by piece."""

    def __init__(self) -> None:
        self.abandoned = False  # nobody takes them any more
        self._pieces: deque[Any] = deque()
        self._news = asyncio.Event()
        self._over: BaseException | None = None

    def put(self, piece: Any) -> None:
        if len(self._pieces) >= MAX_PIECES:
            self._pieces.clear()
            self.abandoned = True
            self.end(TooManyRequests(f"the client left {MAX_PIECES} pieces of its answer waiting"))
        elif self._over is None:
            self._pieces.append(piece)
            self._news.set()

    def end(self, error: BaseException | None = None) -> None:
        if self._over is None:
            self._over = StopAsyncIteration() if error is None else error
            self._news.set()

    async def __anext__(self) -> Any:
        while not self._pieces:
            if self._over is not None:
                raise self._over
            self._news.clear()
            await self._news.wait()
        return self._pieces.popleft()

    async def aclose(self) -> None:
        self.abandoned = True
        self._pieces.clear()


def _deal(results: Sequence[Any], batch: list[Call]) -> bool:
    """Give each call its piece; False when nobody listens any more."""
    for call, piece in zip(batch, results, strict=True):
        pieces = call.pieces
        if isinstance(piece, BaseException):
            if pieces is not None:
                pieces.end(piece)
            else:
                call.end(None, piece)
        elif piece is not None:
            if pieces is None and not call.over:
                pieces = call.pieces = Pieces()
                call.end(pieces)
            if pieces is not None:
                pieces.put(piece)
    return any(
        not call.pieces.abandoned if call.pieces is not None else not call.over for call in batch
    )


def _together(batch: list[Call]) -> dict[str, list[Any]]:
    return {name: [call.arguments[name] for call in batch] for name in batch[0].arguments}


def _results(returned: Any, batch: list[Call]) -> Sequence[Any]:
    if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Sized):
        raise TypeError(
            f"a batched handler gives a list, of one result a call; it gave a "
            f"{type(returned).__name__}"
        )
    if len(returned) != len(batch):
        raise ValueError(
            f"the handler gave {len(returned)} results for a batch of {len(batch)} calls"
        )
    results: Sequence[Any] = returned  # type: ignore[assignment]  # an array or a tensor too
    return results


def _encoded(returned: Any, batch: list[Call]) -> list[Any]:
    encoded: list[Any] = []
    for call, result in zip(batch, _results(returned, batch), strict=True):
        try:
            encoded.append(result if isinstance(result, BaseException) else call.encode(result))
        except Exception as error:  # its neighbours can be sent
            encoded.append(error)
    return encoded


def _shapes(arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of the arrays among the arguments: what differs in them cannot be stacked."""
    return tuple(
        (tuple(value.shape), str(value.dtype))
        for value in arguments.values()
        if hasattr(value, "shape")
    )
