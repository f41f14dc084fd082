"""What is kept, and for how long.

Finished jobs are archived, and removed long after; servers that were replaced, and old events, are
forgotten too. How long is said where the records are (`due_at_ms`). Blobs that no record refers to
any more are removed last of all.
"""

import asyncio
import logging

from msgspec.structs import replace

from leptonai.blobs import BlobStore
from leptonai.blobs.manifest import objects_of
from leptonai.blobs.store import KEPT_UNUSED_S
from leptonai.control.mirror import Mirror, Watch
from leptonai.control.owners import removal
from leptonai.core.lifecycle.replica import abandon
from leptonai.core.records import Dataset, Job, Model, Replica, Reservation
from leptonai.core.references import REFERRING_KINDS, digests_in
from leptonai.errors import InvalidRequest, NotFound, VersionConflict
from leptonai.ports.clock import Clock
from leptonai.ports.store import Change, Delete, Fence, Put, Query, Store
from leptonai.spec.jobs import JobState

LOOK_EVERY_MS = 30_000
PRUNE_EVERY_MS = 3_600_000
EVENTS_KEPT_MS = 7 * 24 * 3_600_000
MAX_AT_ONCE = 500
COLLECT_EVERY_MS = round(1000 * KEPT_UNUSED_S)  # and first so long after the start
READ_AT_ONCE = 500  # records, before others have their turn

log = logging.getLogger("leptonai.control")


class RetentionLoop:
    name = "retention"

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        fence: Fence,
        clock: Clock,
        blobs: BlobStore | None = None,
    ) -> None:
        """Without `blobs`, all of them are kept."""
        self.watch: Watch = mirror.watch()
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        self._blobs = blobs
        self._prune_at_ms = clock.now_ms() + LOOK_EVERY_MS  # not while everything starts
        self._collect_at_ms = clock.now_ms() + COLLECT_EVERY_MS

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        due = Query(due_before_ms=now_ms, limit=MAX_AT_ONCE)
        jobs = await self._store.find(Job, due)
        for job in jobs:
            if job.state is JobState.ARCHIVED:
                await self._commit(*(await removal(self._store, job, now_ms)))
            else:
                await self._commit(Put(replace(job, state=JobState.ARCHIVED)))
        servers = await self._store.find(Replica, due)
        for server in servers:
            await self._commit(Put(abandon(server, now_ms)))
        reservations = await self._store.find(Reservation, due)
        for reservation in reservations:
            await self._commit(Delete(reservation))
        if now_ms >= self._prune_at_ms:
            await self._store.prune_events(now_ms - EVENTS_KEPT_MS)
            self._prune_at_ms = now_ms + PRUNE_EVERY_MS
        if self._blobs is not None and now_ms >= self._collect_at_ms:
            self._collect_at_ms = now_ms + COLLECT_EVERY_MS  # also if it fails, for it is much work
            removed = await self._collect(self._blobs)
            log.info("%d blobs that nothing refers to were removed", removed)
        more = MAX_AT_ONCE in (len(jobs), len(servers), len(reservations))
        return now_ms if more else now_ms + LOOK_EVERY_MS

    async def _collect(self, blobs: BlobStore) -> int:
        """Reads every record that may refer to a blob: 1.4 s for 50 000 of them on one core."""
        in_use: set[str] = set()
        for kind in REFERRING_KINDS:
            for number, record in enumerate(await self._store.find(kind, Query()), start=1):
                in_use |= digests_in(record)
                if isinstance(record, Dataset | Model) and not record.deleted:
                    in_use |= await _objects_of(blobs, record)
                if number % READ_AT_ONCE == 0:
                    await asyncio.sleep(0)
        # Nothing is removed on the word of a database that is gone, or another's by now.
        await self._store.commit(fence=self._fence)
        return await blobs.collect(in_use)

    async def _commit(self, *changes: Change) -> None:
        try:
            await self._mirror.commit(self._store, *changes, fence=self._fence)
        except VersionConflict:
            return  # somebody started it again, or removed it: it is looked at again if still due


async def _objects_of(blobs: BlobStore, artifact: Dataset | Model) -> frozenset[str]:
    """What a version's manifest refers to: that is not in its record. Unavailable is not caught:
    what cannot be asked for now may be in use."""
    if artifact.spec.layout != "manifest":
        return frozenset()
    try:
        return frozenset(await objects_of(blobs, artifact.spec.digest))
    except (NotFound, InvalidRequest):
        return frozenset()  # it was lost or damaged outside of us: nobody can read the version
