"""Whose deadlines are met, against rigid orders and against ElasticFlow's greedy.

    python -m benchmarks.deadlines

Prints one JSON array of rows {"what", "goal", "measured"}. All jobs share one pool of GPUs, where a
gang takes any that are free; stopping and starting cost nothing; durations are known exactly. Rigid
jobs go through the scheduler itself; elastic ones through a compact model of the pool, in this
file, as the scheduler's walk does not hold the number of workers that a promise counts on.
"""

import csv
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from benchmarks.traces import trace_folder
from leptonai.core.resources import Capacity, Needs
from leptonai.core.scheduler import QUEUE_POLICIES
from leptonai.core.scheduler.deadlines import (
    Admitted,
    admit,
    can_be_met,
    due,
    next_due_ms,
    renew,
)
from leptonai.core.scheduler.elastic import Claim, Curve, allot
from leptonai.core.scheduler.promises import Promises
from leptonai.core.scheduler.values import (
    Assignment,
    Deadline,
    Gang,
    NodeView,
    Running,
    Snapshot,
    Worker,
)
from leptonai.testing.simulator import Cluster, read_jobs, simulate_queue, with_uniform_deadlines

ONE_GPU = Needs(gpus=1)
GOES_ON_MS = 60_000  # what runs and is due so soon is not stopped
ELASTIC_JOBS = 500  # of a trace, the first: so that all of it takes a minute


@dataclass(frozen=True, slots=True)
class Job:
    """Speeds are in work for each millisecond, by the number of GPUs; a rigid job has one."""

    at_ms: int
    work: float
    speeds: tuple[tuple[int, float], ...]
    deadline_ms: int
    gpus: int  # asked for

    @property
    def duration_ms(self) -> float:
        return self.work / dict(self.speeds)[self.gpus]


def main() -> None:
    print(json.dumps(rows(), indent=2))


def rows() -> list[dict[str, object]]:
    return [*_rigid(), *_elastic(), _allotting()]


def _rigid() -> Iterable[dict[str, object]]:
    """Through the scheduler itself."""
    for name, gpus in (("cluster02", 96), ("cluster03", 160)):
        file = trace_folder("microsoft_itp_2021") / f"{name}.csv"
        read = read_jobs(file.read_text().splitlines(), source=str(file))
        jobs = with_uniform_deadlines(read, 1.2, 3, seed=7)
        srtf, promise = (
            simulate_queue(jobs, Cluster(gpus), QUEUE_POLICIES[policy]).measures()
            for policy in ("srtf", "promise")
        )
        what = f"{name} on {gpus} GPUs, deadline U(1.2, 3) × duration"
        goal = f">= {srtf['deadline_met_ratio']:.3f} (SRTF)"
        yield row(f"{what}: met of all", goal, promise["deadline_met_ratio"])
        yield row(f"{what}: met of admitted", ">= 0.99", promise["admitted_met_ratio"])
        yield row(f"{what}: admitted", "", promise["admitted_ratio"])


def _elastic() -> Iterable[dict[str, object]]:
    for name, gpus, jobs in (
        ("195job", 128, None),
        ("195job", 64, None),
        ("cluster02", 512, ELASTIC_JOBS),
        ("cluster02", 64, ELASTIC_JOBS),
        ("cluster03", 64, ELASTIC_JOBS),
    ):
        trace = elastic_jobs(name)[:jobs]
        greedy = simulate(trace, gpus, ElasticFlow)
        outcome = simulate(trace, gpus, Ours)
        what = f"ElasticFlow's {name}{f', {jobs} jobs,' if jobs else ''} on {gpus} GPUs"
        goal = f">= {greedy.met:.3f} (its greedy), > 0.5"
        yield row(f"{what}: met of all", goal, outcome.met)
        yield row(f"{what}: met of admitted", ">= 0.99", outcome.met_of_admitted)


def _allotting() -> dict[str, object]:
    curves = [Curve.of(_gang(str(k), 0, 1, 10, _convex(0.6 + k / 25))) for k in range(10)]
    claims = [
        Claim(id=f"{k:04d}", curve=curves[k % 10], size=1, left_ms=60_000.0 * (1 + k * 7 % 97))
        for k in range(1_000)
    ]
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        allot(claims, 2_000)
        taken.append(time.perf_counter() - began)
    goal = "<= 50"
    return row("1,000 elastic gangs on 2,000 GPUs, allotted in ms", goal, 1_000 * min(taken))


def row(what: str, goal: str, measured: float | None) -> dict[str, object]:
    assert measured is not None, what
    return {"what": what, "goal": goal, "measured": round(measured, 4)}


# --- traces --------------------------------------------------------------------------------------


def elastic_jobs(name: str) -> list[Job]:
    """With the speeds that were measured for its model and batch size on 1, 2, 4, … A100s."""
    with (trace_folder("microsoft_itp_2021") / f"{name}.csv").open() as file:
        return [
            Job(
                round(float(r["submission_time"]) * 1_000),
                float(r["num_iteration"]),
                _measured(r["model_name"], r["batch_size"]),
                round(float(r["deadline"]) * 1_000),
                int(r["num_gpu"]),
            )
            for r in csv.DictReader(file)
        ]


@cache
def _measured(model: str, batch_size: str) -> tuple[tuple[int, float], ...]:
    with (trace_folder("elasticflow_throughputs") / f"A100__{model}.csv").open() as file:
        for r in csv.DictReader(file):
            if r.pop("global_batch_size") == batch_size:
                return tuple((int(g), float(s) / 1_000) for g, s in r.items() if s and float(s))
    raise AssertionError((model, batch_size))


# --- the pool ------------------------------------------------------------------------------------


@dataclass(slots=True)
class State:
    """What a policy is shown of a job."""

    id: str
    job: Job
    left: float  # of its work
    gpus: int = 0  # now
    since_ms: int = 0  # with so many, and with this much left:
    left_then: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    met: float
    admitted: float
    met_of_admitted: float
    jct_s: float
    resizes: int


@dataclass(slots=True)
class Policy:
    """Says how many GPUs each job has from now on, and when it wants to be asked again."""

    gpus: int
    admitted: set[str] = field(default_factory=set)

    def decide(self, now_ms: int, active: dict[str, State], new: list[str]) -> dict[str, int]:
        raise NotImplementedError

    def wake_ms(self, now_ms: int) -> int | None:
        raise NotImplementedError


def simulate(jobs: Sequence[Job], gpus: int, policy_of: Callable[[int], Policy]) -> Result:
    """From the first submission to the last end. A job that a policy forgets runs no more."""
    policy = policy_of(gpus)
    coming = sorted(range(len(jobs)), key=lambda k: (-jobs[k].at_ms, -k))
    active: dict[str, State] = {}
    ended: dict[str, int] = {}
    now_ms = jobs[coming[-1]].at_ms
    resizes = 0
    while coming or active:
        times = [jobs[coming[-1]].at_ms] if coming else []
        times += [now_ms + max(1, -int(-s.left // _speed(s))) for s in active.values() if s.gpus]
        wake_ms = policy.wake_ms(now_ms)
        if wake_ms is not None:
            times.append(wake_ms)
        if not times:
            break
        for state in active.values():
            if state.gpus:
                state.left -= (min(times) - now_ms) * _speed(state)
        assert min(times) > now_ms or not ended
        now_ms = min(times)
        for id in [id for id, state in active.items() if state.left <= 1e-6 * state.job.work]:
            ended[id] = now_ms
            del active[id]
        new = []
        while coming and jobs[coming[-1]].at_ms <= now_ms:
            k = coming.pop()
            new.append(f"{k:06d}")
            active[new[-1]] = State(new[-1], jobs[k], jobs[k].work)
        having = policy.decide(now_ms, active, new)
        assert sum(having.values()) <= gpus
        for id, state in active.items():
            if state.gpus != having.get(id, 0):
                resizes += bool(state.gpus and having.get(id, 0))
                state.gpus, state.since_ms = having.get(id, 0), now_ms
                state.left_then = state.left
    met = {
        f"{k:06d}" for k, j in enumerate(jobs) if ended.get(f"{k:06d}", 1 << 62) <= j.deadline_ms
    }
    return Result(
        met=len(met) / len(jobs),
        admitted=len(policy.admitted) / len(jobs),
        met_of_admitted=len(met & policy.admitted) / max(1, len(policy.admitted)),
        jct_s=float(np.mean([at - jobs[int(id)].at_ms for id, at in ended.items()])) / 1_000,
        resizes=resizes,
    )


def _speed(state: State) -> float:
    return max(speed for gpus, speed in state.job.speeds if gpus <= state.gpus)


# --- ours ----------------------------------------------------------------------------------------


class Ours(Policy):
    """The platform's own decisions: promises, then shares."""

    def __init__(self, gpus: int) -> None:
        super().__init__(gpus)
        self._node = NodeView(id="pool", capacity=Capacity(gpus=gpus))
        self._promises = Promises()
        self._gangs: dict[str, Gang] = {}
        self._has: dict[str, int] = {}

    def decide(self, now_ms: int, active: dict[str, State], new: list[str]) -> dict[str, int]:
        for id in new:
            self._gangs[id] = _gang_of(active[id], self.gpus)
        views = {id: self._view(state) for id, state in active.items() if id not in new}
        snapshot = _snapshot(now_ms, self._node, views.values())
        self._promises = renew(snapshot, self._promises)
        for id in new:
            views[id] = self._gangs[id]
            snapshot = _snapshot(now_ms, self._node, views.values())
            answer = admit(snapshot, self._gangs[id], self._promises)
            self._promises = answer.promises
            if isinstance(answer, Admitted):
                self.admitted.add(id)
        soon = due(self._promises, now_ms + GOES_ON_MS)
        claims = []
        for id, state in active.items():
            gang = self._gangs[id]
            left_ms = state.left / state.job.work * (gang.remaining_ms or 0)
            lost = not can_be_met(gang, now_ms, (gang.remaining_ms or 0) - round(left_ms))
            slot = soon.get(id)
            if slot is not None and slot.from_ms > now_ms and not state.gpus:
                slot = None
            claims.append(
                Claim(
                    id=id,
                    curve=Curve.of(gang),
                    size=1,
                    left_ms=left_ms,
                    has=state.gpus,
                    promised=slot.workers if slot else 0,
                    due_ms=slot.from_ms if slot else 0,
                    turn=int(lost),
                )
            )
        self._has = allot(claims, self.gpus)
        return self._has

    def wake_ms(self, now_ms: int) -> int | None:
        return next_due_ms(self._promises, now_ms, self._has)

    def _view(self, state: State) -> Gang | Running:
        gang = self._gangs[state.id]
        share = (state.left_then if state.gpus else state.left) / state.job.work
        rest_ms = -int(-share * (gang.remaining_ms or 0) // 1)
        gang = _with_remaining(gang, rest_ms)
        if not state.gpus:
            return gang
        held = tuple((w, Assignment(w.replica, "pool")) for w in gang.workers[: state.gpus])
        return Running(gang=gang, held=held, started_at_ms=state.since_ms)


def _snapshot(now_ms: int, node: NodeView, views: Iterable[Gang | Running]) -> Snapshot:
    views = tuple(views)
    return Snapshot(
        now_ms=now_ms,
        nodes=(node,),
        running=tuple(v for v in views if isinstance(v, Running)),
        queue=tuple(v for v in views if isinstance(v, Gang)),
    )


def _gang_of(state: State, gpus: int) -> Gang:
    job = state.job
    most = min(gpus, max(count for count, _ in job.speeds))
    least = job.speeds[0][0]
    speedup: tuple[float, ...] = ()
    if len(job.speeds) > 1:
        speedup = tuple(
            max(s for count, s in job.speeds if count <= many) for many in range(1, most + 1)
        )
    fastest = speedup[-1] if speedup else job.speeds[0][1]
    remaining_ms = -int(-job.work / fastest // 1)
    return _gang(state.id, job.at_ms, least, most, speedup, remaining_ms, job.deadline_ms)


def _gang(
    id: str,
    at_ms: int,
    least: int,
    most: int,
    speedup: tuple[float, ...] = (),
    remaining_ms: int = 1,
    deadline_ms: int = 0,
) -> Gang:
    return Gang(
        id=id,
        name=id,
        workers=_workers(most),
        min_workers=least if least < most else 0,
        queued_at_ms=at_ms,
        preemptible=True,
        deadline=Deadline(at_ms=deadline_ms),
        remaining_ms=remaining_ms,
        speedup=speedup,
    )


def _with_remaining(gang: Gang, remaining_ms: int) -> Gang:
    return Gang(
        id=gang.id,
        name=gang.name,
        workers=gang.workers,
        min_workers=gang.min_workers,
        queued_at_ms=gang.queued_at_ms,
        preemptible=True,
        deadline=gang.deadline,
        remaining_ms=remaining_ms,
        speedup=gang.speedup,
    )


@cache
def _workers(many: int) -> tuple[Worker, ...]:
    return tuple(Worker(replica=str(k), needs=ONE_GPU) for k in range(many))


def _convex(exponent: float) -> tuple[float, ...]:
    return tuple(float(many) ** min(1.0, exponent) for many in range(1, 11))


# --- ElasticFlow's greedy ------------------------------------------------------------------------


class ElasticFlow(Policy):
    """Gu et al., ASPLOS 2023, algorithms 1 and 2, written anew: in the order of deadlines each job
    gets the least share that suffices; a new one with which that fails is dropped; then GPUs that
    are left go where they cost the least GPU time."""

    def __init__(self, gpus: int) -> None:
        super().__init__(gpus)
        self._plan: dict[str, list[tuple[float, float, int]]] = {}  # from, to, GPUs

    def decide(self, now_ms: int, active: dict[str, State], new: list[str]) -> dict[str, int]:
        kept = {id for id in self._plan if id in active}
        self._plan = self._fill(now_ms, [active[id] for id in kept]) or {
            id: self._plan[id] for id in kept
        }
        for id in new:
            plan = self._fill(now_ms, [active[k] for k in (*self._plan, id)])
            if plan is None:
                del active[id]
            else:
                self._plan = plan
                self.admitted.add(id)
        having = {
            id: sum(gpus for a, b, gpus in slots if a <= now_ms < b)
            for id, slots in self._plan.items()
        }
        free = self.gpus - sum(having.values())
        while free:
            steps = [step for id in having if (step := self._step(active[id], having[id], free))]
            if not steps:
                break
            _, _, id, to = max(steps)
            free -= to - having[id]
            having[id] = to
        return having

    def wake_ms(self, now_ms: int) -> int | None:
        edges = (at for slots in self._plan.values() for a, b, _ in slots for at in (a, b))
        next_ms = min((at for at in edges if at > now_ms), default=None)
        return None if next_ms is None else -int(-next_ms // 1)

    def _step(self, state: State, gpus: int, free: int) -> tuple[float, int, str, int] | None:
        speeds = _rising(state.job.speeds, self.gpus)
        more = [(many, speed) for many, speed in speeds if gpus < many <= gpus + free]
        if not more:
            return None
        to, fast = more[0]
        if not gpus:
            return float("inf"), -state.job.deadline_ms, state.id, to
        saved = state.left * (gpus / dict(speeds)[gpus] - to / fast) / (to - gpus)
        return saved, -state.job.deadline_ms, state.id, to

    def _fill(
        self, now_ms: int, states: list[State]
    ) -> dict[str, list[tuple[float, float, int]]] | None:
        at, free = [float(now_ms)], [self.gpus]
        plan = {}
        for state in sorted(states, key=lambda s: (s.job.deadline_ms, s.id)):
            end = float(state.job.deadline_ms)
            speeds = _rising(state.job.speeds, self.gpus)
            slots = _least_share(at, free, speeds, state.left, end)
            if slots is None:
                return None
            for a, b, gpus in slots:
                for edge in (a, b):
                    k = bisect_left(at, edge)
                    if k == len(at) or at[k] != edge:
                        at.insert(k, edge)
                        free.insert(k, free[k - 1])
                for k in range(bisect_left(at, a), bisect_left(at, b)):
                    free[k] -= gpus
            plan[state.id] = slots
        return plan


def _least_share(
    at: list[float],
    free: list[int],
    speeds: tuple[tuple[int, float], ...],
    left: float,
    end: float,
) -> list[tuple[float, float, int]] | None:
    if end <= at[0]:
        return None
    many = bisect_left(at, end)
    edges = np.array([*at[:many], end])
    length = np.diff(edges)
    gpus = np.array([0, *(g for g, _ in speeds)])
    speed = np.array([0.0, *(s for _, s in speeds)])
    fits = np.searchsorted(gpus, np.array(free[:many]), side="right") - 1
    for most in range(1, len(gpus)):
        level = np.minimum(most, fits)
        if float(speed[level] @ length) >= left * (1 - 1e-9):
            break
    else:
        return None
    fast, slow = speed[level], speed[np.minimum(most - 1, fits)]
    after = np.cumsum((fast * length)[::-1])[::-1]
    before = np.concatenate([[0.0], np.cumsum(slow * length)])
    k = int(np.flatnonzero(before[:-1] + after >= left * (1 - 1e-9))[-1])
    change = edges[k + 1]
    if fast[k] > slow[k]:
        over = max(0.0, before[k] + after[k] - left)
        change = min(change, edges[k] + int(over / (fast[k] - slow[k])))
    few = gpus[np.minimum(most - 1, fits)]
    slots = [(edges[j], edges[j + 1], int(few[j])) for j in range(k)]
    slots += [(edges[k], change, int(few[k])), (change, edges[k + 1], int(gpus[level][k]))]
    slots += [(edges[j], edges[j + 1], int(gpus[level][j])) for j in range(k + 1, many)]
    return [(float(a), float(b), g) for a, b, g in slots if g and b > a]


@cache
def _rising(speeds: tuple[tuple[int, float], ...], gpus: int) -> tuple[tuple[int, float], ...]:
    rising: list[tuple[int, float]] = []
    for many, speed in speeds:
        if many <= gpus and (not rising or speed > rising[-1][1]):
            rising.append((many, speed))
    return tuple(rising)


if __name__ == "__main__":
    main()
