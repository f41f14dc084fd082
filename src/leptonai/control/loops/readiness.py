"""Whether servers answer: probes every running replica of an endpoint."""

import asyncio
from typing import Protocol

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror, Watch, serves
from leptonai.core.records import Endpoint, Goal, OwnerKind, Phase, Replica
from leptonai.errors import VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Fence, Put, Store

QUICKEST_PROBE_MS = 20
PATIENCE = 10  # a server that took t to be ready is found so at most t / PATIENCE later …
SLOWEST_PROBE_MS = 5_000  # … or this
RECHECK_MS = 10_000  # of a replica that is ready
DOUBT_MS = 1_000  # between the re-checks of one that no longer answers
UNREADY_AFTER = 3  # failed re-checks in a row


class Prober(Protocol):
    async def answers(self, host: str, port: int, path: str) -> bool:
        """Whether a TCP connection opens or, where a path is given, GET answers below 400."""
        ...


class ReadinessLoop:
    name = "readiness"

    def __init__(
        self, mirror: Mirror, store: Store, fence: Fence, clock: Clock, prober: Prober
    ) -> None:
        self.watch: Watch = mirror.watch(Replica, Endpoint, only=serves)
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        self._prober = prober
        self._probes: dict[tuple[Key, int], _Probe] = {}  # by replica and attempt

    async def step(self) -> int | None:
        self.watch.take()
        now_ms = self._clock.now_ms()
        servers = {
            ((r.workspace, r.id), r.attempt): r
            for r in self._mirror.replicas.values()
            if r.owner_kind is OwnerKind.ENDPOINT
            and r.phase is Phase.RUNNING
            and r.goal is Goal.RUN
            and r.ports
        }
        self._probes = {key: self._probes.get(key) or _Probe(now_ms) for key in servers}
        due = [key for key, probe in self._probes.items() if probe.due_ms <= now_ms]
        await asyncio.gather(*(self._probe(servers[key], self._probes[key]) for key in due))
        return min((probe.due_ms for probe in self._probes.values()), default=None)

    async def _probe(self, replica: Replica, probe: "_Probe") -> None:
        nodes = {node.id: node for node in self._mirror.nodes.values()}
        node = nodes.get(replica.node)
        host = node.address if node else ""
        answers = bool(host) and await self._prober.answers(
            host, replica.ports[0], self._path(replica)
        )
        now_ms = self._clock.now_ms()
        probe.failures = 0 if answers else probe.failures + 1
        if answers == replica.ready:
            probe.due_ms = now_ms + (RECHECK_MS if answers else probe.patience_ms(now_ms))
            return
        if replica.ready and probe.failures < UNREADY_AFTER:
            probe.due_ms = now_ms + DOUBT_MS
            return
        probe.due_ms = now_ms + (RECHECK_MS if answers else DOUBT_MS)
        changed = replace(replica, ready=answers, ready_at_ms=now_ms if answers else None)
        try:
            await self._mirror.commit(self._store, Put(changed), fence=self._fence)
        except VersionConflict:
            probe.due_ms = now_ms + QUICKEST_PROBE_MS  # it changed meanwhile: judge it afresh

    def _path(self, replica: Replica) -> str:
        endpoint = self._mirror.endpoints.get((replica.workspace, replica.owner_id))
        health = endpoint.spec.health if endpoint else None
        http = health.readiness.http if health and health.readiness else None
        return http.path if http else ""


class _Probe:
    """When to look at one attempt next."""

    def __init__(self, now_ms: int) -> None:
        self.since_ms = now_ms
        self.due_ms = now_ms + QUICKEST_PROBE_MS
        self.failures = 0

    def patience_ms(self, now_ms: int) -> int:
        waited_ms = now_ms - self.since_ms
        return min(max(QUICKEST_PROBE_MS, waited_ms // PATIENCE), SLOWEST_PROBE_MS)
