"""What would start a waiting gang now: changes to what it asks for, each tried on the scheduler.

A change is proposed only if the very walk that decides the queue places the changed gang. What is
cheap to rule out is ruled out before: that only saves time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import msgspec

from leptonai.core.resources import MIB, MILLIS, Needs
from leptonai.core.scheduler.fitting import choose_nodes
from leptonai.core.scheduler.index import Change, Index, advance
from leptonai.core.scheduler.nodes import Nodes
from leptonai.core.scheduler.placement import decide
from leptonai.core.scheduler.policy import Yielding
from leptonai.core.scheduler.quotas import Standing, Usage, standing
from leptonai.core.scheduler.values import Gang, NodeView, Place, Preempt, Quota, Worker

MOST = 3  # changes that are proposed
MAX_TRIES = 12  # changes that are tried on the scheduler: each costs a decision
PARTS = 16  # a smaller share of CPU and memory is looked for in steps of so many
HIGHEST_PRIORITY = 9_000
PRIORITY_STEP = 1_000


class AlternativeKind(StrEnum):
    """In the order of their costs: the first leave the work as it is, then comes less for the
    work, then what others pay for."""

    AFFINITY = "affinity"  # other nodes
    GPU_TYPE = "gpu_type"
    SEGMENTS = "segments"  # its workers anywhere, not so many behind one switch
    SIZE = "size"  # a smaller share of CPU or memory for each worker
    WORKERS = "workers"  # fewer
    GPUS = "gpus"  # fewer for each worker, or a smaller share of one
    PREEMPTIBLE = "preemptible"  # may borrow, and has to give back
    PREEMPTING = "preempting"  # may preempt at the priority it has
    PRIORITY = "priority"  # a higher one
    QUOTA = "quota"  # a larger one: an admin's to give


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A change with which the gang would start now, and what would follow of it."""

    kind: AlternativeKind
    gang: Gang  # as changed
    place: Place
    preempts: tuple[Preempt, ...] = ()
    quota: Quota | None = None  # as changed


def alternatives(index: Index, gang: Gang, now_ms: int, *, most: int = MOST) -> list[Alternative]:
    """Up to so many changes that would start a gang now, the cheapest first; one of each kind.

    A changed gang is a new request: it queues from now on.

    Args:
        index: of the cluster and its queue, the gang in it. Is as it was afterwards.
    """
    asked = _Asked(index, gang, now_ms)
    found: list[Alternative] = []
    tries = 0
    for kind, changed, quota in asked.changes():
        if any(each.kind is kind for each in found) or not asked.might(changed, quota):
            continue
        if tries == MAX_TRIES:
            break
        tries += 1
        alternative = asked.tried(kind, changed, quota)
        if alternative is not None:
            found.append(alternative)
            if len(found) == most:
                break
    advance(index, Change(queued=(gang,)))
    return found


Proposal = tuple[AlternativeKind, Gang, Quota | None]


class _Asked:
    def __init__(self, index: Index, gang: Gang, now_ms: int) -> None:
        self._index = index
        self._now_ms = now_ms
        self._as_asked = gang
        self._gang = replace(gang, queued_at_ms=now_ms, attained_ms=0)
        self._without: dict[frozenset[str], Nodes] = {}  # the nodes, were these gangs not there

    def changes(self) -> Iterator[Proposal]:
        """Worth trying, the cheapest kind first, and of each kind the smallest change first."""
        for changed in self._elsewhere():
            yield AlternativeKind.AFFINITY, changed, None
        for changed in self._other_gpus():
            yield AlternativeKind.GPU_TYPE, changed, None
        if self._gang.segment:
            yield AlternativeKind.SEGMENTS, replace(self._gang, segment=0), None
        for changed in self._smaller():
            yield AlternativeKind.SIZE, changed, None
        for changed in self._with_fewer_workers():
            yield AlternativeKind.WORKERS, changed, None
        for changed in self._with_fewer_gpus():
            yield AlternativeKind.GPUS, changed, None
        gang = self._gang
        if not gang.preemptible and self._over_quota(gang):
            yield AlternativeKind.PREEMPTIBLE, replace(gang, preemptible=True), None
        if not gang.may_preempt:
            yield AlternativeKind.PREEMPTING, replace(gang, may_preempt=True), None
        for changed in self._more_urgent():
            yield AlternativeKind.PRIORITY, changed, None
        if (larger := self._larger_quota()) is not None:
            yield AlternativeKind.QUOTA, self._as_asked, larger

    # --- what might be changed --------------------------------------------------------------------

    def _elsewhere(self) -> Iterator[Gang]:
        gang = self._gang
        if gang.allowed_nodes and gang.allowed_groups:
            yield replace(gang, allowed_nodes=frozenset())
        if gang.allowed_nodes or gang.allowed_groups:
            anywhere = replace(gang, allowed_nodes=frozenset(), allowed_groups=frozenset())
            for group in sorted({view.group for view in self._views() if view.group}):
                yield replace(anywhere, allowed_groups=frozenset({group}))
            yield anywhere

    def _other_gpus(self) -> Iterator[Gang]:
        named = {worker.needs.gpu_type for worker in self._gang.workers if worker.needs.gpus}
        if any(named):
            for kind in sorted({view.capacity.gpu_type for view in self._views()} - named - {""}):
                yield self._each(partial(_with_gpu_type, kind=kind))

    def _smaller(self) -> Iterator[Gang]:
        """The largest share that fits: of the CPU, of the memory, of both."""
        for cpu, memory in ((True, False), (False, True), (True, True)):
            shrunk = partial(self._of_share, cpu=cpu, memory=memory)
            if parts := self._most(PARTS - 1, shrunk):
                yield shrunk(parts)

    def _of_share(self, parts: int, *, cpu: bool, memory: bool) -> Gang:
        return self._each(partial(_share, parts=parts, cpu=cpu, memory=memory))

    def _with_fewer_workers(self) -> Iterator[Gang]:
        """In whole segments, where it has such."""
        least = len(self._gang.least) // (self._gang.segment or 1)
        many = self._most(least - 1, self._of_workers)
        for fewer in dict.fromkeys((many, many // 2)):
            if fewer:
                yield self._of_workers(fewer)

    def _of_workers(self, many: int) -> Gang:
        if self._gang.min_workers:
            return replace(self._gang, min_workers=many)
        return replace(self._gang, workers=self._gang.workers[: many * (self._gang.segment or 1)])

    def _with_fewer_gpus(self) -> Iterator[Gang]:
        devices = max(worker.needs.gpus for worker in self._gang.workers)
        if devices > 1 and (many := self._most(devices - 1, self._of_gpus)):
            yield self._of_gpus(many)
        elif devices == 1:
            for parts in (2, 4):
                yield self._each(partial(_part_of_gpu, parts=parts))

    def _of_gpus(self, many: int) -> Gang:
        return self._each(partial(_with_gpus, most=many))

    def _more_urgent(self) -> Iterator[Gang]:
        gang = self._gang
        first = (gang.priority // PRIORITY_STEP + 1) * PRIORITY_STEP
        for priority in range(first, HIGHEST_PRIORITY + 1, PRIORITY_STEP):
            yield replace(gang, priority=priority)

    def _larger_quota(self) -> Quota | None:
        gang = self._as_asked
        _, quota = standing(gang, self._index.quotas_of(gang), self._index.used_of)
        if quota is None or not self._over_quota(gang):
            return None
        asked, used = Usage(), self._index.used_of(quota)
        asked.add(gang.least)
        gpus, cpu = used.gpu_millis + asked.gpu_millis, used.cpu_millis + asked.cpu_millis
        return replace(
            quota,
            gpus=None if quota.gpus is None else max(quota.gpus, gpus / MILLIS),
            cpu_millis=None if quota.cpu_millis is None else max(quota.cpu_millis, cpu),
        )

    def _each(self, changed: Callable[[Needs], Needs]) -> Gang:
        """With every worker's needs changed."""
        by_needs: dict[Needs, Needs] = {}
        workers: list[Worker] = []
        for worker in self._gang.workers:
            if worker.needs not in by_needs:
                by_needs[worker.needs] = changed(worker.needs)
            workers.append(replace(worker, needs=by_needs[worker.needs]))
        return replace(self._gang, workers=tuple(workers))

    def _views(self) -> Iterator[NodeView]:
        return (view for view in self._index.nodes.machines.views if view.schedulable)

    # --- whether it helps -------------------------------------------------------------------------

    def might(self, changed: Gang, quota: Quota | None = None) -> bool:
        """Whether a changed gang could be placed at all. False is certain."""
        if quota is None and self._over_quota(changed):
            return False
        nodes = self._roomiest(changed)
        return choose_nodes(changed, nodes, self._index.admitted(changed)) is not None

    def _most(self, upto: int, changed: Callable[[int], Gang]) -> int:
        """The largest n from 1 to `upto` that might do, where all that are smaller do too; or 0."""
        if upto < 1 or not self.might(changed(1)):
            return 0
        least, most = 1, upto
        while least < most:
            middle = (least + most + 1) // 2
            if self.might(changed(middle)):
                least = middle
            else:
                most = middle - 1
        return least

    def _roomiest(self, gang: Gang) -> Nodes:
        """The nodes as they would be if all had yielded to a gang that possibly could."""
        index = self._index
        yielding = frozenset(self._yielding_to(gang))
        if not yielding:
            return index.nodes
        if yielding not in self._without:
            nodes = index.nodes.replaced(index.nodes.machines.views)
            for id, running in index.running.items():
                if id not in yielding:
                    for at, hold in index.holds(running):
                        nodes.take(at, hold)
            self._without[yielding] = nodes
        return self._without[yielding]

    def _yielding_to(self, gang: Gang) -> Iterator[str]:
        index = self._index
        lent = bool(index.quotas_of(gang))
        by_order = index.policy.yielding is Yielding.ORDER
        for id in sorted(index.elastic | index.preemptible):
            priority = index.running[id].gang.priority
            if id in index.elastic and priority <= gang.priority:
                yield id
            elif not gang.may_preempt or index.policy.yielding is Yielding.NEVER:
                continue
            elif priority < gang.priority or (priority == gang.priority and lent) or by_order:
                yield id

    def tried(
        self, kind: AlternativeKind, changed: Gang, quota: Quota | None
    ) -> Alternative | None:
        index = self._index
        advance(index, Change(queued=(changed,)))
        quotas = index.quotas
        if quota is not None:
            raised = (
                quota if (each.user, each.project) == (quota.user, quota.project) else each
                for each in quotas
            )
            advance(index, Change(quotas=tuple(raised)))
        plan = decide(index, self._now_ms)
        if quota is not None:
            advance(index, Change(quotas=quotas))
        place = next((place for place in plan.places if place.gang == changed.id), None)
        if place is None:
            return None
        preempts = tuple(each for each in plan.preempts if each.by == changed.id)
        return Alternative(kind=kind, gang=changed, place=place, preempts=preempts, quota=quota)

    def _over_quota(self, gang: Gang) -> bool:
        stands, _ = standing(gang, self._index.quotas_of(gang), self._index.used_of)
        return stands is Standing.OVER


def _with_gpu_type(needs: Needs, *, kind: str) -> Needs:
    return msgspec.structs.replace(needs, gpu_type=kind) if needs.gpus else needs


def _with_gpus(needs: Needs, *, most: int) -> Needs:
    return msgspec.structs.replace(needs, gpus=min(most, needs.gpus))


def _part_of_gpu(needs: Needs, *, parts: int) -> Needs:
    return msgspec.structs.replace(needs, gpu_millis=max(1, needs.gpu_millis // parts))


def _share(needs: Needs, *, parts: int, cpu: bool, memory: bool) -> Needs:
    """So many of PARTS, in whole tenths of a core and MiB."""
    changed = needs
    if cpu and needs.cpu_millis:
        millis = needs.cpu_millis * parts // PARTS
        changed = msgspec.structs.replace(changed, cpu_millis=millis // 100 * 100 or millis or 1)
    if memory and needs.memory_bytes:
        amount = needs.memory_bytes * parts // PARTS
        changed = msgspec.structs.replace(changed, memory_bytes=amount // MIB * MIB or amount or 1)
    return changed
