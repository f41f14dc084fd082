"""The route table: made anew whenever it changes, and handed to the gateways that wait for it."""

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from leptonai.control.mirror import Mirror, Watch, serves
from leptonai.core.access import Action, Principal, Role
from leptonai.core.records import Endpoint, Ingress, Node, Replica, Token
from leptonai.core.routing import PodDoor, RouteTable, route_table
from leptonai.ports.clock import Clock
from leptonai.security.permissions import may, resource_of


class RoutesLoop:
    """Also the feed that the API hands on to gateways."""

    name = "routes"

    def __init__(self, mirror: Mirror, clock: Clock, pod_key: Callable[[Endpoint], str]) -> None:
        self.watch: Watch = mirror.watch(Endpoint, Replica, Node, Token, Ingress, only=serves)
        self._mirror = mirror
        self._clock = clock
        self._pod_key = pod_key
        self.table = RouteTable(seq=0, routes=(), workspace_token_sha256={})
        self._serving: frozenset[str] = frozenset()  # replicas that are in the table
        self._changed = asyncio.Condition()
        self._closing = False

    async def step(self) -> int | None:
        seqs = [record.seq for record in self.watch.take()]
        now_ms = self._clock.now_ms()
        tokens: dict[str, list[Token]] = {}
        expiries = []
        for token in sorted(self._mirror.tokens.values(), key=lambda token: token.id):
            if token.role not in ("admin", "member"):
                continue
            if token.expires_at_ms is not None:
                if token.expires_at_ms <= now_ms:
                    continue
                expiries.append(token.expires_at_ms)
            tokens.setdefault(token.workspace, []).append(token)
        families: dict[str, list[Replica]] = {}
        for replica in filter(serves, self._mirror.replicas.values()):
            families.setdefault(replica.parent, []).append(replica)
        fresh = route_table(
            max([self.table.seq, self._mirror.seq, *seqs]),
            self._mirror.endpoints.values(),
            families,
            {node.id: node.address for node in self._mirror.nodes.values()},
            {
                workspace: tuple(token.sha256 for token in theirs)
                for workspace, theirs in tokens.items()
            },
            self._mirror.ingresses.values(),
            {
                pod.id: PodDoor(
                    token_sha256=_opening(pod, tokens.get(pod.workspace, [])),
                    key=self._pod_key(pod),
                )
                for pod in self._mirror.endpoints.values()
                if pod.is_pod
            },
        )
        if msgspec.structs.replace(fresh, seq=self.table.seq) != self.table or self.table.seq == 0:
            async with self._changed:
                newer = max(fresh.seq, self.table.seq + 1)
                self.table = msgspec.structs.replace(fresh, seq=newer)
                self._serving = frozenset(
                    upstream.replica for route in fresh.routes for upstream in route.upstreams
                )
                self._changed.notify_all()
        return min(expiries, default=None)

    def without(self, replica: str) -> int | None:
        """The seq of the table, once this replica is not in it."""
        return None if replica in self._serving or not self.table.seq else self.table.seq

    async def close(self) -> None:
        """Let go of everybody who waits."""
        async with self._changed:
            self._closing = True
            self._changed.notify_all()

    async def wait(self, after: int, timeout_s: float) -> RouteTable | None:
        """The table as soon as it is another one than `after`; None if it stays."""
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait_for(
                        lambda: self._closing or self.table.seq not in (0, after)
                    )
            except TimeoutError:
                return None
            return None if self._closing else self.table


def _opening(pod: Endpoint, tokens: Iterable[Token]) -> tuple[str, ...]:
    """A shell in a pod may do whatever its owner may."""
    return tuple(
        token.sha256
        for token in tokens
        if may(
            Principal(token.name, Role(token.role), token.workspace),
            Action.UPDATE,
            resource_of(pod),
        )
    )
