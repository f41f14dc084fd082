"""The engine's side of every placed replica.

Observes each node, writes down what has become of its attempts, and asks for what is missing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable

from msgspec.structs import replace

from leptonai.control.attempts import Attempts, kept_by
from leptonai.control.draining import Draining
from leptonai.control.loops.loop import RETRY_AFTER_MS, retry_ms
from leptonai.control.loops.routes import RoutesLoop
from leptonai.control.mirror import Mirror, Watch
from leptonai.control.owners import OwnerKey, Owners, owner_of
from leptonai.control.traffic import TrafficLog
from leptonai.control.warm_starts import WarmStarts
from leptonai.core.lifecycle import node as node_lifecycle
from leptonai.core.lifecycle.replica import (
    Ask,
    SeenEnded,
    SeenRunning,
    Sight,
    ask,
    done,
    ended,
    node_lost,
    observed,
    stop,
)
from leptonai.core.records import (
    MAX_TERMINATIONS,
    Endpoint,
    EndReason,
    Event,
    Goal,
    Node,
    NodeState,
    Phase,
    Replica,
    Severity,
    Termination,
)
from leptonai.errors import Internal, LeptonError, RequestError, StaleEpoch, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.engine import AttemptId, Ended, Engine, Running, Seen, Unreachable
from leptonai.ports.store import Delete, Emit, Fence, Put, Query, Store

STOP_GRACE_MS = 10_000  # between SIGTERM and SIGKILL
LOOK_AGAIN_MS = 1_000  # at a node that could not be reached
ASK_AGAIN_MS = 2_000  # what was asked and is still not seen: the ask, or its answer, may be lost

log = logging.getLogger("leptonai.control")


class ReplicasLoop:
    name = "replicas"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        engine: Engine,
        owners: Owners,
        traffic: TrafficLog,
        routes: RoutesLoop,
        fence: Fence,
        clock: Clock,
        attempts: Attempts,
        warm_starts: WarmStarts,
    ) -> None:
        self.watch: Watch = mirror.watch(Replica, Node, Endpoint)
        self._mirror = mirror
        self._store = store
        self._engine = engine
        self._owners = owners
        self._fence = fence
        self._clock = clock
        self._attempts = attempts
        self._warm_starts = warm_starts
        self._failures: dict[str, int] = {}  # of each node, in a row
        # By node: attempts that were ours and are still there.
        self._known: dict[str, set[str]] = {}
        self.looked = asyncio.Event()  # set after every look at the nodes
        self._draining = Draining(mirror, traffic, routes.without)
        traffic.wake_when_idle(self.watch.news)

    async def step(self) -> int | None:
        try:
            return await self._look()
        finally:
            self.looked.set()

    async def _look(self) -> int | None:
        self.watch.take()
        by_node: dict[str, list[Replica]] = {node.id: [] for node in self._mirror.nodes.values()}
        for replica in self._mirror.replicas.values():
            if replica.phase in (Phase.PLACED, Phase.RUNNING, Phase.ENDED) or (
                replica.abandoned and replica.phase is not Phase.WAITING
            ):
                by_node.setdefault(replica.node, []).append(replica)
        nodes = {node.id: node for node in self._mirror.nodes.values()}
        wakes = await asyncio.gather(
            *(self._tend(nodes.get(id), id, replicas) for id, replicas in by_node.items())
        )
        return min((wake for wake in wakes if wake is not None), default=None)

    async def _tend(self, node: Node | None, id: str, replicas: list[Replica]) -> int | None:
        """One node at a time, and no node's trouble is another's."""
        try:
            wake = await self._tend_node(node, id, replicas)
            self._failures.pop(id, None)
            return wake
        except StaleEpoch:
            raise
        except VersionConflict:
            return self._clock.now_ms() + RETRY_AFTER_MS  # news of what is newer is on its way
        except LeptonError as error:
            self._failures[id] = self._failures.get(id, 0) + 1
            log.warning("node %s: %s", id, error)
            return self._clock.now_ms() + retry_ms(self._failures[id])

    async def _tend_node(self, node: Node | None, id: str, replicas: list[Replica]) -> int | None:
        if id == "" or node is None:
            await self._bury(replicas, reachable=False)
            return None
        observation = await self._engine.observe(id)
        now_ms = self._clock.now_ms()
        if isinstance(observation, Unreachable):
            return await self._lose_sight(node, observation, replicas, now_ms)
        returned = node.state is not NodeState.READY
        node_after = node_lifecycle.seen(node, observation.at_ms)
        if node_after is not node:
            await self._mirror.commit(self._store, Put(node_after), fence=self._fence)
            if returned:
                return now_ms  # look at it afresh: its replicas may have been given up meanwhile
        return await self._converge(id, observation, replicas, now_ms)

    async def _converge(
        self, node: str, observation: Seen, replicas: list[Replica], now_ms: int
    ) -> int | None:
        """Write down what is new, ask for what is missing, and have the rest forgotten."""
        wakes: list[int] = []
        asks: list[Awaitable[None]] = []
        news: list[Replica] = []
        known = {replica.attempt_id for replica in replicas if replica.phase is not Phase.DONE}
        strays = {id: seen for id, seen in observation.attempts.items() if id not in known}
        known_before = self._known.get(node, set())
        owned = await self._owned([id for id in strays if id not in known_before])
        self._known[node] = known | (known_before & strays.keys())
        for replica in replicas:
            if replica.phase is Phase.DONE:
                continue
            sight = _sight(observation, replica.attempt_id)
            after = observed(replica, sight, now_ms)
            if after is not replica:
                news.append(after)
            what, again_ms = ask(after, sight, now_ms)
            draining_ms = self._draining.again_ms(after, now_ms)
            if what is Ask.STOP and draining_ms is not None:
                what, again_ms = Ask.NOTHING, draining_ms
            if again_ms is not None:
                wakes.append(again_ms)
            if what is not Ask.NOTHING:
                wakes.append(now_ms + ASK_AGAIN_MS)
            if what is Ask.START:
                asks.append(self._start(after))
            elif what is Ask.STOP:
                asks.append(
                    self._engine.stop(
                        node, replica.attempt_id, grace_ms=STOP_GRACE_MS, epoch=self._fence.epoch
                    )
                )
        for id, state in strays.items():
            if id in owned:
                wakes.append(now_ms + RETRY_AFTER_MS)
            elif isinstance(state, Ended):
                asks.append(self._forget(node, id))
            else:
                # Nobody's: its replica was given up while the node was out of sight.
                wakes.append(now_ms + ASK_AGAIN_MS)
                asks.append(
                    self._engine.stop(node, id, grace_ms=STOP_GRACE_MS, epoch=self._fence.epoch)
                )
        failed, *results = await asyncio.gather(self._write(news), *asks, return_exceptions=True)
        await self._bury([r for r in replicas if r.abandoned], reachable=True)
        await self._warm_starts.tend(node, observation, replicas)
        for result in (failed, *results):
            if isinstance(result, BaseException):
                raise result
        if failed:
            raise VersionConflict("some replicas changed while they were observed")
        return min(wakes, default=None)

    async def _owned(self, attempts: list[str]) -> set[str]:
        """Which of them are some replica's current attempt, though the mirror does not know it yet.

        A control plane that has been taken over may still start what its successor has just placed.
        """
        if not attempts:
            return set()
        ids = tuple(attempt.rpartition(".")[0] for attempt in attempts)
        found = await self._store.find(Replica, Query(ids=ids))
        return {replica.attempt_id for replica in found if replica.phase is not Phase.DONE}

    async def _write(self, news: list[Replica]) -> bool:
        """Write down what became of replicas, and what follows for their owners; say whether some
        changed meanwhile. Each owner on its own, so that one that changed holds up no other."""
        families: dict[OwnerKey, list[Replica]] = {}
        for replica in news:
            families.setdefault(owner_of(replica), []).append(replica)
        results = await asyncio.gather(
            *(self._owners.advance(owner, family) for owner, family in families.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, VersionConflict):
                raise result
        return any(isinstance(result, VersionConflict) for result in results)

    async def _lose_sight(
        self, node: Node, observation: Unreachable, replicas: list[Replica], now_ms: int
    ) -> int:
        """Out of sight is not dead: replicas are given up only once their node is fenced."""
        after = node_lifecycle.unreachable(node, observation.since_ms)
        if node_lifecycle.to_be_fenced(after, now_ms) and await self._engine.fence(
            node.id, epoch=self._fence.epoch
        ):
            after = node_lifecycle.fenced(after)
        if after is not node:
            event = Event(
                workspace=node.workspace,
                kind="node",
                id=node.id,
                name=node.name,
                reason=after.state,
                message=f"node {node.id}: {observation.because}",
                at_ms=now_ms,
                severity=Severity.WARNING,
            )
            await self._mirror.commit(self._store, Put(after), Emit(event), fence=self._fence)
        if after.state is NodeState.FENCED:
            lost = [(r, node_lost(r, now_ms)) for r in replicas]
            await self._write([after for before, after in lost if after is not before])
            await self._bury([r for r in replicas if r.abandoned], reachable=False)
        return now_ms + LOOK_AGAIN_MS

    async def _start(self, replica: Replica) -> None:
        try:
            attempt = await self._attempts.of(replica)
        except (RequestError, Internal) as error:  # a secret or volume that is not there, say
            end = Termination(
                reason=EndReason.NOT_STARTED,
                message=str(error),
                finished_at_ms=self._clock.now_ms(),
            )
            await self._write([ended(replica, end)])
            return
        if attempt is None:
            return
        if replica.attempt == 0:
            for caveat in self._attempts.caveats(replica, attempt):
                event = replace(caveat, at_ms=self._clock.now_ms())
                await self._store.commit(Emit(event), fence=self._fence)
        await self._engine.start(attempt, epoch=self._fence.epoch)

    async def _is_last(self, replica: Replica) -> bool:
        """Whether what replicas of its owner share goes with it. A pod's files stay while there is
        the pod, however long it was stopped, and while another replica of it ends."""
        if not replica.program.pod:
            return True
        if replica.spares_files:
            return False
        if await self._store.get(Endpoint, replica.workspace, replica.owner_id) is not None:
            return False
        query = Query(workspace=replica.workspace, parent=replica.parent, limit=2)
        return len(await self._store.find(Replica, query)) == 1

    async def _forget(self, node: str, attempt: AttemptId) -> None:
        """Its log stays, until as many later attempts as a replica remembers have ended."""
        await self._engine.forget(node, attempt, epoch=self._fence.epoch)
        replica, _, number = attempt.rpartition(".")
        if number.isdigit() and int(number) >= MAX_TERMINATIONS:
            oldest = f"{replica}.{int(number) - MAX_TERMINATIONS}"
            await self._engine.remove(node, oldest, epoch=self._fence.epoch)

    async def _bury(self, replicas: Iterable[Replica], *, reachable: bool) -> None:
        """Remove abandoned replicas that ended, with all their attempts left on the node."""
        now_ms = self._clock.now_ms()
        for replica in replicas:
            if not replica.abandoned:
                continue
            if replica.phase is Phase.ENDED:
                await self._write([done(replica)])
            elif replica.phase is Phase.DONE:
                if reachable:
                    for number in range(replica.attempt + 1):
                        id = f"{replica.id}.{number}"
                        await self._engine.forget(replica.node, id, epoch=self._fence.epoch)
                        await self._engine.remove(replica.node, id, epoch=self._fence.epoch)
                    if (kept := kept_by(replica)) and await self._is_last(replica):
                        await self._engine.drop(replica.node, kept, epoch=self._fence.epoch)
                await self._store.commit(Delete(replica), fence=self._fence)
                self._mirror.forget(replica)
            elif replica.goal is Goal.RUN:
                await self._write([stop(replica, now_ms)])


def _sight(observation: Seen, attempt: str) -> Sight:
    match observation.attempts.get(attempt):
        case Running(started_at_ms):
            return SeenRunning(started_at_ms)
        case Ended(how):
            return SeenEnded(how)
    return None
