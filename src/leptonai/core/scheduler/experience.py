"""What ended jobs teach about the estimates of those to come."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

FEWEST = 10  # ended jobs before they teach anything
LONGEST_MS = 10 * 365 * 24 * 3_600_000  # no correction says more


@dataclass(frozen=True, slots=True)
class Moments:
    """How many numbers there were, and their mean and variance."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # of the distances to the mean

    def add(self, number: float) -> "Moments":
        """Source: Welford 1962, "Note on a method for calculating corrected sums of squares"."""
        count, distance = self.count + 1, number - self.mean
        mean = self.mean + distance / count
        return Moments(count, mean, self.squares + distance * (number - mean))

    @property
    def variance(self) -> float:
        return self.squares / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Experience:
    """How long jobs ran, by how many GPUs they had, and by how much their estimates were wrong.

    All in logarithms, where durations and errors are near to normal: an estimate is then corrected
    as the mean of two sources is, each weighed by how sure it is. Where estimates were good they
    stand; where they were guesses, the truth is rather what jobs of that size use to take; and a
    bias that all of them have goes away. Only ended jobs are known, which are the shorter ones of
    those that started: too little is believed of the rest for a while.
    """

    errors: Moments = field(default_factory=Moments)  # log(duration / estimate)
    durations: Moments = field(default_factory=Moments)  # log(ms)
    of_size: Mapping[int, Moments] = field(default_factory=dict)  # the same, by log2(GPUs)

    def add(self, gpus: float, estimate_ms: int | None, duration_ms: int) -> "Experience":
        """After a job has ended. Costs by how many sizes there are: a dozen."""
        ran = math.log(max(1, duration_ms))
        errors = self.errors
        if estimate_ms is not None:
            errors = errors.add(ran - math.log(max(1, estimate_ms)))
        size = _size(gpus)
        of_size = {**self.of_size, size: self.of_size.get(size, Moments()).add(ran)}
        return Experience(errors, self.durations.add(ran), of_size)

    def corrected_ms(self, gpus: float, estimate_ms: int) -> int:
        """A better estimate of the same job's duration."""
        if self.errors.count < FEWEST:
            return estimate_ms
        usual = self.of_size.get(_size(gpus), self.durations)
        if usual.count < FEWEST:
            usual = self.durations
        doubt = self.errors.variance
        trust = usual.variance / (usual.variance + doubt) if doubt else 1.0
        said = math.log(max(1, estimate_ms)) + self.errors.mean
        believed = trust * said + (1 - trust) * usual.mean
        return round(math.exp(min(believed, math.log(LONGEST_MS))))


def _size(gpus: float) -> int:
    return round(math.log2(max(1.0, gpus)))
