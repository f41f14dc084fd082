"""The 120 jobs of Shockwave on its 32 GPUs: done as early as can be, and soon on average.

    python -m benchmarks.shockwave

Prints rows of JSON. The cluster is the one of Shockwave's own simulator (Zheng et al., NSDI 2023):

- Time is cut into rounds of 120 s; a round ends early when all that run in it end. Who runs is
  decided between rounds. A gang runs with all its GPUs or not at all. GPUs are one pool.
- A gang that did not run in the round before loses 20 s of a full one.
- A job is a number of steps at a batch size. In the mode `static` the batch stays. With `gns`
  (gradient noise scale) it doubles after certain epochs, and with `accordion` it is the largest
  outside of critical regimes, which are certain epochs too. A larger batch means fewer, longer
  steps for the same number of epochs, and so mostly a shorter job.
- The batch follows at the end of the next round in which the job runs.

So a policy may know what has arrived, how many GPUs it needs, how many steps it has left at its
present batch, and how many it does a second. It does not know that the batch will change, nor what
arrives later.

To show that this is the published cluster, two published policies are run on it: OSSP (the least
time by which what is known can end, shares of the time by a linear program) and Gavel's max-min
fairness. Where their linear programs have several answers it is not known which one the published
solver took, so they agree within some per cent. (Replaying the published schedules of OSSP, max-sum
throughput and Shockwave round by round gives their makespans to the last digit, and 119 of 120
completion times.)
"""

import ast
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.traces import trace_folder
from leptonai.core.scheduler.draining import critical_from, drain_rank

GPUS = 32
ROUND_S, START_S = 120.0, 20.0
SHORT_OF_A_ROUND_S = (
    5.0  # a round that is shorter by more than this is a last one: no start is paid
)

SAMPLES = {  # of an epoch
    "ResNet-18": 50_000,
    "ResNet-50": 100_000,
    "Transformer": 10_000,
    "LM": 59_675,
    "Recommendation": 117_907,
}
LARGEST_BATCH = {
    "ResNet-18": 256,
    "ResNet-50": 128,
    "Transformer": 128,
    "LM": 80,
    "Recommendation": 8192,
}
# The first epochs with twice, four times … the batch, by model, first batch, and GPUs.
# Published with the traces, as scheduler/utils.py.
NOISE_SCALE = {
    ("ResNet-18", 16, 1): (31, 41, 51, 71),
    ("ResNet-18", 32, 1): (21, 31, 51),
    ("ResNet-18", 64, 1): (11, 31),
    ("ResNet-18", 128, 1): (11,),
    ("ResNet-18", 16, 2): (21, 31, 91, 111),
    ("ResNet-18", 32, 2): (11, 21, 41),
    ("ResNet-18", 64, 2): (21, 41),
    ("ResNet-18", 128, 2): (41,),
    ("ResNet-18", 16, 4): (11, 21, 81, 91),
    ("ResNet-18", 32, 4): (21, 31, 61),
    ("ResNet-18", 64, 4): (11, 61),
    ("ResNet-18", 128, 4): (11,),
    ("ResNet-50", 64, 1): (101,),
    ("ResNet-50", 32, 2): (101, 111),
    ("ResNet-50", 64, 2): (81,),
    ("ResNet-50", 32, 4): (131, 221),
    ("ResNet-50", 64, 4): (191,),
    ("LM", 5, 1): (31, 41, 61, 71),
    ("LM", 10, 1): (11, 21, 41),
    ("LM", 20, 1): (11, 41),
    ("LM", 40, 1): (11,),
    ("LM", 5, 2): (31, 51, 61, 71),
    ("LM", 10, 2): (11, 31, 41),
    ("LM", 20, 2): (31, 41),
    ("LM", 40, 2): (11,),
    ("LM", 5, 4): (11, 31, 71, 91),
    ("LM", 10, 4): (11, 31, 61),
    ("LM", 20, 4): (11, 61),
    ("LM", 40, 4): (61,),
    ("Recommendation", 512, 1): (21, 41, 71, 91),
    ("Recommendation", 1024, 1): (21, 51, 91),
    ("Recommendation", 2048, 1): (21, 41),
    ("Recommendation", 4096, 1): (41,),
}

Speeds = Mapping[
    tuple[str, int], float
]  # steps a second of a model with its batch, on so many GPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """As it was submitted."""

    id: int
    model: str
    batch: int
    gpus: int
    mode: str
    steps: int
    arrives_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a job is. This is what policies see, with `speed`."""

    job: Job
    batch: int
    steps: int  # in all, at the present batch
    done: int = 0
    next_batch: int = 0  # from the end of the next round in which it runs; 0: as it is
    speed: float  # steps a second

    @property
    def left_s(self) -> float:
        """If its batch stays."""
        return max(0, self.steps - self.done) / self.speed


@dataclass(frozen=True, slots=True)
class Outcome:
    makespan_s: float
    average_jct_s: float
    utilisation: float
    preemptions: int


# Who runs in the next round, of those that have arrived; is told who ran in the last one.
Policy = Callable[[Sequence[State]], Sequence[int]]


def rows() -> list[dict[str, Any]]:
    folder = trace_folder("shockwave_nsdi23")
    jobs = read_jobs(folder / "tacc_32gpus_120jobs.trace")
    speeds = read_speeds(folder / "tacc_throughputs.json")
    near = "0.94 to 1.06"
    ours = simulate(jobs, speeds, draining())
    shortest = simulate(jobs, speeds, shortest_first)
    ossp = simulate(jobs, speeds, PublishedRounds(earliest_end))
    fair = simulate(jobs, speeds, PublishedRounds(equal_shares))
    return [
        _row("Shockwave-120, ours: makespan", "s", "<= 24,700", ours.makespan_s),
        _row("Shockwave-120, ours: average JCT", "s", "<= 10,500", ours.average_jct_s),
        _row("… GPU utilisation (published Shockwave: 0.817)", "", "", ours.utilisation),
        _row("… preemptions", "", "", ours.preemptions),
        _row("… shortest first: makespan", "s", "", shortest.makespan_s),
        _row("… shortest first: average JCT", "s", "", shortest.average_jct_s),
        _row("… OSSP: makespan by the published 24,205 s", "", near, ossp.makespan_s / 24_205),
        _row("… OSSP: average JCT by 19,807 s", "", near, ossp.average_jct_s / 19_807),
        _row("… max-min: makespan by the published 33,208 s", "", near, fair.makespan_s / 33_208),
        _row("… max-min: average JCT by 11,274 s", "", near, fair.average_jct_s / 11_274),
    ]


def _row(what: str, unit: str, goal: str, measured: float) -> dict[str, Any]:
    return {
        "what": what + (f", {unit}" if unit else ""),
        "goal": goal,
        "measured": round(measured, 3 if measured < 10 else 0),
    }


# --- policies ------------------------------------------------------------------------------------


def draining(gpus: int = GPUS) -> Policy:
    """Ours."""

    def choose(states: Sequence[State]) -> list[int]:
        critical = critical_from(((state.left_s, state.job.gpus) for state in states), gpus)
        return in_order(
            states,
            lambda state: drain_rank(state.left_s, state.job.gpus, critical),
            gpus,
        )

    return choose


def shortest_first(states: Sequence[State]) -> list[int]:
    return in_order(states, lambda state: state.left_s, GPUS)


def in_order(states: Sequence[State], rank: Callable[[State], float], gpus: int) -> list[int]:
    """Whoever fits into what those before it leave."""
    chosen = []
    for state in sorted(states, key=lambda state: (rank(state), state.job.arrives_s, state.job.id)):
        if state.job.gpus <= gpus:
            chosen.append(state.job.id)
            gpus -= state.job.gpus
    return chosen


class PublishedRounds:
    """How Gavel's program, and Shockwave's after it, makes shares of the time true: first who has
    had the least of the time that was handed out, by its share. Shares are decided again after
    1,000 s, if somebody came or went; until then who is new is last."""

    REDECIDED_AFTER_ROUNDS = math.ceil(1_000 / ROUND_S)

    def __init__(self, share: Callable[[Sequence[State]], Mapping[int, float]]) -> None:
        self._share = share
        self._shares: Mapping[int, float] = {}
        self._had_s: dict[int, float] = {}
        self._rounds = self.REDECIDED_AFTER_ROUNDS
        self._chosen: list[int] = []

    def __call__(self, states: Sequence[State]) -> list[int]:
        present = {state.job.id for state in states}
        changed = present != self._shares.keys()
        if changed and self._rounds >= self.REDECIDED_AFTER_ROUNDS:
            self._shares, self._had_s, self._rounds = self._share(states), {}, 0
        had_s = {at: self._had_s.get(at, ROUND_S / 2) for at in present}
        chosen = in_order(
            states,
            lambda state: -self._shares.get(state.job.id, 0.0) / had_s[state.job.id],
            GPUS,
        )
        for at in chosen:
            started = at not in self._chosen
            self._had_s[at] = had_s[at] + ROUND_S - started * START_S
        self._rounds, self._chosen = self._rounds + 1, chosen
        return chosen


def earliest_end(states: Sequence[State]) -> dict[int, float]:
    """OSSP: all end together, at the earliest instant that this can be."""
    bound_s = max(
        max(state.left_s for state in states),
        sum(state.left_s * state.job.gpus for state in states) / GPUS,
    )
    return {state.job.id: state.left_s / bound_s if bound_s else 1.0 for state in states}


def equal_shares(states: Sequence[State]) -> dict[int, float]:
    """Max-min fairness on one type of GPU: each gang the same GPU time, none more than all of its
    own; what those leave is shared again."""
    shares: dict[int, float] = {}
    free, crowd = float(GPUS), len(states)
    for state in sorted(states, key=lambda state: (state.job.gpus, state.job.id)):
        width = min(float(state.job.gpus), free / crowd)
        shares[state.job.id] = width / state.job.gpus
        free, crowd = free - width, crowd - 1
    return shares


# --- the cluster ---------------------------------------------------------------------------------


def simulate(jobs: Sequence[Job], speeds: Speeds, policy: Policy) -> Outcome:
    coming = sorted(jobs, key=lambda job: (job.arrives_s, job.id))
    states: dict[int, State] = {}
    ended_s: dict[int, float] = {}
    now, used_s, preemptions, first = coming[0].arrives_s, 0.0, 0, True
    ran: frozenset[int] = frozenset()
    while coming or states:
        while coming and coming[0].arrives_s <= now:
            job = coming.pop(0)
            states[job.id] = _arrived(job, speeds)
        if not states:
            now, ran = coming[0].arrives_s, frozenset()
            continue
        chosen = policy(tuple(states.values()))
        assert chosen and sum(states[at].job.gpus for at in chosen) <= GPUS
        preemptions += len(ran & states.keys() - set(chosen))
        lasts_s = 0.0
        for at in chosen:
            state = states[at]
            steps = max(0, min(int(state.speed * ROUND_S), state.steps - state.done))
            takes_s = runs_s = steps / state.speed
            if at not in ran and not first and takes_s > ROUND_S - SHORT_OF_A_ROUND_S:
                runs_s = takes_s - START_S
                steps = int(steps * runs_s / takes_s)
            lasts_s = max(lasts_s, takes_s)
            used_s += runs_s * state.job.gpus
            state = replace(state, done=state.done + steps)
            if state.done >= state.steps:
                ended_s[at] = now + takes_s
                del states[at]
            else:
                states[at] = _with_next_batch(state, speeds)
        states = {at: replace(state, next_batch=_wish(state)) for at, state in states.items()}
        now, ran, first = now + lasts_s, frozenset(chosen), False
    makespan_s = max(ended_s.values())
    return Outcome(
        makespan_s=makespan_s,
        average_jct_s=sum(ended_s[job.id] - job.arrives_s for job in jobs) / len(jobs),
        utilisation=used_s / (makespan_s * GPUS),
        preemptions=preemptions,
    )


def _arrived(job: Job, speeds: Speeds) -> State:
    speed = speeds[f"{job.model} (batch size {job.batch})", job.gpus]
    return State(job=job, batch=job.batch, steps=job.steps, speed=speed)


def _wish(state: State) -> int:
    """The batch that its training asks for now."""
    job, epoch = state.job, _epochs(state.done, state.job.model, state.batch)
    largest = LARGEST_BATCH[job.model]
    if job.mode == "gns" and state.batch < largest:
        doublings = NOISE_SCALE.get((job.model, job.batch, job.gpus), ())
        wished = min(largest, job.batch * 2 ** sum(epoch + 1 >= first for first in doublings))
        return 2 * state.batch if wished > state.batch else 0
    if job.mode == "accordion" and job.model != "Transformer" and job.batch < largest:
        wished = job.batch if _in_critical_regime(job, epoch) else largest
        return wished if wished != state.batch else 0
    return 0


def _in_critical_regime(job: Job, epoch: int) -> bool:
    """Accordion's (Agarwal et al., MLSys 2021), as Shockwave's simulator fixes them."""
    if job.model == "ResNet-18":
        return epoch < 10 or 150 <= epoch < 160 or 250 <= epoch < 260
    if job.model == "ResNet-50":
        return epoch % 30 < 10
    if job.model == "Recommendation":
        return epoch < {512: 30, 1024: 30, 2048: 40, 4096: 10}[job.batch]
    return epoch < 10


def _with_next_batch(state: State, speeds: Speeds) -> State:
    """The same epochs, in steps of another size."""
    batch = state.next_batch
    speed = speeds.get((f"{state.job.model} (batch size {batch})", state.job.gpus))
    if not batch or speed is None:
        return state
    model = state.job.model
    epochs = _epochs(state.steps, model, state.batch)
    steps = math.ceil(state.steps * state.batch / batch)
    if _epochs(steps, model, batch) != epochs:
        steps = epochs * _steps_of_an_epoch(model, batch)
    done = _epochs(state.done, model, state.batch) * _steps_of_an_epoch(model, batch)
    return replace(state, batch=batch, steps=steps, done=done, next_batch=0, speed=speed)


def _epochs(steps: int, model: str, batch: int) -> int:
    """That have begun."""
    return math.ceil(steps / _steps_of_an_epoch(model, batch))


def _steps_of_an_epoch(model: str, batch: int) -> int:
    return math.ceil(SAMPLES[model] / batch)


# --- files ---------------------------------------------------------------------------------------


def read_jobs(file: Path) -> list[Job]:
    jobs = []
    for number, line in enumerate(file.read_text().splitlines()):
        kind, _, _, _, _, steps, gpus, mode, _, _, _, arrives_s = line.split("\t")
        model, _, batch = kind.removesuffix(")").partition(" (batch size ")
        jobs.append(
            Job(
                id=number,
                model=model,
                batch=int(batch),
                gpus=int(gpus),
                mode=mode,
                steps=int(steps),
                arrives_s=float(arrives_s),
            )
        )
    return jobs


def read_speeds(file: Path) -> Speeds:
    """Steps a second on V100, alone."""
    of_type = json.loads(file.read_text())["v100"]
    return {ast.literal_eval(name): beside["null"] for name, beside in of_type.items()}


if __name__ == "__main__":
    for row in rows():
        print(json.dumps(row))
