"""A ready replica, as this gateway sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonai.core.routing import Upstream

from .limits import MAX_IDLE_PER_REPLICA
from .metrics import Traffic
from .retries import FAILURES_OF_ANSWERS, ejection_s

if TYPE_CHECKING:
    from .report import Reporter
    from .upstream import ReplicaConnection


class Target:
    """With the connections that are open to it and idle."""

    __slots__ = (
        "_bad_answers",
        "_failures",
        "_reporter",
        "ejected_until",
        "idle",
        "outstanding",
        "retired",
        "traffic",
        "upstream",
    )

    def __init__(self, upstream: Upstream, traffic: Traffic) -> None:
        self.upstream = upstream
        self.traffic = traffic  # of its version
        self.outstanding = 0
        self.ejected_until = 0.0
        self.idle: list[ReplicaConnection] = []  # the one used last is taken first
        self.retired = False  # left the table: what is under way ends, nothing new starts
        self._reporter: Reporter | None = None  # that waits for the last of its requests
        self._failures = 0  # in a row, to connect or to answer
        self._bad_answers = 0  # in a row, of 5xx

    def failed(self, now: float, first_s: float) -> None:
        """Leave it alone for a while, for longer each time until it has answered again."""
        if self.ejected_until > now:
            return  # another request that it had lost at the same time
        self._failures += 1
        self.ejected_until = now + ejection_s(first_s, self._failures)

    def answered(self, status: int, now: float, first_s: float) -> None:
        if status >= 500:
            self._bad_answers += 1
            if self._bad_answers >= FAILURES_OF_ANSWERS:
                self._bad_answers = 0
                self.failed(now, first_s)
        elif self._bad_answers or self._failures:
            self._bad_answers = self._failures = 0

    def keep(self, link: ReplicaConnection) -> bool:
        """Whether a connection that has nothing to do stays open."""
        if self.retired or len(self.idle) >= MAX_IDLE_PER_REPLICA:
            return False
        self.idle.append(link)
        return True

    def take_idle(self) -> ReplicaConnection | None:
        """The open connection that was used last, if there is one."""
        while self.idle:
            link = self.idle.pop()
            del link.gateway.idle_links[link]
            if not link.transport.is_closing():
                return link
        return None

    def release(self) -> None:
        """One of its requests has ended."""
        self.outstanding -= 1
        if self._reporter is not None and not self.outstanding:
            self._reporter.left(self)

    def retire(self, reporter: Reporter) -> None:
        self.retired = True
        if self.outstanding:
            self._reporter = reporter
            reporter.leaves(self)
        for link in tuple(self.idle):
            link.close_idle()
