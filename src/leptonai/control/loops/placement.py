"""The queue: takes a snapshot of the cluster, has it scheduled, and writes the placements down."""

import asyncio
from collections.abc import Iterable
from typing import TypedDict

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror, Watch
from leptonai.core.records import (
    EndReason,
    Goal,
    Job,
    Node,
    NodeState,
    OwnerKind,
    Phase,
    Record,
    Replica,
)
from leptonai.core.scheduler import (
    ANY_PORT,
    DEFAULT,
    Assignment,
    Change,
    Deadline,
    Gang,
    Index,
    NodeView,
    Place,
    Policy,
    Reason,
    Running,
    Snapshot,
    Worker,
    advance,
    decide,
)
from leptonai.errors import TryLater, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Fence, Put, Store


class _NodeChange(TypedDict, total=False):
    nodes: tuple[NodeView, ...]
    removed_nodes: tuple[str, ...]


class PlacementLoop:
    name = "placement"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        fence: Fence,
        clock: Clock,
        policy: Policy = DEFAULT,
    ) -> None:
        self.watch: Watch = mirror.watch(Replica, Node)
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        # Kept up from step to step: a step costs what changed, not all that waits.
        self._gangs: dict[str, dict[str, Replica]] = {}  # by gang, by replica: waiting or holding
        self._index = Index((), policy)
        self._why: dict[str, Reason] | None = None  # None: to be asked of the index
        self._unsure: set[Key] = set()  # replicas whose placement may or may not be on disk

    def why(self, gang: str) -> Reason | None:
        """Why a gang waits, as things stand."""
        if self._why is None:
            plan = decide(self._index, self._clock.now_ms(), explain=True)
            self._why = {wait.gang: wait.because for wait in plan.waits}
        return self._why.get(gang)

    @property
    def waiting(self) -> int:
        """How many gangs wait."""
        return len(self._index.waiting)

    @property
    def policy(self) -> Policy:
        return self._index.policy

    def snapshot(self) -> Snapshot:
        """The cluster and its queue as they stand, as a value that anybody may keep."""
        index = self._index
        return Snapshot(
            now_ms=self._clock.now_ms(),
            nodes=index.nodes.views,
            running=tuple(index.running.values()),
            queue=tuple(index.waiting.values()),
            quotas=index.quotas,
            weights=index.weights,
        )

    async def step(self) -> int | None:
        await self._make_sure()
        self._learn(self.watch.take())
        if not self._index.waiting:
            return None
        plan = decide(self._index, self._clock.now_ms())
        # All of them have ended before the next plan is made.
        written = await asyncio.gather(
            *(self._place(place) for place in plan.places), return_exceptions=True
        )
        for result in written:
            if isinstance(result, BaseException):
                raise result
        if not all(written):
            raise VersionConflict("some gangs changed while they were placed")
        return plan.revisit_at_ms

    async def _make_sure(self) -> None:
        """A plan that overlooks a placement gives its room away twice: look what was written."""
        if self._unsure:
            await self._store.commit(fence=self._fence)  # after what a database may still be doing
        for workspace, id in sorted(self._unsure):
            replica = await self._store.get(Replica, workspace, id)
            if replica is not None:
                self._mirror.notice([replica])
            self._unsure.discard((workspace, id))

    def _learn(self, records: Iterable[Record]) -> None:
        """Bring the index up to what changed. Gangs and replicas are named "workspace/id" there."""
        gangs: set[str] = set()
        nodes: dict[str, NodeView] = {}
        for record in records:
            if isinstance(record, Replica):
                gang = f"{record.workspace}/{record.gang}"
                gangs.add(gang)
                members = self._gangs.setdefault(gang, {})
                waits = record.phase is Phase.WAITING and record.goal is Goal.RUN
                if waits or record.holds_capacity:
                    members[record.id] = record
                else:
                    members.pop(record.id, None)
                    if not members:
                        del self._gangs[gang]
            elif isinstance(record, Node):
                nodes[record.id] = _node(record)
        queued, running, gone = [], [], []
        for gang in sorted(gangs):
            members = self._gangs.get(gang, {})
            holding = [replica for replica in members.values() if replica.holds_capacity]
            if holding:
                running.append(running_of(gang, holding, self._mirror))
            elif members and len(members) == next(iter(members.values())).gang_size:
                # Until then the rest is still on its way here.
                queued.append(gang_of(gang, list(members.values()), self._mirror))
            else:
                gone.append(gang)
        change = Change(
            queued=tuple(queued),
            running=tuple(running),
            gone=tuple(gone),
            **self._changed_nodes(nodes),
        )
        if change != Change():
            self._index = advance(self._index, change)
        self._why = None

    def _changed_nodes(self, seen: dict[str, NodeView]) -> _NodeChange:
        if not seen and len(self._mirror.nodes) == len(self._index.nodes):
            return {}
        known = {view.id: view for view in self._index.nodes.views}
        there = {node.id for node in self._mirror.nodes.values()}
        return {
            "nodes": tuple(v for id, v in seen.items() if id in there and known.get(id) != v),
            "removed_nodes": tuple(id for id in known if id not in there),
        }

    async def _place(self, place: Place) -> bool:
        """Write down a whole gang's placement; False if one of its replicas changed meanwhile."""
        members = {f"{r.workspace}/{r.id}": r for r in self._gangs[place.gang].values()}
        placed = [
            replace(
                members[assignment.replica],
                phase=Phase.PLACED,
                node=assignment.node,
                gpus=assignment.gpus,
                ports=assignment.ports,
                rendezvous_port=place.rendezvous_port,
            )
            for assignment in place.assignments
        ]
        try:
            await self._mirror.commit(self._store, *map(Put, placed), fence=self._fence)
        except VersionConflict:
            return False
        except TryLater:
            self._unsure |= {(replica.workspace, replica.id) for replica in placed}
            raise
        return True


def gang_of(id: str, replicas: list[Replica], mirror: Mirror) -> Gang:
    replicas = sorted(replicas, key=lambda r: r.index)
    first = replicas[0]
    job: Job | None = None
    if first.owner_kind is OwnerKind.JOB:
        job = mirror.jobs.get((first.workspace, first.owner_id))
    deadline = job.spec.deadline if job else None
    estimate = job.spec.estimated_seconds if job else None
    return Gang(
        id=id,
        name=first.owner_name,
        workers=tuple(
            Worker(replica=f"{r.workspace}/{r.id}", needs=r.program.needs, ports=_wished_ports(r))
            for r in replicas
        ),
        priority=first.priority,
        queued_at_ms=job.queued_at_ms if job else first.created_at_ms,
        user=first.owner,
        allowed_nodes=frozenset(first.program.allowed_nodes),
        allowed_groups=frozenset(first.program.allowed_groups),
        deadline=Deadline(at_ms=1000 * deadline.at, hard=deadline.hard) if deadline else None,
        remaining_ms=None if estimate is None else 1000 * estimate,
        lasting=first.owner_kind is OwnerKind.ENDPOINT,
    )


def _wished_ports(replica: Replica) -> tuple[int, ...]:
    """One that could not be started may have found its port taken: any will do now."""
    end = replica.last_end
    if end is not None and end.reason is EndReason.NOT_STARTED:
        return (ANY_PORT,) * len(replica.program.ports)
    return replica.program.ports


def running_of(id: str, replicas: list[Replica], mirror: Mirror) -> Running:
    """
    Args:
        replicas: those of the gang that hold something.
    """
    gang = gang_of(id, replicas, mirror)
    by_name = {f"{r.workspace}/{r.id}": r for r in replicas}
    held = []
    for worker in gang.workers:
        replica = by_name[worker.replica]
        to = Assignment(worker.replica, replica.node, replica.gpus, replica.ports)
        held.append((worker, to))
    started = [r.started_at_ms for r in replicas if r.started_at_ms is not None]
    return Running(
        gang=gang,
        held=tuple(held),
        rendezvous_port=replicas[0].rendezvous_port,
        started_at_ms=min(started, default=None),
        lasting=replicas[0].owner_kind is OwnerKind.ENDPOINT,
    )


def _node(node: Node) -> NodeView:
    return NodeView(
        id=node.id,
        group=node.group,
        capacity=node.capacity,
        labels=node.labels,
        schedulable=node.state is NodeState.READY and not node.unschedulable,
    )
