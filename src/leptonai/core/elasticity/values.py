"""What an autoscaler is told: what was measured, what there is, and what is wanted."""

import math
from dataclasses import dataclass

DAY_S = 86_400
MAX_REPLICAS = 1_000  # of an endpoint for which nobody said


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What gateways and replicas counted in one window, all gateways added up.

    Only arrivals tell of what is to come. How many requests are in the system does not: it grows
    with every second that a replica is late, and who forecasts with it starts ever more of them.
    """

    window_s: float  # since the last decision
    arrivals: int = 0
    uncounted: int = 0  # arrivals that the target leaves out; they keep an endpoint awake
    ended: int = 0  # requests that were answered
    busy_s: float = (
        0.0  # time that slots were in use in this window, by whatever is not answered yet too
    )
    queued: int = 0  # now held by a gateway, or above the slots of the replica they were sent to
    in_flight: int = 0  # now being worked on
    slow: int = 0  # of those that were answered: took longer than the policy's latency
    gpu_utilisation: float | None = None  # 0–1, mean of the window and of all that are ready

    def __post_init__(self) -> None:
        assert 0 < self.window_s < math.inf, self
        assert min(self.arrivals, self.uncounted, self.ended, self.queued) >= 0, self
        assert min(self.in_flight, self.slow) >= 0, self
        assert 0 <= self.busy_s < math.inf, self
        assert self.gpu_utilisation is None or 0 <= self.gpu_utilisation <= 1, self


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The replicas of an endpoint, as of now; those that are draining do not count."""

    ready: int
    starting_ages_s: tuple[float, ...] = ()  # for how long each that is not ready has been starting
    slots: int = 1  # requests that a replica works on at once
    cold_start_s: float = 60.0  # from asking for a replica until it is ready, as a rule

    def __post_init__(self) -> None:
        assert self.ready >= 0, self
        assert self.slots >= 1, self
        assert 0 < self.cold_start_s < math.inf, self

    @property
    def replicas(self) -> int:
        return self.ready + len(self.starting_ages_s)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Each replica gets so many requests a minute (QPM)."""

    per_minute: float
    some: bool = False  # only of those that its user named by path or method

    def __post_init__(self) -> None:
        assert 0 < self.per_minute < math.inf, self


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Each replica's GPUs are busy for this share of the time."""

    share: float

    def __post_init__(self) -> None:
        assert 0 < self.share <= 1, self


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Each replica works on so many requests at once; on more only as the certainty allows."""

    per_replica: float

    def __post_init__(self) -> None:
        assert 0 < self.per_replica < math.inf, self


@dataclass(frozen=True, slots=True)
class Latency:
    """This share of the requests is answered within the limit, as in p95<200ms.

    How many requests a second a replica can take for that is learnt from what was measured.
    """

    share: float
    limit_s: float

    def __post_init__(self) -> None:
        assert 0 < self.share < 1, self
        assert 0 < self.limit_s < math.inf, self


Target = Throughput | Utilisation | Concurrency | Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Other bounds at some times of the week, in UTC: `Mon-Fri 08:00-18:00`."""

    days: frozenset[int]  # 0 is Monday; the day on which a window begins
    begins_s: int  # since midnight
    ends_s: int  # since midnight; at or before the beginning: on the next day
    min_replicas: int | None = None
    max_replicas: int | None = None

    def holds(self, now_s: float) -> bool:
        day, second = divmod(int(now_s), DAY_S)
        today = (day + 3) % 7  # 1970 began on a Thursday
        if self.begins_s < self.ends_s:
            return today in self.days and self.begins_s <= second < self.ends_s
        begun_today = today in self.days and second >= self.begins_s
        return begun_today or ((today - 1) % 7 in self.days and second < self.ends_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How an endpoint is to be scaled. An endpoint that a user stopped has none."""

    target: Target | None = None  # None: min_replicas, or none at all while there is no traffic
    min_replicas: int = 1
    max_replicas: int = MAX_REPLICAS
    certainty: float = 0.99  # the quantile that is forecast: the share of time in which it suffices
    idle_timeout_s: float = 0.0  # no traffic for so long: no replicas; 0: never
    not_ready_timeout_s: float = 0.0  # none of them ready for so long: no replicas; 0: never
    hold_s: float | None = None  # no fewer than were needed in so long; None: one cold start
    max_up_per_minute: int | None = None  # replicas
    max_down_per_minute: int | None = None
    max_cost_per_hour: float | None = None
    cost_per_replica_hour: float = 0.0
    schedules: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        assert 1 <= self.min_replicas <= self.max_replicas, self
        assert 0.5 <= self.certainty < 1, self
        assert 0 <= self.idle_timeout_s < math.inf, self
        assert 0 <= self.not_ready_timeout_s < math.inf, self
        assert self.hold_s is None or 0 <= self.hold_s < math.inf, self
        assert all(rate is None or rate >= 1 for rate in self._rates), self
        assert self.cost_per_replica_hour >= 0, self
        assert self.max_cost_per_hour is None or self.max_cost_per_hour >= 0, self

    @property
    def _rates(self) -> tuple[int | None, int | None]:
        return self.max_up_per_minute, self.max_down_per_minute
