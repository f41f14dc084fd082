"""The rate of requests one cold start ahead, learnt from an endpoint's own history.

R(t) = α·L(t) + β·H(t) + γ·ΔL(t), where L is the rate now, H the mean rate of earlier days at the
time of day that is one cold start ahead, and ΔL how far L is above the rate of the last minutes, or
0. α, β, γ ≥ 0 are those with the least quantile (pinball) loss on the history, so R is a quantile
of what comes and not its mean: having too little is weighed against having too much.

Where a replica has slots, requests that come at random need more of them at some instants than
on average: in a system with room for all, the number in service is Poisson, with the offered
load as its variance. A window of counts shows a part of that; the rest is added to what is learnt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from statistics import NormalDist
from typing import TYPE_CHECKING

from msgspec import Struct

from leptonai.core.elasticity.values import DAY_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BIN_S = 10  # of the counts that history is kept in
PROFILE_S = 300  # of the historical rate by time of day
SLOW_S = 300  # what the rate now is compared with for its change
FAST_S = (20, 30, 60, 120)  # candidates for what "now" is: the fit takes the best
LEAST_DAYS = 3
MAX_DAYS = 28
MAX_ROWS = 20_000  # that are fitted to; more are thinned out
GOLDEN = 0.6180339887498949
FINEST_STEP = 1 / 256


class Forecast(Struct, frozen=True, kw_only=True):
    """What was learnt of one endpoint, for one cold start and certainty. A few kB of data."""

    alpha: float
    beta: float
    gamma: float
    fast_s: int  # the window that is "now"
    lead_s: float  # how far it looks ahead
    certainty: float
    profile: tuple[float, ...]  # requests/s by time of day, PROFILE_S each, from midnight UTC
    gain: float  # of the loss of the reactive rule in the back-test, the share that it saves

    def usual(self, now_s: float) -> float:
        """H: the rate of earlier days at the time one lead ahead, in requests/s."""
        at = int((now_s + self.lead_s) % DAY_S) // PROFILE_S
        return self.profile[min(at, len(self.profile) - 1)]

    def rate(self, fast: float, slow: float, now_s: float) -> float:
        """R: what the rate will not pass, one lead ahead, with its certainty. In requests/s."""
        rise = max(0.0, fast - slow)
        return self.alpha * fast + self.beta * self.usual(now_s) + self.gamma * rise


@dataclass(frozen=True, slots=True)
class NoForecast:
    because: str


@lru_cache(maxsize=64)
def deviations(certainty: float) -> float:
    """How far a normal number stays below with this certainty."""
    return NormalDist().inv_cdf(certainty)


def reactive_rate(rate: float, certainty: float, service_s: float | None) -> float:
    """What suffices if the rate stays as it is: chance alone is provided for. In requests/s."""
    if service_s is None or service_s <= 0:
        return rate
    return rate + deviations(certainty) * math.sqrt(rate / service_s)


def pinball(actual: float, forecast: float, certainty: float) -> float:
    """What a forecast of a quantile costs: too little weighs certainty, too much the rest."""
    missing = actual - forecast
    return certainty * missing if missing > 0 else (certainty - 1) * missing


def fit(
    counts: "Sequence[float] | NDArray[np.float64]",
    *,
    begins_s: float,
    lead_s: float,
    certainty: float,
    service_s: float | None = None,
) -> Forecast | NoForecast:
    """Learn from how many requests arrived in each BIN_S; NaN where nobody counted.

    On the last quarter of the days, which it was not taught, it must lose less than the reactive
    rule: else the answer is why not. Of history longer than MAX_DAYS the end counts.

    Args:
        counts: the oldest first.
        begins_s: when the first bin began, in seconds since 1970.
        lead_s: one cold start.
        service_s: how long a request holds a slot, where slots are what there is to provide.

    Cost: about half a second.
    """
    import numpy as np

    bins_a_day = DAY_S // BIN_S
    rates = np.asarray(counts, dtype=np.float64)[-MAX_DAYS * bins_a_day :] / BIN_S
    begins_s += (len(counts) - len(rates)) * BIN_S
    days = len(rates) / bins_a_day
    if days < LEAST_DAYS:
        return NoForecast(f"{days:.1f} days of history, of at least {LEAST_DAYS}")
    if not np.nansum(rates) > 0:
        return NoForecast("no traffic in its history")
    table = _Table.of(rates, begins_s=begins_s, lead_s=lead_s, service_s=service_s)
    held_out = max(bins_a_day, len(rates) // 4)
    split = len(rates) - held_out
    best: tuple[float, int, NDArray[np.float64]] | None = None
    for fast_s in FAST_S:
        # What it is taught must not reach into what it is tested with.
        rows, wanted = table.rows(fast_s, 0, split - table.reach, taught_until=split)
        if not len(rows):
            return NoForecast("its history has too many gaps")
        weights, loss = _least_loss(rows, wanted, certainty)
        if best is None or loss < best[0]:
            best = loss, fast_s, weights
    assert best is not None
    _, fast_s, weights = best
    rows, wanted = table.rows(fast_s, split, len(rates), taught_until=split)
    if not len(rows):
        return NoForecast("its history has too many gaps")
    loss = _loss(wanted, rows @ weights, certainty)
    now = rows[:, 0]
    chance = deviations(certainty) * np.sqrt(now / service_s) if service_s else 0.0
    reactive = _loss(wanted, now + chance, certainty)
    if not loss < reactive:
        return NoForecast("in back-test it did not beat scaling by the rate of now")
    rows, wanted = table.rows(fast_s, 0, len(rates), taught_until=len(rates))
    weights, _ = _least_loss(rows, wanted, certainty)
    alpha, beta, gamma = (float(weight) for weight in weights)
    return Forecast(
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        fast_s=fast_s,
        lead_s=lead_s,
        certainty=certainty,
        profile=tuple(float(rate) for rate in table.profile(len(rates))),
        gain=1 - loss / reactive,
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """What was known at each bin's beginning, beside what came one lead later."""

    rates: "NDArray[np.float64]"
    wanted: "NDArray[np.float64]"
    time_of_day: "NDArray[np.int64]"  # of each bin, in profile steps
    lead_bins: int
    reach: int  # bins from a row to the end of what was wanted of it

    @classmethod
    def of(
        cls,
        rates: "NDArray[np.float64]",
        *,
        begins_s: float,
        lead_s: float,
        service_s: float | None,
    ) -> "_Table":
        import numpy as np

        lead = max(1, round(lead_s / BIN_S))
        # Over about a service time the counts vary as the number in service does.
        width = min(max(1, round((service_s or 0.0) / BIN_S)), SLOW_S // BIN_S)
        wanted = np.full(len(rates), np.nan)
        ahead = _mean_before(rates, width)[lead + width :]
        wanted[: len(ahead)] = ahead
        if service_s and service_s < width * BIN_S:
            table = np.array([NormalDist().inv_cdf((i + 0.5) / 1024) for i in range(1024)])
            drawn = table[(np.arange(len(rates)) * GOLDEN % 1.0 * 1024).astype(int)]
            averaged_away = np.sqrt(wanted * (1 / service_s - 1 / (width * BIN_S)))
            wanted = np.maximum(0.0, wanted + drawn * averaged_away)
        seconds = begins_s + np.arange(len(rates)) * BIN_S
        return cls(
            rates, wanted, (seconds % DAY_S).astype(np.int64) // PROFILE_S, lead, lead + width
        )

    def rows(
        self, fast_s: int, first: int, last: int, *, taught_until: int
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """L, H and ΔL of the bins in [first, last), thinned out, and what was wanted.

        H of a day that taught the profile leaves that day out.
        """
        import numpy as np

        last = min(last, len(self.rates) - self.lead_bins)
        at = np.arange(first, last, max(1, (last - first) // MAX_ROWS))
        fast = _mean_before(self.rates, fast_s // BIN_S)[at]
        slow = _mean_before(self.rates, SLOW_S // BIN_S)[at]
        usual = self._usual(at, taught_until)
        rows = np.stack([fast, usual, np.maximum(0.0, fast - slow)], axis=1)
        wanted = self.wanted[at]
        whole = ~(np.isnan(rows).any(axis=1) | np.isnan(wanted))
        return rows[whole], wanted[whole]

    def profile(self, taught_until: int) -> "NDArray[np.float64]":
        import numpy as np

        sums, numbers = self._by_time(taught_until)
        return _smooth(np.nansum(sums, axis=0), np.sum(numbers, axis=0))

    def _usual(self, at: "NDArray[np.int64]", taught_until: int) -> "NDArray[np.float64]":
        import numpy as np

        sums, numbers = self._by_time(taught_until)
        day = at // (DAY_S // BIN_S)
        ahead = self.time_of_day[np.minimum(at + self.lead_bins, len(self.rates) - 1)]
        usual = np.empty(len(at))
        total, number = sums.sum(axis=0), numbers.sum(axis=0)
        for one in np.unique(day):
            own = (sums[one], numbers[one]) if one < len(sums) else (0.0, 0.0)
            usual[day == one] = _smooth(total - own[0], number - own[1])[ahead[day == one]]
        return usual

    def _by_time(self, taught_until: int) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Sums of rates and their numbers, by 24 hours of history and time of day."""
        import numpy as np

        rates = self.rates[:taught_until]
        days = -(-len(rates) * BIN_S // DAY_S)
        steps = DAY_S // PROFILE_S
        cell = np.arange(len(rates)) // (DAY_S // BIN_S) * steps + self.time_of_day[:taught_until]
        known = ~np.isnan(rates)
        sums = np.bincount(cell[known], rates[known], minlength=days * steps).astype(np.float64)
        numbers = np.bincount(cell[known], minlength=days * steps).astype(np.float64)
        return sums.reshape(days, steps), numbers.reshape(days, steps)


def _smooth(sums: "NDArray[np.float64]", numbers: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """The mean of each time of day and its neighbours; where there is none, that of all."""
    import numpy as np

    near = sum(np.roll(sums, shift) for shift in (-1, 0, 1))
    count = sum(np.roll(numbers, shift) for shift in (-1, 0, 1))
    overall = sums.sum() / max(1.0, numbers.sum())
    return np.where(count > 0, near / np.maximum(count, 1.0), overall)


def _mean_before(rates: "NDArray[np.float64]", width: int) -> "NDArray[np.float64]":
    """The mean of the `width` values before each; NaN where one of them is missing."""
    import numpy as np

    missing = np.isnan(rates)
    sums = np.concatenate([[0.0], np.cumsum(np.where(missing, 0.0, rates))])
    gaps = np.concatenate([[0], np.cumsum(missing)])
    means = np.full(len(rates) + 1, np.nan)
    whole = gaps[width:] == gaps[:-width]
    means[width:][whole] = (sums[width:] - sums[:-width])[whole] / width
    return means


def _loss(
    wanted: "NDArray[np.float64]", forecast: "NDArray[np.float64]", certainty: float
) -> float:
    import numpy as np

    missing = wanted - forecast
    return float(np.mean(np.maximum(certainty * missing, (certainty - 1) * missing)))


def _least_loss(
    rows: "NDArray[np.float64]", wanted: "NDArray[np.float64]", certainty: float
) -> "tuple[NDArray[np.float64], float]":
    """Weights ≥ 0 with the least loss: a convex function of three numbers, so steps that shrink
    find it, along each axis and along the ray through all."""
    import numpy as np

    width = rows.shape[1]
    weights = np.full(width, 1.0 / width)
    best = _loss(wanted, rows @ weights, certainty)
    step = 0.5
    while step > FINEST_STEP:
        moves = [step * sign * axis for axis in np.eye(width) for sign in (1.0, -1.0)]
        moves += [step * (one - other) for one, other in permutations(np.eye(width), 2)]
        found = False
        for move in [*moves, step * weights, -step / (1 + step) * weights]:
            tried = np.maximum(0.0, weights + move)
            loss = _loss(wanted, rows @ tried, certainty)
            if loss < best * (1 - 1e-9):
                weights, best, found = tried, loss, True
        if not found:
            step /= 2
    return weights, best
