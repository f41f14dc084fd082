"""The logs of all attempts: dated and bounded while they are written, and found when they are read.

Nothing looks at them while nothing runs.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from leptonai.engines.local.logs import Log, read
from leptonai.ports.engine import AttemptId, LogChunk, LogMarks
from leptonai.supervisor import Ending, Folder
from leptonai.supervisor.folder import is_plain

TICK_S = 1.0  # between looks at the logs, while anything runs
MAX_READ_BYTES = 4 << 20  # at once


class AttemptLogs:
    def __init__(
        self, live: Path, done: Path, *, keep_bytes: int, now_ms: Callable[[], int]
    ) -> None:
        """
        Args:
            live, done: hold the folders of attempts.
            keep_bytes: of each log.
        """
        self._live, self._done = live, done
        self._keep_bytes = keep_bytes
        self._now_ms = now_ms
        self._growing: dict[AttemptId, Log] = {}
        self._ticker: asyncio.TimerHandle | None = None

    def began(self, attempt: AttemptId) -> None:
        """May be said again."""
        if attempt not in self._growing:
            self._growing[attempt] = Log.open(self._live / attempt / "log")
            if self._ticker is None:
                self._tick_later()

    def ended(self, attempt: AttemptId, ending: Ending) -> None:
        if log := self._growing.pop(attempt, None):
            log.close(_end_ns(ending), self._keep_bytes)
        else:  # what it wrote while nobody looked
            with suppress(OSError):
                Log.open(self._live / attempt / "log").trim(self._keep_bytes)

    def forget(self, attempt: AttemptId) -> None:
        """Nothing of it is written any more; what there is can be read."""
        self._growing.pop(attempt, None)

    def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()

    def read(self, attempt: AttemptId, *, offset: int, limit: int) -> LogChunk | None:
        """None where there is no log."""
        path = self._path(attempt)
        if path is None:
            return None
        return read(path, offset=offset, limit=min(limit, MAX_READ_BYTES))

    def marks(self, attempt: AttemptId, ending: Ending | None) -> LogMarks:
        """
        Args:
            ending: of the attempt; None: what its folder says.
        """
        path = self._path(attempt)
        if path is None:
            return LogMarks()
        log = self._growing.get(attempt)
        if log is not None:
            log.mark(self._now_ns())
            return log.marks
        log = Log.open(path)
        told = ending or Folder(path.parent).read()
        if isinstance(told, Ending):
            log.mark(_end_ns(told), last=True)
        return log.marks

    def _path(self, attempt: AttemptId) -> Path | None:
        for place in (self._live, self._done):
            path = place / attempt / "log"
            if is_plain(path):
                return path
        return None

    def _tick_later(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Stops with the last of those that run."""
        self._ticker = None
        now_ns = self._now_ns()
        for log in self._growing.values():
            log.mark(now_ns)
            with suppress(OSError):  # next time, then
                log.trim(self._keep_bytes)
        if self._growing:
            self._tick_later()

    def _now_ns(self) -> int:
        return self._now_ms() * 1_000_000


def _end_ns(ending: Ending) -> int:
    """The whole last millisecond is its."""
    return (ending.finished_at_ms + 1) * 1_000_000 - 1
