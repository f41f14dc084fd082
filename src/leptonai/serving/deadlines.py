"""Ends calls that take too long, with one timer for all of them."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Call = TypeVar("Call")


class Deadlines(Generic[Call]):
    """All have the same time, so the first that began is the first that is late.

    A call costs two changes of a dictionary; a timer of its own would cost a heap's.
    """

    def __init__(self, timeout_s: float, end: Callable[[Call], None]) -> None:
        self._timeout_s = timeout_s
        self._end = end
        self._began_s: dict[Call, float] = {}  # by time.perf_counter
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: Call, began_s: float) -> None:
        self._began_s[call] = began_s
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._look)

    def over(self, call: Call) -> None:
        self._began_s.pop(call, None)

    def _look(self) -> None:
        self._timer = None
        while self._began_s:
            call, began_s = next(iter(self._began_s.items()))
            left_s = began_s + self._timeout_s - time.perf_counter()
            if left_s > 0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
                return
            del self._began_s[call]
            self._end(call)
