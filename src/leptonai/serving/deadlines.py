"""Ends calls that take too long, with one timer for all of them."""

import asyncio
from collections.abc import Callable
from typing import Any

Task = asyncio.Task[Any]


class Deadlines:
    """All have the same time, so the first that began is the first that is late.

    A call costs two changes of a dictionary; a timer of its own would cost a heap's.
    """

    def __init__(self, timeout_s: float, end: Callable[[Task], None]) -> None:
        self._timeout_s = timeout_s
        self._end = end
        self._due_s: dict[Task, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: Task, loop: asyncio.AbstractEventLoop) -> None:
        due_s = loop.time() + self._timeout_s
        self._due_s[task] = due_s
        if self._timer is None:
            self._timer = loop.call_at(due_s, self._look, loop)

    def over(self, task: Task) -> None:
        self._due_s.pop(task, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now_s = loop.time()
        while self._due_s:
            task, due_s = next(iter(self._due_s.items()))
            if due_s > now_s:
                self._timer = loop.call_at(due_s, self._look, loop)
                return
            del self._due_s[task]
            self._end(task)
