"""The queue: takes a snapshot of the cluster, has it scheduled, and writes the placements down."""

import asyncio

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror, Watch
from leptonai.core.records import EndReason, Goal, Job, Node, NodeState, OwnerKind, Phase, Replica
from leptonai.core.scheduler import (
    ANY_PORT,
    Gang,
    Holding,
    NodeView,
    Place,
    Reason,
    Snapshot,
    Worker,
    schedule,
)
from leptonai.errors import TryLater, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Fence, Put, Store


class PlacementLoop:
    name = "placement"

    def __init__(self, mirror: Mirror, store: Store, fence: Fence, clock: Clock) -> None:
        self.watch: Watch = mirror.watch(Replica, Node)
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        # Kept up from step to step: a step costs what changed, not all that waits.
        self._waiting: dict[str, dict[str, Replica]] = {}  # by gang, by replica
        self._queue: dict[str, Gang] = {}  # the gangs that are all there
        self._holdings: dict[str, Holding] = {}  # by replica
        self._why: dict[str, Reason] = {}
        self._unsure: set[Key] = set()  # replicas whose placement may or may not be on disk

    def why(self, gang: str) -> Reason | None:
        """Why a gang waits, as of the last plan."""
        return self._why.get(gang)

    async def step(self) -> int | None:
        await self._make_sure()
        for record in self.watch.take():
            if isinstance(record, Replica):
                self._learn(record)
        if not self._queue:
            self._why = {}
            return None
        plan = schedule(
            Snapshot(
                now_ms=self._clock.now_ms(),
                nodes=tuple(_node(node) for node in self._mirror.nodes.values()),
                holdings=tuple(self._holdings.values()),
                queue=tuple(self._queue.values()),
            )
        )
        self._why = {wait.gang: wait.because for wait in plan.waits}
        # All of them have ended before the next plan is made.
        written = await asyncio.gather(
            *(self._place(place) for place in plan.places), return_exceptions=True
        )
        for result in written:
            if isinstance(result, BaseException):
                raise result
        if not all(written):
            raise VersionConflict("some gangs changed while they were placed")
        return None

    async def _make_sure(self) -> None:
        """A plan that overlooks a placement gives its room away twice: look what was written."""
        if self._unsure:
            await self._store.commit(fence=self._fence)  # after what a database may still be doing
        for workspace, id in sorted(self._unsure):
            replica = await self._store.get(Replica, workspace, id)
            if replica is not None:
                self._mirror.notice([replica])
            self._unsure.discard((workspace, id))

    def _learn(self, replica: Replica) -> None:
        """Replicas and gangs are named "workspace/id" here."""
        id = f"{replica.workspace}/{replica.id}"
        gang = f"{replica.workspace}/{replica.gang}"
        if replica.holds_capacity:
            self._holdings[id] = _holding(replica)
        else:
            self._holdings.pop(id, None)
        if replica.phase is Phase.WAITING and replica.goal is Goal.RUN:
            members = self._waiting.setdefault(gang, {})
            members[id] = replica
            if len(members) == replica.gang_size:  # until then the rest is still on its way here
                self._queue[gang] = gang_of(gang, list(members.values()), self._mirror)
        elif gang in self._waiting:
            self._queue.pop(gang, None)
            self._waiting[gang].pop(id, None)
            if not self._waiting[gang]:
                del self._waiting[gang]

    async def _place(self, place: Place) -> bool:
        """Write down a whole gang's placement; False if one of its replicas changed meanwhile."""
        members = self._waiting[place.gang]
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
        deadline_at_ms=1000 * deadline.at if deadline else None,
    )


def _wished_ports(replica: Replica) -> tuple[int, ...]:
    """One that could not be started may have found its port taken: any will do now."""
    end = replica.last_end
    if end is not None and end.reason is EndReason.NOT_STARTED:
        return (ANY_PORT,) * len(replica.program.ports)
    return replica.program.ports


def _holding(replica: Replica) -> Holding:
    return Holding(
        replica=f"{replica.workspace}/{replica.id}",
        gang=f"{replica.workspace}/{replica.gang}",
        node=replica.node,
        needs=replica.program.needs,
        gpus=replica.gpus,
        ports=(*replica.ports, replica.rendezvous_port),
        priority=replica.priority,
        started_at_ms=replica.started_at_ms,
        lasting=replica.owner_kind is OwnerKind.ENDPOINT,
    )


def _node(node: Node) -> NodeView:
    return NodeView(
        id=node.id,
        group=node.group,
        capacity=node.capacity,
        labels=node.labels,
        schedulable=node.state is NodeState.READY and not node.unschedulable,
    )
