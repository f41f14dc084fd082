"""A cluster's queue over time: jobs arrive, run, yield and end, as the scheduler decides.

The loop holds the truth (how long each job really runs) and shows the scheduler only what it may
know. It is the scheduler of the platform that decides, the very function: `decide` and `advance` of
`leptonai.core.scheduler`.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from time import process_time

import numpy as np

from leptonai.core.resources import Capacity, Needs
from leptonai.core.scheduler import (
    DEFAULT,
    Assignment,
    Change,
    Deadline,
    Experience,
    Gang,
    Index,
    NodeView,
    Plan,
    Policy,
    Running,
    Snapshot,
    Worker,
    advance,
    decide,
)
from leptonai.core.scheduler.deadlines import (
    Admitted,
    admit,
    keep,
    next_due_ms,
    snapshot_of,
)
from leptonai.core.scheduler.promises import Promises
from leptonai.errors import InvalidRequest
from leptonai.testing.simulator.jobs import Job
from leptonai.testing.simulator.outcome import Outcome

DEFAULT_SEED = 42
ONE_GPU = Needs(gpus=1)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes of `gpus_per_node` GPUs each; the last has fewer where it does not come out even."""

    gpus: int
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        assert self.gpus >= 1 <= self.gpus_per_node, self

    def nodes(self) -> tuple[NodeView, ...]:
        sizes = [self.gpus_per_node] * (self.gpus // self.gpus_per_node)
        if rest := self.gpus % self.gpus_per_node:
            sizes.append(rest)
        return tuple(
            NodeView(id=f"n{at:06d}", capacity=Capacity(gpus=size)) for at, size in enumerate(sizes)
        )


@dataclass(frozen=True, slots=True)
class Durations:
    """What the scheduler is told of how long jobs run.

    With `sigma` above 0 it is told the duration times a factor, drawn once for each job, whose
    logarithm is normal with mean 0 and this standard deviation: with 1, two thirds of the
    estimates are within a factor of 2.7.
    """

    known: bool = True
    sigma: float = 0.0

    @classmethod
    def of(cls, text: str) -> "Durations":
        if text == "exact":
            return cls()
        if text == "unknown":
            return cls(known=False)
        kind, _, sigma = text.partition(":")
        try:
            spread = float(sigma)
        except ValueError:
            spread = -1.0
        if kind != "estimate" or not 0 <= spread <= MAX_SIGMA:
            hint = f"use exact, unknown, or estimate:SIGMA with SIGMA from 0 to {MAX_SIGMA:g}"
            raise InvalidRequest(f"{text!r} says not what is known of durations", hint=hint)
        return cls(sigma=spread)

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        return f"estimate:{self.sigma:g}" if self.sigma else "exact"

    def told_ms(self, jobs: Sequence[Job], seed: int) -> list[int | None]:
        if not self.known:
            return [None] * len(jobs)
        if not self.sigma:
            return [job.duration_ms for job in jobs]
        noise = np.random.default_rng(seed).lognormal(0.0, self.sigma, len(jobs))
        return [round(job.duration_ms * x) for job, x in zip(jobs, noise.tolist(), strict=True)]


MAX_SIGMA = 10.0  # estimates are then off by a factor of e^10 as a rule
EXACT, UNKNOWN = Durations(), Durations(known=False)


def simulate_queue(
    jobs: Sequence[Job],
    cluster: Cluster,
    policy: Policy = DEFAULT,
    *,
    durations: Durations = EXACT,
    preempt_cost_s: float = 0.0,
    checkpoint_every_s: float | None = None,
    seed: int = DEFAULT_SEED,
    ended: Callable[[int], None] | None = None,
) -> Outcome:
    """What happens to these jobs on this cluster, from the first submission to the last end.

    A job that yields queues again. When it starts anew, or with another number of GPUs, it works
    on after it has held them for `preempt_cost_s`. Equal arguments give equal outcomes, but for the
    time that deciding took.

    Args:
        policy: one of `leptonai.core.scheduler.QUEUE_POLICIES`, or one of your own.
        checkpoint_every_s: of work; what was done since is lost when a job has to stop. None: a job
            saves its work whenever it is told to stop.
        seed: of the noise in estimates.
        ended: is told how many more jobs have ended, now and then.

    Raises:
        InvalidRequest: a job needs more GPUs than the cluster has.
    """
    for job in jobs:
        if job.gpus > cluster.gpus:
            what = f"the job {job.id!r} needs {job.gpus} GPUs, and the cluster has {cluster.gpus}"
            raise InvalidRequest(what, hint=f"give the cluster {job.gpus}, or leave the job out")
    told_ms = durations.told_ms(jobs, seed)
    every_ms = None if checkpoint_every_s is None else max(1, round(checkpoint_every_s * 1_000))
    run = _Run(jobs, told_ms, cluster, policy, round(preempt_cost_s * 1_000), every_ms)
    return run.to_the_end(ended)


@dataclass(slots=True)
class _Job:
    """The truth about a job, and what the scheduler knows of it."""

    job: Job
    gang: Gang  # as the scheduler was last shown it
    said_ms: int | None  # how long it is said to run
    told_ms: int | None  # what the scheduler is told of that
    done_ms: float = 0.0  # of its work, up to its last stop
    held_ms: int = 0  # how long it held any GPUs, up to its last stop
    gpu_ms: int = 0  # … times how many
    overhead_ms: int = 0  # before it works on, at its next or last start
    running: Running | None = None
    starts: int = 0  # also after a change of size
    preemptions: int = 0
    first_start_ms: int = 0
    end_ms: int = 0
    admitted: bool = True  # its deadline was promised, or it has none

    @property
    def speed(self) -> float:
        assert self.running is not None, self
        return self.job.speed(len(self.running.held))

    @property
    def ends_ms(self) -> int:
        """If it goes on as it does."""
        assert self.running is not None and self.running.started_at_ms is not None, self
        left_ms = ceil((self.job.duration_ms - self.done_ms) / self.speed)
        return self.running.started_at_ms + self.overhead_ms + left_ms

    def saved_ms(self, now_ms: int, every_ms: int | None) -> int:
        """How long it has worked since its start, up to its last checkpoint."""
        assert self.running is not None and self.running.started_at_ms is not None, self
        worked_ms = max(0, now_ms - self.running.started_at_ms - self.overhead_ms)
        return worked_ms if every_ms is None else worked_ms - worked_ms % every_ms


class _Run:
    def __init__(
        self,
        jobs: Sequence[Job],
        told_ms: Sequence[int | None],
        cluster: Cluster,
        policy: Policy,
        preempt_cost_ms: int,
        checkpoint_every_ms: int | None,
    ) -> None:
        self._cluster = cluster
        self._preempt_cost_ms = preempt_cost_ms
        self._checkpoint_every_ms = checkpoint_every_ms
        self._jobs = {
            # The order of ids is the order of the rows: it decides between equals.
            gang.id: _Job(job, gang, told, told)
            for row, (job, told) in enumerate(zip(jobs, told_ms, strict=True))
            for gang in [_gang(f"{row:08d}", job, told)]
        }
        self._arrivals = sorted(  # the last is the next
            self._jobs.values(), key=lambda j: (j.job.submitted_ms, j.gang.id), reverse=True
        )
        self._ends: list[tuple[int, str, int]] = []  # (when, which, of which start)
        self._now_ms = self._arrivals[-1].job.submitted_ms if self._arrivals else 0
        self._busy = self._waiting = 0
        self._experience = Experience()
        # What the scheduler has not been told yet.
        self._arrived: dict[str, Gang] = {}
        self._queued: dict[str, Gang] = {}
        self._running: dict[str, Running] = {}
        self._gone: list[str] = []
        self._promises = Promises()
        self._decisions = 0
        self._timeline: list[tuple[int, int, int]] = []  # (when, GPUs held, jobs that wait)
        began = process_time()
        snapshot = Snapshot(now_ms=self._now_ms, nodes=cluster.nodes())
        self._index = Index.of(snapshot, policy)
        self._deciding_s = process_time() - began

    def to_the_end(self, ended: Callable[[int], None] | None) -> Outcome:
        revisit_ms: int | None = None
        while True:
            times = [when for when in (self._next_event_ms(), revisit_ms) if when is not None]
            if not times:
                break
            assert min(times) >= self._now_ms, (times, self._now_ms)
            self._now_ms = min(times)
            self._end_jobs()
            self._arrive()
            if ended is not None and self._gone:
                ended(len(self._gone))
            plan = self._decide()
            self._carry_out(plan)
            self._timeline.append((self._now_ms, self._busy, self._waiting))
            revisit_ms = plan.revisit_at_ms if self._waiting or self._busy else None
            if self._index.policy.promising and (due_ms := self._next_due_ms()) is not None:
                revisit_ms = min(due_ms, revisit_ms or due_ms)
            assert revisit_ms is None or revisit_ms > self._now_ms, (plan, self._now_ms)
        assert self._waiting == 0, "the scheduler left jobs waiting in an empty cluster"
        return self._outcome()

    def _next_event_ms(self) -> int | None:
        while self._ends and not self._is_due(*self._ends[0][1:]):
            heapq.heappop(self._ends)
        times = [self._ends[0][0]] if self._ends else []
        if self._arrivals:
            times.append(self._arrivals[-1].job.submitted_ms)
        return min(times, default=None)

    def _is_due(self, id: str, start: int) -> bool:
        """Whether that start is the present one; else the job has yielded or grown since."""
        job = self._jobs[id]
        return job.running is not None and job.starts == start

    def _end_jobs(self) -> None:
        while self._ends and self._ends[0][0] == self._now_ms:
            _, id, start = heapq.heappop(self._ends)
            if self._is_due(id, start):
                job = self._jobs[id]
                self._stop(job)
                job.end_ms = self._now_ms
                ran_ms = round(job.done_ms)
                self._experience = self._experience.add(job.job.gpus, job.said_ms, ran_ms)
                self._running.pop(id, None)
                self._gone.append(id)

    def _arrive(self) -> None:
        while self._arrivals and self._arrivals[-1].job.submitted_ms == self._now_ms:
            job = self._arrivals.pop()
            if self._index.policy.correct_estimates and job.said_ms is not None:
                job.told_ms = self._experience.corrected_ms(job.job.gpus, job.said_ms)
                job.gang = replace(job.gang, remaining_ms=job.told_ms)
            self._arrived[job.gang.id] = job.gang
            self._waiting += 1

    def _decide(self) -> Plan:
        if self._checkpoint_every_ms is not None:
            self._tell_of_checkpoints(self._checkpoint_every_ms)
        arrived = tuple(self._arrived.values())
        change = Change(
            queued=tuple(self._queued.values()),
            running=tuple(self._running.values()),
            gone=tuple(self._gone),
        )
        self._arrived, self._queued, self._running, self._gone = {}, {}, {}, []
        began = process_time()
        self._index = advance(self._index, change)
        if self._index.policy.promising:
            self._promise(arrived)
        else:
            self._index = advance(self._index, Change(queued=arrived))
        plan = decide(self._index, self._now_ms)
        self._deciding_s += process_time() - began
        self._decisions += 1
        return plan

    def _promise(self, arrived: Sequence[Gang]) -> None:
        """Keep what was promised, and answer those that have just been submitted."""
        cost_ms = self._preempt_cost_ms
        promises, change = keep(self._index, self._promises, self._now_ms, restart_ms=cost_ms)
        self._index = advance(self._index, change)
        for gang in arrived:
            if gang.deadline is not None:
                snapshot = snapshot_of(self._index, self._now_ms)
                answer = admit(snapshot, gang, promises, restart_ms=cost_ms)
                promises = answer.promises
                self._jobs[gang.id].admitted = isinstance(answer, Admitted)
                hard = replace(gang.deadline, hard=isinstance(answer, Admitted))
                self._jobs[gang.id].gang = gang = replace(gang, deadline=hard)
            self._index = advance(self._index, Change(queued=(gang,)))
        if arrived:
            promises, change = keep(self._index, promises, self._now_ms, restart_ms=cost_ms)
            self._index = advance(self._index, change)
        self._promises = promises

    def _next_due_ms(self) -> int | None:
        has = {
            id: len(running.held)
            for id in self._promises.slots
            if (running := self._jobs[id].running) is not None
        }
        return next_due_ms(self._promises, self._now_ms, has)

    def _tell_of_checkpoints(self, every_ms: int) -> None:
        for id, job in self._jobs.items():
            if job.running is None or not (saved_ms := job.saved_ms(self._now_ms, every_ms)):
                continue
            assert job.running.started_at_ms is not None
            at_ms = job.running.started_at_ms + job.overhead_ms + saved_ms
            if at_ms != job.running.saved_at_ms:
                job.running = self._running[id] = replace(job.running, saved_at_ms=at_ms)

    def _carry_out(self, plan: Plan) -> None:
        for preempt in plan.preempts:
            job = self._jobs[preempt.gang]
            self._interrupt(job)
            job.preemptions += 1
            self._queued[preempt.gang] = job.gang
            self._waiting += 1
        for place in plan.places:
            self._queued.pop(place.gang, None)  # if it yielded, and goes on elsewhere
            self._waiting -= 1
            self._start(self._jobs[place.gang], place.assignments, place.rendezvous_port)
        for resize in plan.resizes:
            job = self._jobs[resize.gang]
            assert job.running is not None, resize
            port = job.running.rendezvous_port
            self._interrupt(job)
            self._start(job, resize.assignments, port)
        assert self._busy <= self._cluster.gpus, plan

    def _start(self, job: _Job, assignments: Sequence[Assignment], port: int) -> None:
        assert job.running is None, job
        workers = {worker.replica: worker for worker in job.gang.workers}
        if job.starts == 0:
            job.first_start_ms = self._now_ms
        job.starts += 1
        job.running = self._running[job.gang.id] = Running(
            gang=job.gang,
            held=tuple((workers[to.replica], to) for to in assignments),
            rendezvous_port=port,
            started_at_ms=self._now_ms,
        )
        heapq.heappush(self._ends, (job.ends_ms, job.gang.id, job.starts))
        self._busy += len(assignments)

    def _interrupt(self, job: _Job) -> None:
        """Stop it for now: what was not saved is lost, and to start again takes its time."""
        self._stop(job, every_ms=self._checkpoint_every_ms)
        job.overhead_ms = self._preempt_cost_ms
        left_ms = None
        if job.told_ms is not None:  # below 0: it runs for longer than was said
            left_ms = round(job.told_ms - job.done_ms) + job.overhead_ms
        job.gang = replace(job.gang, attained_ms=job.held_ms, remaining_ms=left_ms)

    def _stop(self, job: _Job, *, every_ms: int | None = None) -> None:
        assert job.running is not None and job.running.started_at_ms is not None, job
        ran_ms, gpus = self._now_ms - job.running.started_at_ms, len(job.running.held)
        job.done_ms += job.saved_ms(self._now_ms, every_ms) * job.speed
        job.held_ms += ran_ms
        job.gpu_ms += ran_ms * gpus
        job.running = None
        self._busy -= gpus

    def _outcome(self) -> Outcome:
        jobs = self._jobs.values()
        timeline = np.array(self._timeline, dtype=np.int64).reshape(-1, 3)
        return Outcome(
            jobs=tuple(j.job for j in jobs),
            gpus=self._cluster.gpus,
            started_s=np.array([j.first_start_ms for j in jobs]) / 1_000,
            ended_s=np.array([j.end_ms for j in jobs]) / 1_000,
            held_s=np.array([j.held_ms for j in jobs]) / 1_000,
            gpu_s=np.array([j.gpu_ms for j in jobs]) / 1_000,
            preemptions=np.array([j.preemptions for j in jobs], dtype=np.int64),
            times_s=timeline[:, 0] / 1_000,
            busy_gpus=timeline[:, 1],
            waiting_jobs=timeline[:, 2],
            admitted=np.array([j.admitted for j in jobs], dtype=np.bool_),
            decisions=self._decisions,
            deciding_s=self._deciding_s,
        )


def _gang(id: str, job: Job, told_ms: int | None) -> Gang:
    return Gang(
        id=id,
        name=job.id,
        workers=tuple(Worker(replica=f"{id}-{at}", needs=ONE_GPU) for at in range(job.gpus)),
        min_workers=job.min_gpus,
        priority=job.priority,
        queued_at_ms=job.submitted_ms,
        user=job.user,
        preemptible=True,
        deadline=None if job.deadline_ms is None else Deadline(at_ms=job.deadline_ms),
        remaining_ms=told_ms,
        speedup=job.speedup,
    )
