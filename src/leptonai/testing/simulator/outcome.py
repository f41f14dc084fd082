"""What became of the jobs: arrays with a row for each, a timeline, and the measures of both."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leptonai.testing.simulator.jobs import Job

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Arrays are over the jobs in their given order; times are seconds on the trace's clock."""

    jobs: tuple[Job, ...]
    gpus: int
    started_s: Floats  # first
    ended_s: Floats
    held_s: Floats  # for how long it held any GPUs in all
    gpu_s: Floats  # GPU time: with how many, too
    preemptions: Ints  # how often it yielded

    # The timeline: after each event, until the next.
    times_s: Floats
    busy_gpus: Ints
    waiting_jobs: Ints

    admitted: Bools  # its deadline was promised, or it has none
    decisions: int  # plans made
    deciding_s: float = field(default=0.0)  # time the scheduler took for them, on this machine

    @property
    def submitted_s(self) -> Floats:
        return np.array([job.submitted_ms for job in self.jobs], dtype=np.float64) / 1_000

    @property
    def duration_s(self) -> Floats:
        return np.array([job.duration_ms for job in self.jobs], dtype=np.float64) / 1_000

    @property
    def jct_s(self) -> Floats:
        """Job completion time: from submission to end."""
        return self.ended_s - self.submitted_s

    @property
    def delay_s(self) -> Floats:
        """What the job would have been done sooner by in an empty cluster."""
        return self.jct_s - self.duration_s

    @property
    def deadline_s(self) -> Floats:
        """nan for a job without one."""
        deadlines = [np.nan if j.deadline_ms is None else j.deadline_ms for j in self.jobs]
        return np.array(deadlines, dtype=np.float64) / 1_000

    @property
    def makespan_s(self) -> float:
        return float(self.ended_s.max() - self.submitted_s.min())

    @property
    def utilisation(self) -> float:
        """The share of all GPU time between first submission and last end that jobs held."""
        whole = self.gpus * self.makespan_s
        return float(self.gpu_s.sum() / whole) if whole else 0.0

    @property
    def deadline_met_ratio(self) -> float | None:
        """Of the jobs that have a deadline; None where none has."""
        return self._met_ratio(np.ones(len(self.jobs), dtype=np.bool_))

    def measures(self) -> dict[str, float | int | None]:
        """The numbers of `leptonai simulate queue`, by name."""
        jct_s = self.jct_s
        return {
            "avg_jct_s": float(jct_s.mean()),
            "median_jct_s": float(np.median(jct_s)),
            "p99_jct_s": float(np.percentile(jct_s, 99)),
            "makespan_s": self.makespan_s,
            "max_delay_s": float(self.delay_s.max()),
            "deadline_met_ratio": self.deadline_met_ratio,
            "admitted_ratio": float(self.admitted.mean()),
            "admitted_met_ratio": self._met_ratio(self.admitted),
            "utilisation": self.utilisation,
            "preemptions": int(self.preemptions.sum()),
            "decisions": self.decisions,
            "decisions_per_s": self.decisions / self.deciding_s if self.deciding_s else None,
        }

    def _met_ratio(self, among: Bools) -> float | None:
        deadline_s = self.deadline_s
        has = among & ~np.isnan(deadline_s)
        return float((self.ended_s[has] <= deadline_s[has]).mean()) if has.any() else None
