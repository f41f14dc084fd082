"""The queue: takes a snapshot of the cluster, has it scheduled, and writes the placements down."""

import asyncio
import dataclasses
import heapq
from collections.abc import Iterable
from functools import cached_property
from typing import TypedDict

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror, Watch
from leptonai.control.owners import Owners
from leptonai.control.template_memory import TemplateMemory
from leptonai.core import records, scheduler
from leptonai.core.gangs import gang_of, quota_of, running_of, view_of
from leptonai.core.lifecycle.job import Seat
from leptonai.core.records import (
    Goal,
    Job,
    Node,
    Phase,
    Record,
    Replica,
    Reservation,
    Workload,
)
from leptonai.core.reservations import NOTHING, reserved_at
from leptonai.core.scheduler.demand import Demand
from leptonai.core.scheduler.policy import DEFAULT, Policy
from leptonai.core.scheduler.values import (
    NodeView,
    Place,
    Preempt,
    Quota,
    Reason,
    Resize,
    Snapshot,
    Spare,
    WaitCode,
)
from leptonai.errors import TryLater, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Delete, Fence, Put, Store

MAX_GIVEN_WAY_TO = 100  # gangs, the first ones: templates give way to those that wait
GROW_EVERY_MS = 60_000  # looks whether elastic jobs should have more workers, if nothing happens


FOR_ROOM = frozenset({WaitCode.CAPACITY, WaitCode.CLEARING})


class _NodeChange(TypedDict, total=False):
    nodes: tuple[NodeView, ...]
    removed_nodes: tuple[str, ...]


class _QuotaChange(TypedDict, total=False):
    quotas: tuple[Quota, ...]
    weights: dict[str, float]


class PlacementLoop:
    name = "placement"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        owners: Owners,
        fence: Fence,
        clock: Clock,
        templates: TemplateMemory,
        policy: Policy = DEFAULT,
    ) -> None:
        self.watch: Watch = mirror.watch(
            Replica, Node, Job, records.Quota, Reservation, only=_matters
        )
        self._mirror = mirror
        self._store = store
        self._owners = owners
        self._fence = fence
        self._clock = clock
        self._templates = templates
        templates.wake(self.watch.news)
        # Kept up from step to step: a step costs what changed, not all that waits.
        self._gangs: dict[str, dict[str, Replica]] = {}  # by gang, by replica: waiting or holding
        self._policy = policy
        self._promised: set[str] = set()  # gangs that others have given way to
        self._demand = Demand()
        self._why: dict[str, Reason] | None = None  # None: to be asked of the index
        self.reserved = NOTHING
        self._unsure: set[Key] = set()  # replicas whose placement may or may not be on disk

    @cached_property
    def _index(self) -> "scheduler.Index":
        return scheduler.Index((), self._policy)

    def why(self, gang: str) -> Reason | None:
        """Why a gang waits, as things stand."""
        if self._why is None:
            plan = scheduler.decide(self._index, self._clock.now_ms(), explain=True)
            self._why = {wait.gang: wait.because for wait in plan.waits}
            for place in plan.places:
                if place.after:
                    self._why[place.gang] = scheduler.clearing(place, self._index)
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
            nodes=index.nodes.machines.views,
            running=tuple(index.running.values()),
            queue=tuple(index.waiting.values()),
            quotas=index.quotas,
            weights=index.weights,
            demand=index.demand,
        )

    async def step(self) -> int | None:
        """Carry out what can be done now of a plan.

        A place that comes after the end of others is left alone: they are asked to stop, which is
        on record, and once they hold nothing a later plan finds the room free. Until then every
        plan keeps it for whom it is meant.
        """
        await self._make_sure()
        self._learn(self.watch.take())
        if not (self._index.waiting or self._index.growable):
            return None  # whoever comes has it look what is reserved by then
        revisit_at_ms = await self._carry_out()
        bounds = [each for each in (revisit_at_ms, self.reserved.until_ms) if each is not None]
        return min(bounds, default=None)

    async def _carry_out(self) -> int | None:
        plan = scheduler.decide(self._index, self._clock.now_ms())
        placed = {place.gang for place in plan.places if not place.after}
        if spares := self._giving_way(placed):
            await asyncio.gather(*(self._templates.end(spare) for spare in spares))
            plan = dataclasses.replace(plan, preempts=(), resizes=())  # may not be needed any more
        # All of them have ended before the next plan is made.
        written = await asyncio.gather(
            *(self._give_way(preempt) for preempt in plan.preempts),
            *(self._resize(resize) for resize in plan.resizes),
            *(
                self._place(place)
                for place in plan.places
                if not place.after and place.gang in self._index.waiting
            ),
            return_exceptions=True,
        )
        for result in written:
            if isinstance(result, BaseException) and not isinstance(result, VersionConflict):
                raise result
        if any(isinstance(result, VersionConflict) for result in written):
            raise VersionConflict("some gangs changed while they were placed")
        if self._index.growable:  # it pays better the longer it has run
            grow_at_ms = self._clock.now_ms() + GROW_EVERY_MS
            return min(grow_at_ms, plan.revisit_at_ms or grow_at_ms)
        return plan.revisit_at_ms

    def _giving_way(self, placed: set[str]) -> tuple[Spare, ...]:
        """The templates that end for the first gang that waits for what they take."""
        spares = self._templates.spares()
        if not spares:
            return ()
        waiting = (gang for gang in self._index.waiting.values() if gang.id not in placed)
        first = heapq.nsmallest(
            MAX_GIVEN_WAY_TO, waiting, key=lambda gang: (-gang.priority, gang.queued_at_ms, gang.id)
        )
        for gang in first:
            given = scheduler.giving_way(self._index, gang, spares)
            if given and (why := self.why(gang.id)) and why.code in FOR_ROOM:
                return given
        return ()

    async def _give_way(self, preempt: Preempt) -> None:
        why = f"gives way to {self._to(preempt)}"
        await self._owners.give_way(self._job(preempt.gang), why=why, to=preempt.by)

    async def _resize(self, resize: Resize) -> None:
        """It starts again from its checkpoint, at once, in these places."""
        held = {worker.replica for worker, _ in self._index.running[resize.gang].held}
        why = f"goes on with {len(resize.assignments)} workers"
        if resize.by:
            why += f" and gives way to {self._to(resize)}"
        await self._owners.give_way(
            self._job(resize.gang),
            why=why,
            to=resize.by,
            keeps={t.replica.partition("/")[2] for t in resize.assignments if t.replica in held},
            adds=[
                Seat(t.node, t.gpus, t.ports) for t in resize.assignments if t.replica not in held
            ],
        )

    def _job(self, gang: str) -> Key:
        replica = next(iter(self._gangs[gang].values()))
        return replica.workspace, replica.owner_id

    def _to(self, yields: Preempt | Resize) -> str:
        """Who needs the room, for people; who of another workspace is nobody's business."""
        running = self._index.running.get(yields.by)
        gang = self._index.waiting.get(yields.by) or (running.gang if running else None)
        if gang is None or gang.id.partition("/")[0] != yields.gang.partition("/")[0]:
            return "another workload"
        return f"{gang.name} (priority {gang.priority})"

    async def _make_sure(self) -> None:
        """A plan that overlooks a placement gives its room away twice: look what was written."""
        if self._unsure:
            await self._store.commit(fence=self._fence)  # after what a database may still be doing
        for workspace, id in sorted(self._unsure):
            replica = await self._store.get(Replica, workspace, id)
            if replica is not None:
                self._mirror.notice([replica])
            elif (known := self._mirror.replicas.get((workspace, id))) is not None:
                self._mirror.forget(known)
            self._unsure.discard((workspace, id))

    def _learn(self, changed: Iterable[Record]) -> None:
        """Bring the index up to what changed. Gangs and replicas are named "workspace/id" there."""
        gangs: set[str] = self._changed_reservations()
        nodes: dict[str, NodeView] = {}
        quotas = False
        for record in changed:
            if isinstance(record, Replica):
                gang = f"{record.workspace}/{record.gang}"
                gangs.add(gang)
                members = self._gangs.setdefault(gang, {})
                waits = record.phase is Phase.WAITING and record.goal is Goal.RUN
                there = (record.workspace, record.id) in self._mirror.replicas
                if there and (waits or record.holds_capacity):
                    if record.id not in members:
                        self._demand.ask(record.program.needs, record.created_at_ms)
                    members[record.id] = record
                else:
                    members.pop(record.id, None)
                    if not members:
                        del self._gangs[gang]
            elif isinstance(record, Node):
                nodes[record.id] = self._view(record)
            elif isinstance(record, records.Quota):
                quotas = True
            elif isinstance(record, Job):
                gangs.add(f"{record.workspace}/job/{record.id}/{record.round}")
                if record.gave_way_to:
                    gangs.add(record.gave_way_to)
                    self._promised.add(record.gave_way_to)
        if spared := self._templates.take_changed():
            for node in self._mirror.nodes.values():
                if node.id in spared:
                    nodes[node.id] = self._view(node)
        queued, running, gone = [], [], []
        for gang in sorted(gangs):
            replicas = list(self._gangs.get(gang, {}).values())
            holding = [replica for replica in replicas if replica.holds_capacity]
            if holding or not replicas:
                self._promised.discard(gang)
            if holding:
                running.append(running_of(holding, self._owner_of(holding), self.reserved))
            elif replicas and len(replicas) == replicas[0].gang_size:
                waiting = gang_of(replicas, self._owner_of(replicas), self.reserved)
                promised = gang in self._promised
                queued.append(dataclasses.replace(waiting, promised=promised))
            else:  # over, or the rest is still on its way here
                gone.append(gang)
        change = scheduler.Change(
            queued=tuple(queued),
            running=tuple(running),
            gone=tuple(gone),
            demand=self._demand.news(),
            **self._changed_nodes(nodes),
            **(self._quotas() if quotas else {}),
        )
        if change != scheduler.Change():
            self._index = scheduler.advance(self._index, change)
        self._why = None

    def _owner_of(self, replicas: list[Replica]) -> Workload | None:
        first = replicas[0]
        return self._mirror.workload(first.owner_kind, (first.workspace, first.owner_id))

    def _view(self, node: Node) -> NodeView:
        return dataclasses.replace(view_of(node), spare_bytes=self._templates.taken(node.id))

    def _changed_reservations(self) -> set[str]:
        """Take in what is reserved now; the gangs whose nodes may be others for that."""
        before = self.reserved
        self.reserved = reserved_at(self._mirror.reservations.values(), self._clock.now_ms())
        return set() if self.reserved.in_force == before.in_force else set(self._gangs)

    def _changed_nodes(self, seen: dict[str, NodeView]) -> _NodeChange:
        if not seen and len(self._mirror.nodes) == len(self._index.nodes):
            return {}
        known = {view.id: view for view in self._index.nodes.machines.views}
        there = {node.id for node in self._mirror.nodes.values()}
        return {
            "nodes": tuple(v for id, v in seen.items() if id in there and known.get(id) != v),
            "removed_nodes": tuple(id for id in known if id not in there),
        }

    def _quotas(self) -> _QuotaChange:
        records = sorted(self._mirror.quotas.values(), key=lambda r: (r.workspace, r.id))
        return {
            "quotas": tuple(map(quota_of, records)),
            "weights": {f"{r.workspace}/{r.name}": r.weight for r in records if not r.of_project},
        }

    async def _place(self, place: Place) -> None:
        """Write down a whole gang's placement. What an elastic one has no room for is removed: it
        has that many workers until it starts again.

        Raises:
            VersionConflict: one of its replicas changed meanwhile.
        """
        members = {f"{r.workspace}/{r.id}": r for r in self._gangs[place.gang].values()}
        placed = [
            replace(
                members[assignment.replica],
                phase=Phase.PLACED,
                node=assignment.node,
                gpus=assignment.gpus,
                ports=assignment.ports,
                rendezvous_port=place.rendezvous_port,
                gang_size=len(place.assignments),
            )
            for assignment in place.assignments
        ]
        for assignment in place.assignments:
            del members[assignment.replica]
        left = list(members.values())
        try:
            await self._mirror.commit(
                self._store, *map(Put, placed), *map(Delete, left), fence=self._fence
            )
        except TryLater:
            self._unsure |= {(replica.workspace, replica.id) for replica in (*placed, *left)}
            raise
        for replica in left:
            self._mirror.forget(replica)


def _matters(record: Record) -> bool:
    """Of a job only its checkpoints and to whom it gave way: the rest is told by its replicas."""
    return not isinstance(record, Job) or record.saved_at_ms is not None or record.gave_way_to != ""
