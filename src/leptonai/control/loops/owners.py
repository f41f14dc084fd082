"""Jobs and endpoints: brings each one's replicas to what its lifecycle says."""

import asyncio
import heapq

from msgspec.structs import replace

from leptonai.control.mirror import Key, Mirror, Watch
from leptonai.core.lifecycle import endpoint as endpoint_lifecycle
from leptonai.core.lifecycle import job as job_lifecycle
from leptonai.core.records import Endpoint, Job, OwnerKind, Record, Replica
from leptonai.errors import VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Emit, Fence, Put, Store

OwnerKey = tuple[OwnerKind, Key]


class OwnersLoop:
    name = "owners"

    def __init__(self, mirror: Mirror, store: Store, fence: Fence, clock: Clock) -> None:
        self.watch: Watch = mirror.watch(Job, Endpoint, Replica)
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        self._timers: list[tuple[int, OwnerKey]] = []
        self._again: set[OwnerKey] = set()

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        due = dict.fromkeys(sorted(self._again))
        due |= dict.fromkeys(_owner(record) for record in self.watch.take())
        while self._timers and self._timers[0][0] <= now_ms:
            due[heapq.heappop(self._timers)[1]] = None
        self._again = set(due)
        await asyncio.gather(*(self._advance(owner, now_ms) for owner in due))
        if self._again:
            raise VersionConflict("some owners changed while they were advanced")
        return self._timers[0][0] if self._timers else None

    async def _advance(self, key: OwnerKey, now_ms: int) -> None:
        kind, (workspace, id) = key
        replicas = self._mirror.replicas_of(workspace, f"{kind}/{id}")
        step: job_lifecycle.JobStep | endpoint_lifecycle.EndpointStep
        owner: Job | Endpoint | None
        if kind is OwnerKind.JOB:
            owner = self._mirror.jobs.get(key[1])
            if owner is None:
                self._again.discard(key)
                return
            step = job_lifecycle.advance(owner, replicas, now_ms)
            after: Job | Endpoint = step.job
        else:
            owner = self._mirror.endpoints.get(key[1])
            if owner is None:
                self._again.discard(key)
                return
            step = endpoint_lifecycle.advance(owner, replicas, now_ms)
            after = step.endpoint
        if step.wake_at_ms is not None:
            heapq.heappush(self._timers, (step.wake_at_ms, key))
        if after != owner or step.replicas:
            # The owner is always written along, so that nothing is made for one that was removed.
            try:
                await self._mirror.commit(
                    self._store,
                    Put(after),
                    *(Put(replica) for replica in step.replicas),
                    *(Emit(replace(event, at_ms=now_ms)) for event in step.events),
                    fence=self._fence,
                )
            except VersionConflict:
                return
        self._again.discard(key)


def _owner(record: Record) -> OwnerKey:
    if isinstance(record, Replica):
        return record.owner_kind, (record.workspace, record.owner_id)
    kind = OwnerKind.JOB if isinstance(record, Job) else OwnerKind.ENDPOINT
    return kind, (record.workspace, record.id)
