"""A ready replica, as this gateway sees it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from leptonai.core.routing import Upstream

from .limits import MAX_IDLE_PER_REPLICA, MAX_UNPROVEN, PROVEN_S
from .metrics import Traffic
from .retries import FAILURES_OF_ANSWERS, ejection_s

if TYPE_CHECKING:
    from .exchange import Exchange
    from .gateway import Gateway
    from .report import Reporter
    from .upstream import ReplicaConnection


class Target:
    """With the connections that are open to it and idle, and the requests that wait for one."""

    __slots__ = (
        "_bad_answers",
        "_failures",
        "_gateway",
        "_opening",
        "_reporter",
        "_unproven",
        "_waiting",
        "ejected_until",
        "idle",
        "outstanding",
        "retired",
        "traffic",
        "upstream",
    )

    def __init__(self, gateway: Gateway, upstream: Upstream, traffic: Traffic) -> None:
        self.upstream = upstream
        self.traffic = traffic  # of its version
        self.outstanding = 0
        self.ejected_until = 0.0
        self.idle: list[ReplicaConnection] = []  # the one used last is taken first
        self.retired = False  # left the table: what is under way ends, nothing new starts
        self._gateway = gateway
        self._waiting: deque[Exchange] = deque()  # for a connection
        self._opening = 0  # connections
        self._unproven = 0  # that may stand in the replica's queue, those that open included
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

    # --- its connections ---

    def take_idle(self) -> ReplicaConnection | None:
        """The open connection that was used last, if there is one."""
        while self.idle:
            link = self.idle.pop()
            link.idle_since = 0.0
            if not link.transport.is_closing():
                return link
        return None

    def keep(self, link: ReplicaConnection, now: float) -> bool:
        """Whether a connection that has nothing to do stays open."""
        if self.retired or len(self.idle) >= MAX_IDLE_PER_REPLICA:
            return False
        link.idle_since = now
        self.idle.append(link)
        return True

    def close_idle(self, since: float) -> int:
        """Close those that have been idle since then; returns how many are left."""
        while self.idle and self.idle[0].idle_since <= since:
            self.idle[0].close_idle()
        return len(self.idle)

    def connect(self, exchange: Exchange) -> None:
        """Have a request sent over the next connection that there is: a new one, or one whose
        answer has ended before that."""
        self._waiting.append(exchange)
        self._open()

    def opened(self, link: ReplicaConnection) -> None:
        self._opening -= 1
        link.unproven = True
        self._gateway.loop.call_later(PROVEN_S, self.proven, link)
        link.rest(self._gateway.now())
        self._gateway.keep_sweeping()

    def not_opened(self) -> None:
        """Those that waited look elsewhere."""
        self._opening -= 1
        self._unproven -= 1
        waiting, self._waiting = self._waiting, deque()
        now = self._gateway.now()
        self.failed(now, self._gateway.limits.eject_s)
        for exchange in waiting:
            if exchange.target is self and not exchange.done:
                assert exchange.endpoint is not None
                exchange.endpoint.connect_failed(exchange, self, now)

    def proven(self, link: ReplicaConnection) -> None:
        """The replica has certainly accepted it, or it is gone."""
        if link.unproven:
            link.unproven = False
            self._unproven -= 1
            self._open()

    def next_waiting(self) -> Exchange | None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.target is self and not exchange.done:
                return exchange
        return None

    def _open(self) -> None:
        while self._opening < len(self._waiting) and self._unproven < MAX_UNPROVEN:
            self._opening += 1
            self._unproven += 1
            self._gateway.connect(self)

    # --- its requests ---

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
        while self.idle:
            self.idle[-1].close_idle()
