"""Ending all that runs, where no control plane decides any more."""

import asyncio
from contextlib import suppress

from msgspec.structs import replace

from leptonai.control.plane import LEASE, check_whose_store
from leptonai.core.records import Job, Phase, Replica
from leptonai.errors import Unavailable
from leptonai.ports.engine import Engine, Running, Seen
from leptonai.ports.store import Fence, Put, Query, Store

PATIENCE_S = 30.0  # with all that runs on one machine
GRACE_MS = 5_000  # between SIGTERM and SIGKILL
LOOK_AGAIN_S = 0.2


async def stop_workloads(store: Store, engine: Engine) -> int:
    """End everything that runs: jobs are stopped, endpoints and Ray clusters come back with the
    next control plane. Returns how many attempts were ended.

    Raises:
        Conflict: the store is another machine's.
        Unavailable: something does not end.
    """
    await check_whose_store(store, engine)
    fence = await store.lease(LEASE)
    await _stop_jobs(store, fence)
    return sum([await _end_attempts(engine, each.id, fence) for each in await engine.machines()])


async def _stop_jobs(store: Store, fence: Fence) -> None:
    """Those that are placed or run: the next control plane is not to start them again."""
    replicas = await store.find(Replica, Query(live=True))
    active = {Phase.PLACED, Phase.RUNNING}
    busy = {(r.workspace, r.owner_id) for r in replicas if r.phase in active}
    for job in await store.find(Job, Query(live=True)):
        if (job.workspace, job.id) in busy:
            stopped = replace(job, spec=replace(job.spec, stopped=True))
            await store.commit(Put(stopped), fence=fence)


async def _end_attempts(engine: Engine, node: str, fence: Fence) -> int:
    ended = 0
    give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        seen = await engine.observe(node)
        assert isinstance(seen, Seen)
        running = [id for id, state in seen.attempts.items() if isinstance(state, Running)]
        ended = max(ended, len(running))
        for key in seen.templates:
            await engine.cool(node, key, epoch=fence.epoch)
        if not running:
            return ended
        if asyncio.get_running_loop().time() > give_up_at:
            raise Unavailable(
                f"{len(running)} replicas do not end: {', '.join(sorted(running)[:3])}",
                hint="run `leptonai down` again, or look at their processes",
            )
        for id in running:
            await engine.stop(node, id, grace_ms=GRACE_MS, epoch=fence.epoch)
        with suppress(TimeoutError):
            await asyncio.wait_for(engine.changed(), LOOK_AGAIN_S)
