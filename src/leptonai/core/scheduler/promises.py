"""What is promised: which gang has which room, over time; and what it has left to do there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log2

import numpy as np

from leptonai.core.resources import MILLIS
from leptonai.core.scheduler.elastic import Curve
from leptonai.core.scheduler.values import Gang, Running, Worker

DAY_MS = 24 * 3_600_000
REMEMBERED_DAYS = 60  # of what was asked for
SIZES_PER_OCTAVE = 4  # how finely work is told apart by its size
SIZES = 64 * SIZES_PER_OCTAVE
FOREVER_MS = 1 << 60
ROUNDING_MS = 5  # set aside besides for an elastic gang: instants are whole milliseconds


@dataclass(frozen=True, slots=True)
class Slot:
    """A gang runs with so many workers from one instant up to another."""

    from_ms: int
    to_ms: int
    workers: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a gang has left to do, and what it needs for that."""

    gang: Gang
    curve: Curve
    left_ms: float  # at speed 1
    until_ms: int
    width: int  # of a worker: thousandths of a GPU, or of a core if it needs no GPU
    on_gpus: bool

    @classmethod
    def of(cls, gang: Gang, running: Running | None = None, now_ms: int = 0) -> "Work":
        curve = Curve.of(gang)
        left_ms = float(gang.remaining_ms or 0)
        if running is not None and running.started_at_ms is not None:
            left_ms -= (now_ms - running.started_at_ms) * curve.speed(len(running.held))
        gpus, cores = _width(gang.workers)
        return cls(
            gang,
            curve,
            max(1.0, left_ms),  # one that has run for longer than told is about to end
            gang.deadline.at_ms if gang.deadline else FOREVER_MS,
            gpus or max(1, cores),
            on_gpus=gpus > 0,
        )

    @property
    def gpu_ms(self) -> float:
        """With as many workers as use the machines best."""
        best = min(n / s for n, s in zip(self.curve.workers, self.curve.speeds, strict=True))
        return self.left_ms * best * self.width / MILLIS

    @property
    def size(self) -> float:
        """GPU time for each unit of value: where room is short, smaller is better."""
        value = self.gang.deadline.value if self.gang.deadline else 1.0
        return self.gpu_ms / max(value, 1e-9)

    @property
    def spare_ms(self) -> float:
        return ROUNDING_MS if len(self.curve.workers) > 1 else 0

    @property
    def fastest_ms(self) -> float:
        return self.left_ms / self.curve.speeds[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How much work with a deadline was asked for: by day and by the size of the gangs. Also what
    was refused: that runs, too."""

    first_ms: int | None = None
    day: int = 0  # of the last row
    gpu_ms: tuple[tuple[float, ...], ...] = ()  # by day, the last ones; by size

    def and_one(self, work: Work, now_ms: int) -> "Arrivals":
        day = now_ms // DAY_MS
        first_ms = now_ms if self.first_ms is None else min(self.first_ms, now_ms)
        rows = list(self.gpu_ms) if self.first_ms is not None else [(0.0,) * SIZES]
        last = self.day if self.first_ms is not None else day
        for _ in range(min(max(0, day - last), REMEMBERED_DAYS)):
            rows.append((0.0,) * SIZES)
        today, size = list(rows[-1]), _size_class(work.size)
        today[size] += work.gpu_ms
        return Arrivals(
            first_ms=max(first_ms, (day - REMEMBERED_DAYS) * DAY_MS),
            day=max(day, last),
            gpu_ms=(*rows[-REMEMBERED_DAYS:-1], tuple(today)),
        )

    def smaller(self, work: Work, now_ms: int) -> float:
        """GPUs that smaller gangs will take at any time before this one's deadline, if they come as
        they did so far; or as in a time as long as until the deadline, if that was more. At least a
        day is looked at: less would say little."""
        if self.first_ms is None:
            return 0.0
        by_day = np.array(self.gpu_ms)[:, : _size_class(work.size)].sum(axis=1)
        ahead_ms = max(DAY_MS, work.until_ms - now_ms)
        since = (now_ms - ahead_ms) / DAY_MS - (self.day - len(by_day) + 1)
        whole = max(0, floor(since))
        lately = by_day[whole:].sum()
        if since > 0 and whole < len(by_day):
            lately -= by_day[whole] * (since - whole)  # of that day, evenly
        ever = by_day.sum() / max(DAY_MS, now_ms - self.first_ms)
        return float(max(ever, lately / ahead_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What is promised, as a value: what one call returns is passed to the next."""

    slots: Mapping[str, tuple[Slot, ...]] = field(default_factory=dict)  # by gang; in time's order
    arrivals: Arrivals = field(default_factory=Arrivals)


def _size_class(size: float) -> int:
    return min(SIZES - 1, max(0, int(log2(max(1.0, size)) * SIZES_PER_OCTAVE)))


def _width(workers: Sequence[Worker]) -> tuple[int, int]:
    """Of one of them, on average and rounded up: GPU and core thousandths."""
    gpus = cores = 0
    for worker in workers:
        gpus += worker.needs.gpus * worker.needs.gpu_millis
        cores += worker.needs.cpu_millis
    return -(-gpus // len(workers)), -(-cores // len(workers))
