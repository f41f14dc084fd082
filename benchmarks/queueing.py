"""Queueing on published traces: average completion time and largest delay, side by side.

    python -m benchmarks.queueing

Prints one JSON list of rows: what, goal, measured. The cluster counts GPUs alone, and preempting
costs nothing but where it says so. Goals are factors of what an independent model of known policies
gives on the same trace (MLFQ, SRTF, SJF), and the largest delay, which is the completion time less
the duration, a factor of EASY's.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.traces import trace_folder
from leptonai.core.scheduler import QUEUE_POLICIES
from leptonai.testing.simulator import (
    EXACT,
    UNKNOWN,
    Cluster,
    Durations,
    Job,
    read_jobs,
    simulate_queue,
)

Row = dict[str, object]
MOST_DELAY = 2.5  # × EASY's


@dataclass(frozen=True, slots=True)
class Trace:
    """And what known policies give on it: average completion times and EASY's largest delay, s."""

    folder: str
    file: str
    gpus: int
    fifo: float
    easy: float
    sjf: float
    las: float
    mlfq: float
    srtf: float
    srsf: float
    easy_delay: float

    def jobs(self) -> tuple[Job, ...]:
        path = trace_folder(self.folder) / self.file
        return read_jobs(path.read_text().splitlines(), source=self.file)


TRACES = {
    "ITP cluster02": Trace(
        folder="microsoft_itp_2021",
        file="cluster02.csv",
        gpus=96,
        fifo=498_384,
        easy=206_481,
        sjf=36_266,
        las=101_787,
        mlfq=31_077,
        srtf=29_092,
        srsf=27_915,
        easy_delay=690_461,
    ),
    "ITP cluster03": Trace(
        folder="microsoft_itp_2021",
        file="cluster03.csv",
        gpus=160,
        fifo=280_339,
        easy=224_173,
        sjf=71_304,
        las=132_860,
        mlfq=75_090,
        srtf=46_234,
        srsf=44_728,
        easy_delay=792_084,
    ),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of durations, what may yield, and what the average is compared with."""

    name: str
    policy: str
    durations: Durations
    baseline: str
    most: float  # × the baseline's average
    preempt_cost_s: float = 0.0


SETTINGS = (
    Setting("no durations", "ours", UNKNOWN, "mlfq", 1.1),
    Setting("estimates, sigma 1", "ours", Durations(sigma=1.0), "srtf", 1.25),
    Setting("estimates, sigma 2", "ours", Durations(sigma=2.0), "srtf", 1.5),
    Setting("exact durations, no preemption", "ours_uninterrupted", EXACT, "sjf", 1.15),
    Setting("no durations, 60 s a preemption", "ours", UNKNOWN, "mlfq", 1.1, preempt_cost_s=60),
)


def rows() -> Iterator[Row]:
    for name, trace in TRACES.items():
        jobs = trace.jobs()
        yield from _fidelity(name, trace, jobs)
        for setting in SETTINGS:
            yield from _ours(name, trace, jobs, setting)


def _fidelity(name: str, trace: Trace, jobs: tuple[Job, ...]) -> Iterator[Row]:
    """The simulated baselines give what the independent model gives."""
    for policy in ("fifo", "easy", "sjf", "las", "mlfq", "srtf", "srsf"):
        durations = UNKNOWN if policy in ("las", "mlfq") else EXACT
        cluster = Cluster(trace.gpus, trace.gpus)
        outcome = simulate_queue(jobs, cluster, QUEUE_POLICIES[policy], durations=durations)
        off = outcome.jct_s.mean() / getattr(trace, policy) - 1
        yield {
            "what": f"{name}, {policy}: average completion time against the reference",
            "goal": "within 0.5 %",
            "measured": f"{100 * off:+.2f} %",
        }


def _ours(name: str, trace: Trace, jobs: tuple[Job, ...], setting: Setting) -> Iterator[Row]:
    outcome = simulate_queue(
        jobs,
        Cluster(trace.gpus, trace.gpus),
        QUEUE_POLICIES[setting.policy],
        durations=setting.durations,
        preempt_cost_s=setting.preempt_cost_s,
    )
    average_s = outcome.jct_s.mean()
    delay_s = max(
        jct - job.duration_ms / 1_000 for jct, job in zip(outcome.jct_s.tolist(), jobs, strict=True)
    )
    ratio = average_s / getattr(trace, setting.baseline)
    yield {
        "what": f"{name}, {setting.name}: average completion time",
        "goal": f"<= {setting.most} x {setting.baseline.upper()}",
        "measured": f"{ratio:.3f} x ({average_s:,.0f} s)",
    }
    yield {
        "what": f"{name}, {setting.name}: largest delay",
        "goal": f"<= {MOST_DELAY} x EASY",
        "measured": f"{delay_s / trace.easy_delay:.2f} x ({delay_s:,.0f} s)",
    }


if __name__ == "__main__":
    print(json.dumps([*rows()], indent=2))
