"""Jobs, endpoints and Ray clusters, with their replicas: what is to be written together."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror
from leptonai.control.traffic import TrafficLog
from leptonai.core.lifecycle import endpoint as endpoint_lifecycle
from leptonai.core.lifecycle import job as job_lifecycle
from leptonai.core.lifecycle import raycluster as raycluster_lifecycle
from leptonai.core.lifecycle.endpoint import last_replica
from leptonai.core.lifecycle.job import Seat
from leptonai.core.lifecycle.replica import abandon
from leptonai.core.lifecycle.step import Step
from leptonai.core.records import (
    Autoscaling,
    Endpoint,
    Event,
    Job,
    OwnerKind,
    RayCluster,
    Record,
    Replica,
    Workload,
    kind_of,
)
from leptonai.core.rollouts.progress import candidate
from leptonai.core.rollouts.values import Rollout
from leptonai.core.traffic import TrafficWindow
from leptonai.ports.clock import Clock
from leptonai.ports.store import Change, Delete, Emit, Fence, Put, Query, Store

OwnerKey = tuple[OwnerKind, Key]

# What changes only what was seen of a roll-out's traffic is written down once in so long; another
# control plane counts that much anew at most.
KEEP_EVIDENCE_MS = 15_000


class Owners:
    def __init__(
        self, mirror: Mirror, store: Store, fence: Fence, clock: Clock, traffic: TrafficLog
    ) -> None:
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        self._traffic = traffic
        self._judged: dict[Key, Rollout] = {}  # newer than the endpoint's record
        self._locks: WeakValueDictionary[OwnerKey, asyncio.Lock] = WeakValueDictionary()

    async def advance(self, key: OwnerKey, news: Iterable[Replica] = ()) -> int | None:
        """Take the owner's next step, given what became of some of its replicas.

        Returns:
            when to look at it again if nothing changes before, in clock ms.

        Raises:
            VersionConflict: it, or one of the replicas, changed meanwhile; nothing was written.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:  # our own loops take turns, rather than in vain
            return await self._advance(key, {replica.id: replica for replica in news})

    async def give_way(
        self,
        key: Key,
        *,
        why: str,
        to: str,
        keeps: Collection[str] = (),
        adds: Sequence[Seat] = (),
    ) -> None:
        """Have a job's workers end for now: see `lifecycle.job.give_way`.

        Raises:
            VersionConflict: as `advance`.
        """
        lock = self._locks.setdefault((OwnerKind.JOB, key), asyncio.Lock())
        async with lock:
            job = self._mirror.jobs.get(key)
            if job is None:
                return  # removed: its workers are ending in any case
            replicas = self._mirror.replicas_of(job.workspace, f"{OwnerKind.JOB}/{job.id}")
            now_ms = self._clock.now_ms()
            step = job_lifecycle.give_way(
                job, replicas, now_ms, why=why, to=to, keeps=keeps, adds=adds
            )
            if step.owner != job:
                await self._write(step.owner, step.replicas, step.events, now_ms)

    async def scale(self, key: Key, autoscaling: Autoscaling) -> None:
        """Write down what an endpoint's autoscaler came to, and the replicas that follow from it.

        Raises:
            VersionConflict: as `advance`.
        """
        lock = self._locks.setdefault((OwnerKind.ENDPOINT, key), asyncio.Lock())
        async with lock:
            found = self._mirror.endpoints.get(key)
            if found is None:
                return
            endpoint = self._as_judged(found)
            replicas = self._mirror.replicas_of(key[0], f"{OwnerKind.ENDPOINT}/{key[1]}")
            now_ms = self._clock.now_ms()
            told = self._told_for_rollout(endpoint)
            step = endpoint_lifecycle.scaled(endpoint, autoscaling, replicas, now_ms, told)
            if step.owner != endpoint:
                await self._write(step.owner, step.replicas, step.events, now_ms)

    async def _advance(self, key: OwnerKey, news: dict[str, Replica]) -> int | None:
        kind, (workspace, id) = key
        now_ms = self._clock.now_ms()
        before = self._mirror.workload(kind, key[1])
        if before is None:  # removed: what became of its replicas is still to be known
            self._judged.pop(key[1], None)
            if news:
                puts = [Put(replica) for replica in news.values()]
                await self._mirror.commit(self._store, *puts, fence=self._fence)
            return None
        known = self._mirror.replicas_of(workspace, f"{kind}/{id}")
        replicas = ({r.id: r for r in known} | news).values()
        step: Step[Any]
        match before:
            case Job():
                step = job_lifecycle.advance(before, replicas, now_ms)
            case RayCluster():
                step = raycluster_lifecycle.advance(before, replicas, now_ms)
            case Endpoint():
                endpoint = self._as_judged(before)
                told = self._told_for_rollout(endpoint)
                step = endpoint_lifecycle.advance(endpoint, replicas, now_ms, told)
                if not step.replicas and not news and self._only_judged(before, step.owner):
                    return step.wake_at_ms
        changed = news | {replica.id: replica for replica in step.replicas}
        if step.owner != before or changed:
            # The owner is always written along, so that nothing is made for one that was removed.
            await self._write(step.owner, changed.values(), step.events, now_ms)
        return step.wake_at_ms

    def _as_judged(self, endpoint: Endpoint) -> Endpoint:
        """With all that was seen of its roll-out."""
        key, kept = (endpoint.workspace, endpoint.id), endpoint.rollout
        judged = self._judged.get(key)
        if judged is None:
            return endpoint
        if kept is None or not _same_but_for_evidence(kept, judged):
            del self._judged[key]  # it went on since
            return endpoint
        return replace(endpoint, rollout=judged)

    def _only_judged(self, before: Endpoint, after: Endpoint) -> bool:
        """Whether nothing is to be written down yet; then it is remembered here."""
        if before.rollout is None or after.rollout is None:
            return False
        kept, judged = before.rollout, after.rollout
        if (
            kept == judged
            or replace(after, rollout=kept) != before
            or not _same_but_for_evidence(kept, judged)
            or judged.counted_to_ms >= kept.counted_to_ms + KEEP_EVIDENCE_MS
        ):
            return False
        self._judged[before.workspace, before.id] = judged
        return True

    def _told_for_rollout(self, endpoint: Endpoint) -> list[TrafficWindow]:
        rollout = candidate(endpoint)
        if rollout is None:
            return []
        return self._traffic.told((endpoint.workspace, endpoint.name), rollout.counted_to_ms)

    async def _write(
        self,
        owner: Workload,
        replicas: Iterable[Replica],
        events: Iterable[Event],
        now_ms: int,
    ) -> None:
        await self._mirror.commit(
            self._store,
            Put(owner),
            *map(Put, replicas),
            *(Emit(replace(event, at_ms=now_ms)) for event in events),
            fence=self._fence,
        )


def _same_but_for_evidence(one: Rollout, other: Rollout) -> bool:
    seen = replace(one, evidence=other.evidence, counted_to_ms=other.counted_to_ms)
    return seen == other and one.counted_to_ms <= other.counted_to_ms


async def removal(
    store: Store, owner: Workload, now_ms: int, *, spare_files: bool = False
) -> list[Change]:
    """What removes an owner: it goes at once, and its replicas, left to themselves, end and are
    removed with all they left; of a pod, unless `spare_files`, with its files."""
    parent = f"{kind_of(owner)}/{owner.id}"
    replicas = await store.find(Replica, Query(workspace=owner.workspace, parent=parent))
    if isinstance(owner, Endpoint) and not replicas and owner.pod.node:
        replicas = [last_replica(owner, now_ms)]  # so long stopped that all were forgotten
    return [
        Delete(owner),
        *(
            Put(abandon(replica, now_ms, spare_files=spare_files))
            for replica in replicas
            if not replica.abandoned
        ),
    ]


def owner_of(record: Record) -> OwnerKey:
    """Of a replica its owner; of what has replicas, itself."""
    if isinstance(record, Replica):
        return record.owner_kind, (record.workspace, record.owner_id)
    assert isinstance(record, Workload), record
    return kind_of(record), (record.workspace, record.id)
