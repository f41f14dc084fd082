"""A cluster's queue over time: jobs arrive, run, yield and end, as the scheduler decides.

The loop holds the truth (how long each job really runs) and shows the scheduler only what it may
know. It is the scheduler of the platform that decides, the very function: `decide` and `advance` of
`leptonai.core.scheduler`.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from leptonai.core.resources import Capacity, Needs
from leptonai.core.scheduler import (
    DEFAULT,
    Change,
    Deadline,
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
    seed: int = DEFAULT_SEED,
    ended: Callable[[int], None] | None = None,
) -> Outcome:
    """What happens to these jobs on this cluster, from the first submission to the last end.

    A job that yields has saved its work, queues again, and works on after it has held its GPUs
    anew for `preempt_cost_s`. Equal arguments give equal outcomes, but for the time it took.

    Args:
        policy: one of `leptonai.core.scheduler.QUEUE_POLICIES`, or one of your own.
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
    return _Run(jobs, told_ms, cluster, policy, round(preempt_cost_s * 1_000)).to_the_end(ended)


@dataclass(slots=True)
class _Job:
    """The truth about a job, and what the scheduler knows of it."""

    job: Job
    gang: Gang  # as the scheduler was last shown it
    told_ms: int | None  # how long it is said to run
    done_ms: int = 0  # of its work, up to its last stop
    held_ms: int = 0  # that it held its GPUs, up to its last stop
    overhead_ms: int = 0  # before it works on, at its next or last start
    started_ms: int | None = None  # None: it does not run
    starts: int = 0
    first_start_ms: int = 0
    end_ms: int = 0


class _Run:
    def __init__(
        self,
        jobs: Sequence[Job],
        told_ms: Sequence[int | None],
        cluster: Cluster,
        policy: Policy,
        preempt_cost_ms: int,
    ) -> None:
        self._cluster = cluster
        self._preempt_cost_ms = preempt_cost_ms
        self._jobs = {
            # The order of ids is the order of the rows: it decides between equals.
            gang.id: _Job(job, gang, told)
            for row, (job, told) in enumerate(zip(jobs, told_ms, strict=True))
            for gang in [_gang(f"{row:08d}", job, told)]
        }
        self._arrivals = sorted(  # the last is the next
            self._jobs.values(), key=lambda j: (j.job.submitted_ms, j.gang.id), reverse=True
        )
        self._ends: list[tuple[int, str, int]] = []  # (when, which, of which start)
        self._now_ms = self._arrivals[-1].job.submitted_ms if self._arrivals else 0
        self._busy = self._waiting = 0
        self._decisions = 0
        self._timeline: list[tuple[int, int, int]] = []  # (when, GPUs held, jobs that wait)
        began = perf_counter()
        snapshot = Snapshot(now_ms=self._now_ms, nodes=cluster.nodes())
        self._index = Index.of(snapshot, policy)
        self._deciding_s = perf_counter() - began

    def to_the_end(self, ended: Callable[[int], None] | None) -> Outcome:
        queued: list[Gang] = []  # what the scheduler has not been told yet
        running: list[Running] = []
        revisit_ms: int | None = None
        while True:
            times = [when for when in (self._next_event_ms(), revisit_ms) if when is not None]
            if not times:
                break
            assert min(times) >= self._now_ms, (times, self._now_ms)
            self._now_ms = min(times)
            gone = self._end_jobs()
            queued += self._arrive()
            plan = self._decide(queued, running, gone)
            queued, running = self._carry_out(plan)
            self._timeline.append((self._now_ms, self._busy, self._waiting))
            revisit_ms = plan.revisit_at_ms if self._waiting or self._busy else None
            assert revisit_ms is None or revisit_ms > self._now_ms, (plan, self._now_ms)
            if ended is not None and gone:
                ended(len(gone))
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
        """Whether that start is the present one; else the job has yielded since."""
        job = self._jobs[id]
        return job.started_ms is not None and job.starts == start

    def _end_jobs(self) -> list[str]:
        gone = []
        while self._ends and self._ends[0][0] == self._now_ms:
            _, id, start = heapq.heappop(self._ends)
            if self._is_due(id, start):
                job = self._jobs[id]
                self._stop(job)
                job.end_ms = self._now_ms
                gone.append(id)
        return gone

    def _arrive(self) -> list[Gang]:
        arrived = []
        while self._arrivals and self._arrivals[-1].job.submitted_ms == self._now_ms:
            arrived.append(self._arrivals.pop().gang)
        self._waiting += len(arrived)
        return arrived

    def _decide(
        self, queued: Sequence[Gang], running: Sequence[Running], gone: Sequence[str]
    ) -> Plan:
        began = perf_counter()
        still_running = tuple(each for each in running if each.gang.id not in gone)
        change = Change(queued=tuple(queued), running=still_running, gone=tuple(gone))
        self._index = advance(self._index, change)
        plan = decide(self._index, self._now_ms)
        self._deciding_s += perf_counter() - began
        self._decisions += 1
        return plan

    def _carry_out(self, plan: Plan) -> tuple[list[Gang], list[Running]]:
        """What the scheduler has to be told of it with the next change."""
        queued = {}
        for preempt in plan.preempts:
            job = self._jobs[preempt.gang]
            self._stop(job)
            job.overhead_ms = self._preempt_cost_ms
            self._waiting += 1
            rest_ms = None
            if job.told_ms is not None:  # below 0: it runs for longer than was said
                rest_ms = job.told_ms - job.done_ms + job.overhead_ms
            job.gang = replace(job.gang, attained_ms=job.held_ms, remaining_ms=rest_ms)
            queued[job.gang.id] = job.gang
        running = []
        for place in plan.places:
            job = self._jobs[place.gang]
            queued.pop(place.gang, None)  # it had to move
            self._start(job)
            held = tuple(zip(job.gang.workers, place.assignments, strict=True))
            running.append(
                Running(
                    gang=job.gang,
                    held=held,
                    rendezvous_port=place.rendezvous_port,
                    started_at_ms=self._now_ms,
                )
            )
        assert self._busy <= self._cluster.gpus, plan
        return [*queued.values()], running

    def _start(self, job: _Job) -> None:
        assert job.started_ms is None, job
        if job.starts == 0:
            job.first_start_ms = self._now_ms
        job.starts += 1
        job.started_ms = self._now_ms
        end_ms = self._now_ms + job.overhead_ms + job.job.duration_ms - job.done_ms
        heapq.heappush(self._ends, (end_ms, job.gang.id, job.starts))
        self._busy += job.job.gpus
        self._waiting -= 1

    def _stop(self, job: _Job) -> None:
        assert job.started_ms is not None, job
        ran_ms = self._now_ms - job.started_ms
        job.done_ms += max(0, ran_ms - job.overhead_ms)
        job.held_ms += ran_ms
        job.started_ms = None
        self._busy -= job.job.gpus

    def _outcome(self) -> Outcome:
        jobs = self._jobs.values()
        timeline = np.array(self._timeline, dtype=np.int64).reshape(-1, 3)
        return Outcome(
            jobs=tuple(j.job for j in jobs),
            gpus=self._cluster.gpus,
            started_s=np.array([j.first_start_ms for j in jobs]) / 1_000,
            ended_s=np.array([j.end_ms for j in jobs]) / 1_000,
            held_s=np.array([j.held_ms for j in jobs]) / 1_000,
            preemptions=np.array([j.starts - 1 for j in jobs], dtype=np.int64),
            times_s=timeline[:, 0] / 1_000,
            busy_gpus=timeline[:, 1],
            waiting_jobs=timeline[:, 2],
            decisions=self._decisions,
            deciding_s=self._deciding_s,
        )


def _gang(id: str, job: Job, told_ms: int | None) -> Gang:
    return Gang(
        id=id,
        name=job.id,
        workers=tuple(Worker(replica=f"{id}-{at}", needs=ONE_GPU) for at in range(job.gpus)),
        priority=job.priority,
        queued_at_ms=job.submitted_ms,
        user=job.user,
        preemptible=True,
        deadline=None if job.deadline_ms is None else Deadline(at_ms=job.deadline_ms),
        remaining_ms=told_ms,
    )
