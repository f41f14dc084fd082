"""Runs of jobs: ends each with its job."""

from leptonai.control.mirror import Mirror, Watch
from leptonai.core.lifecycle.run import follow
from leptonai.core.records import Job, Record, Run
from leptonai.ports.clock import Clock
from leptonai.ports.store import Fence, Put, Store
from leptonai.spec.runs import run_id_of_job


class RunsLoop:
    name = "runs"

    def __init__(self, mirror: Mirror, store: Store, fence: Fence, clock: Clock) -> None:
        self.watch: Watch = mirror.watch(Job, Run)
        self._mirror = mirror
        self._store = store
        self._fence = fence
        self._clock = clock
        self._due: dict[tuple[str, str], None] = {}  # runs to look at

    async def step(self) -> int | None:
        self._due |= dict.fromkeys(_run_of(record) for record in self.watch.take())
        for key in list(self._due):
            run = self._mirror.runs.get(key)
            if run is not None:
                await self._follow(run)
            del self._due[key]
        return None

    async def _follow(self, run: Run) -> None:
        """A job that is not in the mirror has ended, or was removed."""
        key = run.workspace, run.spec.job
        job = self._mirror.jobs.get(key) or await self._store.get(Job, *key)
        after = follow(run, job, self._clock.now_ms())
        if after is not run:
            await self._mirror.commit(self._store, Put(after), fence=self._fence)


def _run_of(record: Record) -> tuple[str, str]:
    if isinstance(record, Job):
        return record.workspace, run_id_of_job(record.workspace, record.id)
    return record.workspace, record.id
