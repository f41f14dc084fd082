"""What is kept, and for how long: finished jobs are archived, old events forgotten."""

from msgspec.structs import replace

from leptonai.control.mirror import Mirror, Watch
from leptonai.core.records import Job
from leptonai.errors import VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Fence, Put, Query, Store
from leptonai.spec.jobs import JobState

LOOK_EVERY_MS = 30_000
EVENTS_KEPT_MS = 7 * 24 * 3_600_000
MAX_AT_ONCE = 500


class RetentionLoop:
    name = "retention"

    def __init__(self, mirror: Mirror, store: Store, fence: Fence, clock: Clock) -> None:
        self.watch: Watch = mirror.watch()
        self._store = store
        self._fence = fence
        self._clock = clock
        self._pruned_at_ms = clock.now_ms()

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        due = await self._store.find(Job, Query(due_before_ms=now_ms, limit=MAX_AT_ONCE))
        for job in due:
            try:
                await self._store.commit(
                    Put(replace(job, state=JobState.ARCHIVED)), fence=self._fence
                )
            except VersionConflict:
                continue  # somebody started it again
        if now_ms - self._pruned_at_ms >= EVENTS_KEPT_MS // 168:
            await self._store.prune_events(now_ms - EVENTS_KEPT_MS)
            self._pruned_at_ms = now_ms
        return now_ms if len(due) == MAX_AT_ONCE else now_ms + LOOK_EVERY_MS
