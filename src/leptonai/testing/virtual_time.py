"""Virtual time: an event loop that never waits. Hours of waiting pass in milliseconds, and the same
program takes the same steps in the same order every time.
"""

import asyncio
from asyncio import base_events
from collections.abc import Coroutine
from typing import Any, TypeVar

MAX_ITERATIONS_AT_ONE_INSTANT = 20_000  # of the loop: more means that something spins

START_MS = 1_700_000_000_000  # what a VirtualClock says first

T = TypeVar("T")


class Deadlock(AssertionError):
    """Everything waits for something that cannot happen any more."""


class Livelock(AssertionError):
    """Something runs round and round, and time stands still."""


class VirtualTimeLoop(base_events.BaseEventLoop):
    """Where nothing is ready, the clock jumps to the next timer.

    It has no sockets, pipes, threads or signals: what runs in it touches nothing outside.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = _Jump(self)  # what BaseEventLoop waits with
        self._iterations = 0  # since time last moved

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now_s

    def run_in_executor(self, *args: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a thread has no place in virtual time: it runs in real time")

    def _process_events(self, event_list: list[object]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """Nobody wakes this loop from outside."""

    def forgive(self) -> None:
        """Let what spun run a little longer."""
        self._iterations = 0

    def pass_time(self, timeout: float | None) -> None:
        """What there is to do instead of waiting: for the next timer (seconds), for what is ready
        (0), or for ever (None)."""
        if timeout is None:
            waiting = sorted(_describe(task) for task in asyncio.all_tasks(self))
            raise Deadlock("nothing can ever happen again; waiting:\n  " + "\n  ".join(waiting))
        if timeout > 0:
            self._now_s += timeout
            self._iterations = 0
            return
        self._iterations += 1
        if self._iterations > MAX_ITERATIONS_AT_ONE_INSTANT:
            running = sorted(_describe(task) for task in asyncio.all_tasks(self))
            raise Livelock(f"spinning at {self._now_s:.3f} s:\n  " + "\n  ".join(running))


class _Jump:
    """The part of a selector that an event loop uses."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        self._loop.pass_time(timeout)
        return []

    def close(self) -> None:
        """There is nothing to close."""


def _describe(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    where = f"{frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else "done"
    return f"{task.get_name()} at {where}"


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in a virtual time of its own, which starts at 0."""
    loop = VirtualTimeLoop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        result = loop.run_until_complete(main)
    finally:
        _unwind(loop)
        loop.close()
    for context in problems:
        if isinstance(error := context.get("exception"), Exception):
            raise error
    return result


def _unwind(loop: VirtualTimeLoop) -> None:
    """Let every task that is left see its cancellation."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.forgive()
    for last in (asyncio.wait(left) if left else None, loop.shutdown_asyncgens()):
        if last is not None:
            try:
                loop.run_until_complete(last)
            except Livelock:
                last.close()  # what spins cannot be ended


class VirtualClock:
    """The wall clock of a machine, on the running loop's time; somebody may set it."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self.start_ms = start_ms

    def set_forward(self, by_ms: int) -> None:
        """Negative sets it back."""
        self.start_ms += by_ms

    def now_ms(self) -> int:
        return self.start_ms + round(1000 * asyncio.get_running_loop().time())


class ProcessClock:
    """Time as one process is told it: where its machine's clock is set back it goes on from where
    it was, and where that is set forward it follows."""

    def __init__(self, machine: VirtualClock) -> None:
        self._machine = machine
        self._start_ms = machine.start_ms

    def now_ms(self) -> int:
        self._start_ms = max(self._start_ms, self._machine.start_ms)
        return self._start_ms + round(1000 * asyncio.get_running_loop().time())
