"""An endpoint as this gateway sees it: its replicas, and the requests on their way to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leptonai.core.routing import Route, Upstream
from leptonai.errors import LeptonError, NotFound, Unavailable

from .admission import Gate
from .balance import choose
from .limits import MAX_IDLE_PER_REPLICA
from .metrics import EndpointFigures, Traffic

if TYPE_CHECKING:
    from .exchange import Exchange
    from .gateway import Gateway
    from .upstream import ReplicaConnection


class Target:
    """A ready replica, with the connections that are open to it and idle."""

    __slots__ = ("ejected_until", "idle", "outstanding", "retired", "upstream")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.outstanding = 0
        self.ejected_until = 0.0
        self.idle: list[ReplicaConnection] = []  # the one used last is taken first
        self.retired = False  # left the table: what is under way ends, nothing new starts

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

    def retire(self) -> None:
        self.retired = True
        for link in tuple(self.idle):
            link.close_idle()


class Endpoint:
    def __init__(self, gateway: Gateway, route: Route, workspace_tokens: frozenset[str]) -> None:
        self.gateway = gateway
        self.traffic = Traffic()
        self.in_flight = 0
        self.targets: list[Target] = []
        self.held: dict[Exchange, None] = {}  # requests that wait for a replica, first come first
        self.prefix = f"/e/{route.workspace}/{route.name}".encode()
        self._turn = 0
        self._release_planned = False
        self.route = route
        self.workspace_tokens = workspace_tokens
        self.gate = Gate(route, workspace_tokens)

    def update(self, route: Route, workspace_tokens: frozenset[str]) -> None:
        """Follow a new table. Requests under way are not touched."""
        if route == self.route and workspace_tokens == self.workspace_tokens:
            return
        self.route = route
        self.workspace_tokens = workspace_tokens
        self.gate = Gate(route, workspace_tokens)
        self.follow_upstreams()

    def follow_upstreams(self) -> None:
        before = {target.upstream: target for target in self.targets}
        self.targets = [
            before.pop(upstream) if upstream in before else Target(upstream)
            for upstream in self.route.upstreams
        ]
        for target in before.values():
            target.retire()
        if self.targets or not self.route.expecting:
            self._release()

    def remove(self) -> None:
        """The endpoint left the table."""
        for target in self.targets:
            target.retire()
        self.targets = []
        gone = NotFound(
            f"endpoint {self.route.name!r} has just been removed",
            hint="`leptonai endpoint list` shows what there is",
        )
        self._refuse_held(lambda: gone)

    def dispatch(self, exchange: Exchange) -> None:
        """Send a request to a replica, or hold it until there is one."""
        now = self.gateway.now()
        if exchange.replica:
            wanted = exchange.replica.decode("latin-1")
            chosen = [target for target in self.targets if target.upstream.replica == wanted]
            if not chosen:
                exchange.fail(
                    Unavailable(
                        f"endpoint {self.route.name!r} has no ready replica {wanted!r}",
                        hint="leave X-Lepton-Replica-Target out to get any replica",
                    )
                )
                return
        else:
            chosen = self.targets
        self._turn += 1
        target = choose(chosen, self._turn, now)
        if target is None:
            self._hold(exchange, now)
            return
        target.outstanding += 1
        exchange.target = target
        link = None if exchange.fresh_connection else target.take_idle()
        if link is not None:
            exchange.attach(link)
        else:
            self.gateway.connect(self, target, exchange)

    def connected(self, exchange: Exchange, link: ReplicaConnection) -> None:
        if exchange.done or exchange.target is not link.target:
            link.rest()  # its request is gone; another will want the connection
        else:
            exchange.attach(link)

    def connect_failed(self, exchange: Exchange, target: Target) -> None:
        """Leave the replica alone for a moment. Nothing was sent: another one may be tried."""
        target.ejected_until = self.gateway.now() + self.gateway.limits.eject_s
        if exchange.done or exchange.target is not target:
            return
        target.outstanding -= 1
        exchange.target = None
        self.dispatch(exchange)

    def give_up(self, exchange: Exchange) -> None:
        """It waited for a replica as long as a request may."""
        del self.held[exchange]
        exchange.fail(
            Unavailable(
                f"no replica of endpoint {self.route.name!r} became ready"
                f" within {self.gateway.limits.hold_s:g} s",
                hint=f"`leptonai endpoint get -n {self.route.name}` says why; then try again",
            )
        )

    def figures(self) -> EndpointFigures:
        return EndpointFigures(
            self.route.workspace, self.route.name, self.traffic, self.in_flight, len(self.held)
        )

    def _hold(self, exchange: Exchange, now: float) -> None:
        limits = self.gateway.limits
        if not self.route.expecting and not self.targets:
            exchange.fail(self._stopped())
            return
        if len(self.held) >= limits.held_per_endpoint:
            exchange.fail(
                Unavailable(
                    f"endpoint {self.route.name!r} has no ready replica,"
                    f" and {len(self.held)} requests wait for one already",
                    hint="try again in a moment",
                )
            )
            return
        if not exchange.held_until:
            exchange.held_until = now + limits.hold_s
        self.held[exchange] = None
        exchange.client.deadline = min(exchange.held_until, exchange.deadline)
        if self.targets and not self._release_planned:
            self._release_planned = True
            self.gateway.loop.call_later(limits.eject_s, self._ejection_ended)

    def _ejection_ended(self) -> None:
        self._release_planned = False
        self._release()

    def _release(self) -> None:
        """Let every held request try again, in the order they came."""
        if not self.targets and not self.route.expecting:
            self._refuse_held(self._stopped)
            return
        held, self.held = self.held, {}
        for exchange in held:
            exchange.client.deadline = exchange.deadline
            self.dispatch(exchange)

    def _refuse_held(self, because: Callable[[], LeptonError]) -> None:
        held, self.held = self.held, {}
        for exchange in held:
            exchange.fail(because())

    def _stopped(self) -> Unavailable:
        return Unavailable(
            f"endpoint {self.route.name!r} is stopped: it has no replicas",
            hint=f"`leptonai endpoint update -n {self.route.name} --min-replicas 1` starts one",
        )
