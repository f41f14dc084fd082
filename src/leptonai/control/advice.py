"""What the scheduler says to those who wait, or ask what would be: computed beside the loops.

The answers come from a snapshot, in a thread of their own: however many wait, the loops and the
other requests go on.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from leptonai.control.loops.placement import PlacementLoop
from leptonai.control.mirror import Mirror
from leptonai.control.world import MaySee
from leptonai.core.explain import explain_endpoint, explain_job, explain_raycluster
from leptonai.core.gangs import gang_of
from leptonai.core.outlook import Named, NameOf, deadline_ms, explained
from leptonai.core.records import (
    Goal,
    Job,
    OwnerKind,
    Phase,
    RayCluster,
    Replica,
    Workload,
    kind_of,
)
from leptonai.core.scheduler.forecast import Ended, History, Start
from leptonai.core.scheduler.outlook import Outlook, look_ahead
from leptonai.core.scheduler.values import Gang, Reason, Snapshot
from leptonai.errors import DeadlineTooEarly, TooManyRequests
from leptonai.ports.clock import Clock
from leptonai.ports.store import Query, Store
from leptonai.spec.explanations import Explanation
from leptonai.spec.jobs import JobState

AT_ONCE = 1  # answers that are computed at the same time: each takes a core for a while
MAX_ASKED = 64  # answers that are computed or wait for their turn
MAX_SHORT = 2_000  # waiting gangs, of all of which it is found out at once why they wait
HISTORY_JOBS = 1_000  # ended last: how long others run is concluded from them
HISTORY_KEPT_MS = 60_000
ENDED = (JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.ARCHIVED)


class Advice:
    def __init__(
        self, mirror: Mirror, placement: PlacementLoop, store: Store, clock: Clock
    ) -> None:
        self._mirror = mirror
        self._placement = placement
        self._store = store
        self._clock = clock
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._asked = 0
        self._history: tuple[int, History] | None = None  # and since when

    # --- what waits -------------------------------------------------------------------------------

    async def explain(self, workload: Workload, may_see: MaySee) -> Explanation:
        """Why it is where it is, as the loops see it now; and if it waits, until when.

        Args:
            may_see: whether who asks may be told of another workload.
        """
        replicas = self._replicas(workload)
        waiting = [r for r in replicas if r.goal is Goal.RUN and r.phase is Phase.WAITING]
        snapshot = self._placement.snapshot()
        queued = {gang.id: gang for gang in snapshot.queue}
        about_to: Reason | None = None  # start, if anything is to be said of that
        for gang_id in sorted({f"{r.workspace}/{r.gang}" for r in waiting} & set(queued)):
            outlook = await self._look_ahead(snapshot, gang_id)
            if outlook.reason is not None:
                plain = self._plain(workload, replicas, outlook.reason)
                return explained(plain, outlook, queued[gang_id], self._names(may_see))
            about_to = about_to or self._placement.why(gang_id)
        return self._plain(workload, replicas, about_to)

    def short(self, workload: Workload) -> str:
        """Why it waits, in a few words; "" if it does not."""
        for replica in self._replicas(workload):
            if replica.phase is Phase.WAITING and replica.goal is Goal.RUN:
                if self._placement.waiting > MAX_SHORT:
                    return f"one of {self._placement.waiting} that wait: `why` says more"
                reason = self._placement.why(f"{replica.workspace}/{replica.gang}")
                return reason.text if reason else ""
        return ""

    # --- what would be ----------------------------------------------------------------------------

    async def foresee(
        self, workload: Workload, replicas: Sequence[Replica], may_see: MaySee
    ) -> Explanation:
        """What would become of it if it were submitted now.

        Args:
            replicas: that would be made for it; those of an endpoint would be placed one by one.
        """
        plain = self._plain(workload, replicas, None)
        if not replicas:
            return plain
        gang = self._gang_of(workload, replicas)
        outlook = await self._look_ahead(self._snapshot_with(gang), gang.id)
        return explained(plain, outlook, gang, self._names(may_see))

    async def admit(self, job: Job, replicas: Sequence[Replica]) -> None:
        """
        Raises:
            DeadlineTooEarly: the job's hard deadline cannot be met for certain.
        """
        if job.spec.deadline is None or not job.spec.deadline.hard or not replicas:
            return
        gang = self._gang_of(job, replicas)
        now_ms = self._clock.now_ms()
        outlook = await self._look_ahead(self._snapshot_with(gang), gang.id)
        start = outlook.start or Start(earliest_at_ms=now_ms, latest_at_ms=now_ms)
        done_ms = deadline_ms(start, gang, now_ms)
        if done_ms is not None and done_ms <= 1_000 * job.spec.deadline.at:
            return
        if done_ms is None:
            raise DeadlineTooEarly(
                "the deadline cannot be promised: nobody knows by when this could start",
                hint="Ask with ?dry_run=true why; leave `hard` out to have it minded all the same.",
            )
        error = DeadlineTooEarly(
            f"the deadline cannot be met: this could be done in {_minutes(done_ms - now_ms)},"
            f" which is {_minutes(done_ms - 1_000 * job.spec.deadline.at)} later",
            hint=f"A hard deadline at {-(-done_ms // 1_000)} (seconds since 1970) is the first that"
            " can be promised.",
        )
        error.data = {"earliest_ms": done_ms}
        raise error

    # --- inside -----------------------------------------------------------------------------------

    async def _look_ahead(self, snapshot: Snapshot, gang: str) -> Outlook:
        if self._asked == MAX_ASKED:
            raise TooManyRequests(
                f"{MAX_ASKED} others are asking the scheduler already", hint="Ask again shortly."
            )
        self._asked += 1
        try:
            history = await self._known()
            async with self._turn:
                return await asyncio.to_thread(
                    look_ahead, snapshot, gang, self._placement.policy, history
                )
        finally:
            self._asked -= 1

    async def _known(self) -> History:
        """How long the jobs that ended last had run."""
        now_ms = self._clock.now_ms()
        if self._history is None or now_ms - self._history[0] > HISTORY_KEPT_MS:
            query = Query(states=ENDED, newest_first=True, limit=HISTORY_JOBS)
            jobs = await self._store.find(Job, query)
            self._history = now_ms, History.of(_ended(job) for job in jobs if job.started_at_ms)
        return self._history[1]

    def _snapshot_with(self, gang: Gang) -> Snapshot:
        snapshot = self._placement.snapshot()
        return replace(snapshot, queue=(*snapshot.queue, gang))

    def _gang_of(self, workload: Workload, replicas: Sequence[Replica]) -> Gang:
        """Of what is not there yet."""
        members = [replica for replica in replicas if replica.gang == replicas[0].gang]
        return gang_of(members, workload, self._placement.reserved)

    def _plain(
        self, workload: Workload, replicas: Sequence[Replica], reason: Reason | None
    ) -> Explanation:
        if isinstance(workload, Job):
            return explain_job(workload, replicas, reason, self._clock.now_ms())
        if isinstance(workload, RayCluster):
            return explain_raycluster(workload, reason)
        return explain_endpoint(workload, replicas, [reason] if reason else [])

    def _replicas(self, workload: Workload) -> list[Replica]:
        return self._mirror.replicas_of(workload.workspace, f"{kind_of(workload)}/{workload.id}")

    def _names(self, may_see: MaySee) -> NameOf:
        """By a gang's id: "WORKSPACE/job/ID/ROUND", or "WORKSPACE/endpoint/REPLICA", and so for
        Ray clusters."""

        def named(gang: str) -> Named:
            workspace, kind, id, *_ = gang.split("/")
            if kind == OwnerKind.JOB:
                owner = self._mirror.workload(OwnerKind.JOB, (workspace, id))
                name = id
            else:
                replica = self._mirror.replicas.get((workspace, id))
                owner_id = replica.owner_id if replica else ""
                owner = self._mirror.workload(OwnerKind(kind), (workspace, owner_id))
                name = owner.name if owner else ""
            return Named(kind, name if owner is not None and may_see(owner) else "")

        return named


def _ended(job: Job) -> Ended:
    assert job.started_at_ms is not None
    first = job.spec.accelerator_num or 0.0
    estimate = job.spec.estimated_seconds
    return Ended(
        user=f"{job.workspace}/{job.owner}",
        gpus=first * job.spec.workers or 1.0,
        ran_ms=max(0, (job.finished_at_ms or 0) - job.started_at_ms),
        estimated_ms=None if estimate is None else 1_000 * estimate,
    )


def _minutes(ms: int) -> str:
    seconds = max(0, ms) // 1_000
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7_200:
        return f"{seconds // 60} min"
    return f"{seconds // 3_600} h {seconds % 3_600 // 60} min"
