"""An endpoint as this gateway sees it: its replicas, and the requests on their way to one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from leptonai.core.routing import ENDPOINTS_AT, Route
from leptonai.errors import LeptonError, NotFound, Unavailable

from .admission import Gate
from .answers import ReplicaFailed
from .browsers import BrowserDoor
from .counting import Counted
from .hedges import Hedges
from .metrics import EndpointFigures, Traffic
from .ratelimits import Limiter
from .retries import RetryBudget, why_not_again
from .selection import Selection
from .shadows import Shadows
from .tally import Tally
from .target import Target

if TYPE_CHECKING:
    from .exchange import Exchange
    from .gateway import Gateway

LOST = 502  # what a broken connection counts as


class Endpoint:
    def __init__(self, gateway: Gateway, route: Route, workspace_tokens: frozenset[str]) -> None:
        self.gateway = gateway
        name = route.name if route.at == ENDPOINTS_AT else f"{route.name}/{route.at}"
        self.tally = Tally(route.workspace, name, gateway.reporter)
        self.targets: list[Target] = []
        self.prefix = route.key.encode()
        self.door = BrowserDoor(time.time()) if route.browser_key else None
        self.limiter: Limiter | None = None
        self.shadows: Shadows | None = None
        self.counted: Counted | None = None
        self.hedges: Hedges | None = None
        self.reads_answers = False
        self._budget = RetryBudget(gateway.now())
        self._release_planned = False
        self._follow(route, workspace_tokens)

    def update(self, route: Route, workspace_tokens: frozenset[str]) -> None:
        """Follow a new table. Requests under way are not touched."""
        if route == self.route and workspace_tokens == self.workspace_tokens:
            return
        self._follow(route, workspace_tokens)
        if self.selection or not route.expecting:
            self._release()

    def _follow(self, route: Route, workspace_tokens: frozenset[str]) -> None:
        self.route = route
        self.workspace_tokens = workspace_tokens
        self.gate = Gate(route, workspace_tokens)
        before = {target.upstream: target for target in self.targets}
        self.targets = [
            before.pop(upstream)
            if upstream in before
            else Target(self.gateway, upstream, self.tally.of(upstream.version))
            for upstream in route.upstreams
        ]
        for target in before.values():
            target.retire(self.gateway.reporter)
        self.tally.keep_only({upstream.version for upstream in route.upstreams})
        self.selection = Selection(route, self.targets)
        if route.limit is None:
            self.limiter = None
        elif self.limiter is None or self.limiter.limit != route.limit:
            self.limiter = Limiter(route.limit)
        self.shadows = (
            None
            if route.shadow is None
            else Shadows(
                self.gateway,
                route.shadow,
                self.targets,
                self.tally.of_shadows(route.shadow.version),
            )
        )
        if route.hedging is None:
            self.hedges = None
        elif self.hedges is None or self.hedges.hedging != route.hedging:
            self.hedges = Hedges(self, route.hedging)
        self.counted = None if route.counting is None else Counted(route.counting)
        self.reads_answers = route.limit is not None and route.limit.tokens_per_minute is not None

    def remove(self) -> None:
        """The endpoint left the table."""
        for target in self.targets:
            target.retire(self.gateway.reporter)
        self.targets = []
        self.selection = Selection(self.route, ())
        gone = NotFound(
            f"endpoint {self.route.name!r} has just been removed",
            hint="`leptonai endpoint list` shows what there is",
        )
        self._refuse_held(lambda: gone)

    def dispatch(self, exchange: Exchange, now: float) -> None:
        """Send a request to a replica, or hold it until there is one."""
        passage = exchange.passage
        assert passage is not None
        if passage.replica:
            wanted = passage.replica.decode("latin-1")
            target = self._named(wanted, now)
            if target is None:
                exchange.fail(
                    Unavailable(
                        f"endpoint {self.route.name!r} has no ready replica {wanted!r}",
                        hint="leave X-Lepton-Replica-Target out to get any replica",
                    )
                )
                return
        else:
            target = self.selection.choose(now, passage.key, exchange.failed_target)
        if target is None:
            self._hold(exchange, now)
            return
        target.outstanding += 1
        exchange.sent_to(target, now)
        if self.hedges is not None:
            self.hedges.arm(exchange, target, now)
        link = None if exchange.fresh_connection else target.take_idle()
        if link is not None:
            exchange.attach(link)
        else:
            target.connect(exchange)

    def connect_failed(self, exchange: Exchange, target: Target, now: float) -> None:
        """Nothing was sent: another replica may be tried."""
        target.traffic.lost_attempts += 1
        exchange.drop_target(now)
        exchange.failed_target = target
        exchange.attempts -= 1
        self.dispatch(exchange, now)

    def lost(
        self, exchange: Exchange, target: Target, *, stale: bool, garbled: bool, because: str
    ) -> None:
        """A replica failed a request of which the client has seen no answer.

        Args:
            garbled: its answer is no HTTP, and would not be any better a second time.
            stale: it closed a connection that it had answered on before, which a healthy one may.
        """
        now = self.gateway.now()
        limits = self.gateway.limits
        assert exchange.passage is not None
        target.traffic.lost_attempts += 1
        if not stale:
            target.answered(LOST, now, limits.eject_s)
        exchange.drop_target(now)
        exchange.failed_target = target
        why_not = (
            "its server does not answer as RFC 9112 says"
            if garbled
            else why_not_again(
                self.route.retry,
                safe=exchange.passage.safe,
                sent=exchange.sent,
                kept=exchange.kept,
                attempts=exchange.attempts,
            )
        )
        if why_not is None and not self._budget.spend(self.tally.arrivals, now):
            why_not = "too many of its endpoint's requests are being repeated already"
        replica = target.upstream.replica
        if why_not is None:
            self.gateway.log(
                f"replica {replica!r} {because}; the request is sent again",
                **exchange.named(),
                attempt=exchange.attempts,
            )
            exchange.again()
            self.dispatch(exchange, now)
            return
        exchange.fail(
            ReplicaFailed(
                f"replica {replica!r} of endpoint {self.route.name!r} {because}",
                hint=f"it may have done the work, and it was not sent again: {why_not}",
            )
        )

    def give_up(self, exchange: Exchange) -> None:
        """It waited for a replica as long as a request may."""
        del self.tally.held[exchange]
        exchange.fail(
            Unavailable(
                f"no replica of endpoint {self.route.name!r} became ready"
                f" within {self._hold_s():g} s",
                hint=f"`leptonai endpoint get {self.route.name}` says why; then try again",
            )
        )

    def figures(self, by_envoy: Mapping[tuple[str, str], Traffic]) -> EndpointFigures:
        tally = self.tally
        return EndpointFigures(
            self.route.workspace,
            self.route.name,
            tally.versions,
            shadows=tally.shadows,
            refused=tally.denied,
            hedges={} if self.hedges is None else self.hedges.outcomes(),
            in_flight=tally.in_flight,
            waiting=len(tally.held),
            by_envoy=by_envoy.get((self.route.workspace, self.route.name)),
        )

    def _named(self, replica: str, now: float) -> Target | None:
        for target in self.targets:
            if target.upstream.replica == replica and target.ejected_until <= now:
                return target
        return None

    def _hold_s(self) -> float:
        return min(self.route.hold.seconds, self.gateway.limits.hold_s)

    def _hold(self, exchange: Exchange, now: float) -> None:
        held = self.tally.held
        if not self.route.expecting and not self.targets:
            exchange.fail(self._stopped())
            return
        if len(held) >= min(self.route.hold.requests, self.gateway.limits.held_per_endpoint):
            exchange.fail(
                Unavailable(
                    f"endpoint {self.route.name!r} has no ready replica,"
                    f" and {len(held)} requests wait for one already",
                    hint="try again in a moment",
                )
            )
            return
        if not exchange.held_until:
            exchange.held_until = now + self._hold_s()
        self.tally.hold(exchange)
        exchange.client.deadline = min(exchange.held_until, exchange.deadline)
        exchange.wait_in_hold()
        self._plan_release(now)

    def _plan_release(self, now: float) -> None:
        """Held although there are replicas: each is ejected, and the first to return is asked."""
        soonest = self.selection.soonest()
        if soonest is not None and not self._release_planned:
            self._release_planned = True
            # With nothing else to ask, one that is ejected for long is tried again soon.
            wait_s = min(max(0.0, soonest.ejected_until - now), self.gateway.limits.eject_s)
            self.gateway.loop.call_later(wait_s, self._try_again)

    def _try_again(self) -> None:
        self._release_planned = False
        soonest = self.selection.soonest()
        if soonest is not None:
            soonest.ejected_until = min(soonest.ejected_until, self.gateway.now())
        self._release()

    def _release(self) -> None:
        """Let every held request try again, in the order they came."""
        if not self.targets and not self.route.expecting:
            self._refuse_held(self._stopped)
            return
        now = self.gateway.now()
        for exchange in self._take_held():
            exchange.client.deadline = exchange.deadline
            exchange.failed_target = None
            self.dispatch(exchange, now)

    def _refuse_held(self, because: Callable[[], LeptonError]) -> None:
        for exchange in self._take_held():
            exchange.fail(because())

    def _take_held(self) -> list[Exchange]:
        held = list(self.tally.held)
        self.tally.held.clear()
        return held

    def _stopped(self) -> Unavailable:
        return Unavailable(
            f"endpoint {self.route.name!r} is stopped: it has no replicas",
            hint=f"`leptonai endpoint update {self.route.name} --min-replicas 1` starts one",
        )
