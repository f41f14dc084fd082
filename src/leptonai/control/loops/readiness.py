"""Whether servers answer: probes every running replica of an endpoint, and every node of a Ray
cluster.

What answers is taken for the replica only if it is the replica that listens there, which its engine
is asked once, when it first answers.
"""

import asyncio
from typing import Protocol

from msgspec.structs import replace

from leptonai.control.loops.loop import wait_for_news
from leptonai.control.mirror import Key, Mirror, Watch, serves
from leptonai.core.records import Endpoint, Goal, Phase, Replica, Severity, event_of
from leptonai.core.rollouts.asked import at_revision
from leptonai.errors import TryLater, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.engine import Engine
from leptonai.ports.store import Emit, Fence, Put, Store

QUICKEST_PROBE_MS = 5  # a copy of a template takes some 50 ms
PATIENCE = 10  # a server that took t to be ready is found so at most t / PATIENCE later …
SLOWEST_PROBE_MS = 5_000  # … or this
RECHECK_MS = 10_000  # of a replica that is ready
DOUBT_MS = 1_000  # between the re-checks of one that no longer answers
UNREADY_AFTER = 3  # failed re-checks in a row
STRANGERS_TOLD_AFTER = 3  # answers: a server in the middle of an exec seems to be nobody's


_ProbeKey = tuple[Key, int]  # replica and attempt


class Prober(Protocol):
    async def answers(self, host: str, port: int, path: str) -> bool:
        """Whether a TCP connection opens or, where a path is given, GET answers below 400."""
        ...


class ReadinessLoop:
    name = "readiness"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        engine: Engine,
        fence: Fence,
        clock: Clock,
        prober: Prober,
    ) -> None:
        self.watch: Watch = mirror.watch(Replica, Endpoint, only=serves)
        self._mirror = mirror
        self._store = store
        self._engine = engine
        self._fence = fence
        self._clock = clock
        self._prober = prober
        self._probes: dict[_ProbeKey, _Probe] = {}

    async def step(self) -> int | None:
        """Lasts while any probe is under way, and begins those that fall due meanwhile: a server
        that keeps its probe waiting delays nobody else's."""
        under_way: dict[_ProbeKey, asyncio.Task[None]] = {}
        try:
            while True:
                self.watch.news.clear()
                due_ms = self._begin(under_way)
                if not under_way:
                    return due_ms
                await wait_for_news(self.watch.news, due_ms, self._clock)
                for key in [key for key, task in under_way.items() if task.done()]:
                    under_way.pop(key).result()
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    def _begin(self, under_way: dict[_ProbeKey, asyncio.Task[None]]) -> int | None:
        """Begin the probes that are due, and say when the next one will be."""
        self.watch.take()
        now_ms = self._clock.now_ms()
        servers = {
            ((r.workspace, r.id), r.attempt): r
            for r in self._mirror.replicas.values()
            if serves(r) and r.phase is Phase.RUNNING and r.goal is Goal.RUN and r.ports
        }
        self._probes = {key: self._probes.get(key) or _Probe(now_ms) for key in servers}
        for key, probe in self._probes.items():
            if probe.due_ms <= now_ms and key not in under_way:
                task = asyncio.create_task(self._probe(servers[key], probe))
                task.add_done_callback(lambda _: self.watch.news.set())
                under_way[key] = task
        waiting = [probe.due_ms for key, probe in self._probes.items() if key not in under_way]
        return min(waiting, default=None)

    async def _probe(self, replica: Replica, probe: "_Probe") -> None:
        nodes = {node.id: node for node in self._mirror.nodes.values()}
        node = nodes.get(replica.node)
        host = node.address if node else ""
        answers = bool(host) and await self._prober.answers(
            host, replica.ports[0], self._path(replica)
        )
        if answers and not replica.ready:
            answers = await self._listens(replica, probe)
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

    async def _listens(self, replica: Replica, probe: "_Probe") -> bool:
        """Whether it may be the replica that answered, as far as its engine can say."""
        port = replica.ports[0]
        try:
            listens = await self._engine.listens(replica.node, replica.attempt_id, port)
        except TryLater:
            return False
        if listens is not False:
            return True
        probe.strangers += 1
        endpoint = self._mirror.endpoints.get((replica.workspace, replica.owner_id))
        if probe.strangers == STRANGERS_TOLD_AFTER and endpoint is not None:
            told = event_of(
                endpoint,
                "PortTaken",
                f"on {replica.node} port {port} of replica {replica.id} is answered by a process "
                "that the replica has not started: it counts as ready when it listens there itself",
                Severity.WARNING,
            )
            told = replace(told, at_ms=self._clock.now_ms())
            await self._store.commit(Emit(told), fence=self._fence)
        return False

    def _path(self, replica: Replica) -> str:
        endpoint = self._mirror.endpoints.get((replica.workspace, replica.owner_id))
        health = at_revision(endpoint, replica.revision).spec.health if endpoint else None
        http = health.readiness.http if health and health.readiness else None
        return http.path if http else ""


class _Probe:
    """When to look at one attempt next."""

    def __init__(self, now_ms: int) -> None:
        self.since_ms = now_ms
        self.due_ms = now_ms + QUICKEST_PROBE_MS
        self.failures = 0
        self.strangers = 0  # that answered in its place

    def patience_ms(self, now_ms: int) -> int:
        waited_ms = now_ms - self.since_ms
        return min(max(QUICKEST_PROBE_MS, waited_ms // PATIENCE), SLOWEST_PROBE_MS)
