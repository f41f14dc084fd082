"""A second try for what is slow: a request that has no answer after a while goes to another
replica too; the answer that begins first is passed on, and the other try is broken off.

Source: Dean and Barroso 2013, "The Tail at Scale", CACM 56(2).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .balance import choose
from .limits import CONNECT_S
from .slowness import Slowness
from .upstream import ReplicaConnection

if TYPE_CHECKING:
    from leptonai.core.routing import Hedging

    from .endpoint import Endpoint
    from .exchange import Exchange
    from .target import Target

BURST = 10.0  # second tries that may be saved up
LOOK_AGAIN_S = 0.01  # at what is late before it was sent


class Hedges:
    """Of one endpoint. A second try costs a share of a request, which requests earn."""

    def __init__(self, endpoint: Endpoint, hedging: Hedging) -> None:
        self.hedging = hedging
        self.sent = 0
        self.won = 0
        self.denied = 0  # the budget was spent
        self._endpoint = endpoint
        self._earned = 1.0
        self._turn = 0
        self.slowness = Slowness(hedging.quantile) if hedging.quantile else None

    def arm(self, exchange: Exchange, target: Target, now: float) -> None:
        """A request goes to its replica: see to it that another gets it too if need be."""
        if exchange.hedge is not None:
            exchange.hedge.end()
        passage = exchange.passage
        assert passage is not None
        if not passage.safe or passage.replica or len(self._endpoint.targets) < 2:
            return
        self._earned = min(BURST, self._earned + self.hedging.budget)
        after_s = self.slowness.after_s if self.slowness else self.hedging.after_ms / 1000
        exchange.hedge = Hedge(self, exchange, target, now)
        if after_s is not None:
            exchange.hedge.wait(after_s)

    def other_than(self, target: Target) -> Target | None:
        """A replica of the same version to try beside this one, if the budget has room."""
        same = [
            each
            for each in self._endpoint.targets
            if each.upstream.version == target.upstream.version and each is not target
        ]
        self._turn += 1
        other = choose(same, self._turn, self._endpoint.gateway.now())
        if other is None:
            return None
        if self._earned < 1:
            self.denied += 1
            return None
        self._earned -= 1
        self.sent += 1
        return other

    def outcomes(self) -> dict[str, int]:
        """Second tries by what became of them; those under way are "sent"."""
        return {"sent": self.sent, "won": self.won, "denied": self.denied}

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint


class Hedge:
    """Of one request, from its dispatch until an answer begins."""

    __slots__ = ("_exchange", "_hedges", "_since", "_target", "_task", "_timer", "link")

    def __init__(self, hedges: Hedges, exchange: Exchange, target: Target, now: float) -> None:
        self._hedges = hedges
        self._exchange = exchange
        self._target = target  # of the first try; then of the second
        self._since = now
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.link: ReplicaConnection | None = None  # of the second try, while that is under way

    def wait(self, after_s: float) -> None:
        loop = self._hedges.endpoint.gateway.loop
        self._timer = loop.call_later(after_s, self._try_second)

    def answered(self, link: ReplicaConnection) -> None:
        """An answer begins on this connection: the other try is broken off."""
        exchange, second = self._exchange, self.link
        now = self._hedges.endpoint.gateway.now()
        if self._hedges.slowness is not None:
            self._hedges.slowness.note(now - self._since)
        if link is second:
            self.link = None
            self._hedges.won += 1
            first, exchange.link = exchange.link, second
            if first is not None:
                first.exchange = None
                first.transport.abort()
            exchange.drop_target(now)
            exchange.target = self._target
            if exchange.client.write_paused:
                second.transport.pause_reading()
        self.end()

    def lost(self, link: ReplicaConnection) -> bool:
        """A try has failed; whether another one goes on."""
        exchange, second = self._exchange, self.link
        if second is None:
            self.end()
            return False
        now = self._hedges.endpoint.gateway.now()
        if link is second:
            self.link = None
            self._target.traffic.lost_attempts += 1
            self._let_go(now)
            self.end()
            return True
        link.target.traffic.lost_attempts += 1
        exchange.drop_target(now)
        exchange.link, exchange.target = second, self._target
        self.link = None
        self.end()
        return True

    def end(self) -> None:
        """There is nothing to choose any more."""
        exchange = self._exchange
        exchange.hedge = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        link, self.link = self.link, None
        if link is not None:
            link.exchange = None
            link.transport.abort()
            self._let_go(self._hedges.endpoint.gateway.now())

    def _try_second(self) -> None:
        self._timer = None
        exchange = self._exchange
        # What is too large to be kept cannot be sent a second time.
        if exchange.target is None or not exchange.kept:
            return
        if exchange.link is None or not exchange.request_done:  # connecting, or still being read
            self.wait(LOOK_AGAIN_S)
            return
        other = self._hedges.other_than(self._target)
        if other is None:
            return
        exchange.attempts += 1
        link = other.take_idle()
        if link is not None:
            self._send(link)
            return
        loop = self._hedges.endpoint.gateway.loop
        self._task = loop.create_task(self._connect(other))

    async def _connect(self, other: Target) -> None:
        gateway, upstream = self._hedges.endpoint.gateway, other.upstream
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await gateway.loop.create_connection(
                    lambda: ReplicaConnection(gateway, other), upstream.host, upstream.port
                )
        except (OSError, TimeoutError, ValueError):
            other.failed(gateway.now(), gateway.limits.eject_s)
            return
        self._task = None
        self._send(link)

    def _send(self, link: ReplicaConnection) -> None:
        now = self._hedges.endpoint.gateway.now()
        self.link, self._target = link, link.target
        link.target.outstanding += 1
        link.target.traffic.dispatched(now)
        link.serve(self._exchange)
        link.bytes_sent = True
        link.transport.write(self._exchange.whole())

    def _let_go(self, now: float) -> None:
        self._target.release()
        self._target.traffic.returned(now)
