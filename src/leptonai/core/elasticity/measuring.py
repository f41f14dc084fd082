"""What an autoscaler remembers between two decisions, and how it grows with what was measured."""

import math

from msgspec import Struct
from msgspec.structs import replace

from leptonai.core.elasticity.forecast import SLOW_S, Forecast, pinball, reactive_rate
from leptonai.core.elasticity.values import Concurrency, Demand, Fleet, Latency, Policy, Utilisation

STEP_S = 5  # recent arrivals are kept in steps of this length
REACTIVE_S = 20  # the rate of now, where no forecast says over what time to take it
MEMORY_REQUESTS = 1_000.0  # that a mean service time is of
MAX_PENDING = 32  # forecasts whose time has not come
ERROR_MEMORY = 2_000.0  # forecasts that an error is the mean of: some hours, for rare rises count
LEAST_ERRORS = 180  # before a forecast is given up
GIVEN_UP_AT, TAKEN_BACK_AT = 1.2, 1.0  # times the loss of the reactive rule
LEVELS_A_DOUBLING = 4  # of requests/s a replica, for which latency is remembered
FIRST_LEVEL_PER_S = 2.0**-10
MAX_LEVELS = 100
FULL = 0.95  # GPUs that are busy for so much of a window could do no more in it
MEMORY_LATENCY = 2_000.0  # requests that a level's share of slow ones is of
LEAST_KNOWN = 20.0  # requests from which on a mean is believed
PROBE = 1.25  # a replica may get so much more than was ever seen to go well


class Mean(Struct, frozen=True, kw_only=True):
    """Of the last so many of something, roughly: old ones fade."""

    weight: float = 0.0
    total: float = 0.0

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight > 0 else None

    def with_(self, weight: float, total: float, *, memory: float) -> "Mean":
        kept = max(0.0, 1 - weight / memory)
        return Mean(weight=self.weight * kept + weight, total=self.total * kept + total)


class Pending(Struct, frozen=True, array_like=True):
    """What was forecast for a time to come, to be compared with what comes. In requests/s."""

    due_s: float
    forecast: float
    reactive: float


class State(Struct, frozen=True, kw_only=True):
    """All of it is plain data, of at most a few kB."""

    at_s: float | None = None  # of the last decision
    step_s: float = 0.0  # the step that counts now: its length as yet
    step_arrivals: int = 0
    recent: tuple[tuple[float, int], ...] = ()  # (seconds, arrivals), the oldest first
    traffic_s: float | None = None  # when there was a request last
    asleep: bool = False  # at zero for want of traffic: not what a user's stop is
    service: Mean = Mean()  # seconds a request
    gpu: Mean = Mean()  # seconds of one replica's GPUs a request
    levels: tuple[Mean, ...] = ()  # the share of slow requests, by requests/s a replica
    pending: tuple[Pending, ...] = ()
    loss: Mean = Mean()
    reactive_loss: Mean = Mean()
    judged: tuple[float, float, float] | None = None  # the forecast that these losses are of
    given_up: bool = False  # the forecast errs more than the reactive rule does
    needed: tuple[tuple[float, int], ...] = ()  # (when, replicas) that are still held
    wanted: tuple[tuple[float, int], ...] = ()  # (since when, replicas) in the last minute

    @property
    def service_s(self) -> float | None:
        """How long a request holds a slot, on average; None: not known yet."""
        return self.service.value if self.service.weight >= LEAST_KNOWN else None

    def rate(self, over_s: float) -> float:
        """Requests/s in the last so many seconds, or as many of them as were measured."""
        seconds, arrivals = self.step_s, self.step_arrivals
        for length, number in reversed(self.recent):
            if seconds and seconds + length > over_s:
                break
            seconds += length
            arrivals += number
        return arrivals / seconds if seconds else 0.0


NEW = State()


def learn(state: State, policy: Policy, demand: Demand, fleet: Fleet, now_s: float) -> State:
    """With one more window."""
    step_s, arrivals = state.step_s + demand.window_s, state.step_arrivals + demand.arrivals
    recent = state.recent
    if state.at_s is not None and now_s - state.at_s > demand.window_s + SLOW_S:
        recent, step_s, arrivals = (), demand.window_s, demand.arrivals  # nobody has looked
    if step_s >= STEP_S:
        recent = (*recent[-(SLOW_S // STEP_S - 1) :], (step_s, arrivals))
        step_s, arrivals = 0.0, 0
    traffic = demand.arrivals or demand.uncounted or demand.queued or demand.in_flight
    state = replace(
        state,
        at_s=now_s,
        step_s=step_s,
        step_arrivals=arrivals,
        recent=recent,
        traffic_s=now_s if traffic or state.traffic_s is None else state.traffic_s,
    )
    # What the slots were in use for, by how many were answered: the mean of those answered as yet
    # would be that of the short ones.
    service = state.service.with_(demand.ended, demand.busy_s, memory=MEMORY_REQUESTS)
    state = replace(state, service=service)
    if (
        isinstance(policy.target, Utilisation)
        and demand.gpu_utilisation is not None
        and traffic
        and not _overloaded(demand, fleet)
    ):
        gpu_s = demand.gpu_utilisation * fleet.ready * demand.window_s
        gpu = state.gpu.with_(demand.ended, gpu_s, memory=MEMORY_REQUESTS)
        state = replace(state, gpu=gpu)
    if isinstance(policy.target, Latency) and demand.ended and fleet.ready:
        state = replace(state, levels=_learn_latency(state, demand, fleet))
    return state


def capacity(state: State, policy: Policy) -> float | None:
    """Requests/s that one replica is to get; None: nothing is known as yet."""
    match policy.target:
        case Concurrency(per_replica):
            service_s = state.service_s
            return per_replica / service_s if service_s else None
        case Utilisation(share):
            gpu_s = state.gpu.value if state.gpu.weight >= LEAST_KNOWN else None
            return share / gpu_s if gpu_s else None
        case Latency(share, _):
            return _capacity_for_latency(state.levels, 1 - share)
        case None:
            return None
        case throughput:
            return throughput.per_minute / 60


def judge(state: State, forecast: Forecast | None, service_s: float | None) -> State:
    """Compare what was forecast for now with what came, and note what is forecast now."""
    if forecast is None:
        return state if state.judged is None else replace(state, judged=None)
    weights = forecast.alpha, forecast.beta, forecast.gamma
    if state.judged != weights:  # another one, which has not erred as yet
        state = replace(
            state, judged=weights, pending=(), loss=Mean(), reactive_loss=Mean(), given_up=False
        )
    assert state.at_s is not None
    now_s = state.at_s
    pending, loss, reactive = state.pending, state.loss, state.reactive_loss
    came = state.rate(2 * STEP_S)
    while pending and pending[0].due_s <= now_s:
        due, *_ = pending
        pending = pending[1:]
        lost = pinball(came, due.forecast, forecast.certainty)
        lost_reactive = pinball(came, due.reactive, forecast.certainty)
        loss = loss.with_(1.0, lost, memory=ERROR_MEMORY)
        reactive = reactive.with_(1.0, lost_reactive, memory=ERROR_MEMORY)
    given_up = state.given_up
    if loss.weight >= LEAST_ERRORS:
        allowed = TAKEN_BACK_AT if given_up else GIVEN_UP_AT
        given_up = loss.total > allowed * reactive.total
    apart_s = max(2.0 * STEP_S, forecast.lead_s / MAX_PENDING)
    if not pending or now_s + forecast.lead_s - pending[-1].due_s >= apart_s:
        expected = forecast.rate(state.rate(forecast.fast_s), state.rate(SLOW_S), now_s)
        unchanged = reactive_rate(state.rate(REACTIVE_S), forecast.certainty, service_s)
        pending = (*pending, Pending(now_s + forecast.lead_s, expected, unchanged))
    return replace(state, pending=pending, loss=loss, reactive_loss=reactive, given_up=given_up)


def _overloaded(demand: Demand, fleet: Fleet) -> bool:
    """Whether GPUs did all they can while there was more to do: then their time is all there was,
    and not what the requests would have taken."""
    full = demand.gpu_utilisation is not None and demand.gpu_utilisation >= FULL
    return full and demand.in_flight + demand.queued > fleet.ready * fleet.slots


def _learn_latency(state: State, demand: Demand, fleet: Fleet) -> tuple[Mean, ...]:
    """What was slow belongs to the load of its own window; while a queue is worked off, to none."""
    if demand.queued and demand.arrivals < demand.ended:
        return state.levels
    each = max(demand.arrivals, demand.ended) / demand.window_s / fleet.ready
    at = 0
    if each > FIRST_LEVEL_PER_S:
        at = round(LEVELS_A_DOUBLING * math.log2(each / FIRST_LEVEL_PER_S))
    at = min(at, MAX_LEVELS - 1)
    levels = [*state.levels, *[Mean()] * (at + 1 - len(state.levels))]
    slow = float(min(demand.slow, demand.ended))
    levels[at] = levels[at].with_(demand.ended, slow, memory=MEMORY_LATENCY)
    return tuple(levels)


def _capacity_for_latency(levels: tuple[Mean, ...], allowed: float) -> float | None:
    """The most requests/s a replica at which no more than the allowed share was slow.

    More load is never taken to be faster: levels that say so are pooled (isotonic regression by
    pool-adjacent-violators). A bit more than what went well is tried, but not what did not; where
    all that was tried is slow, a bit less.
    """
    pools: list[tuple[int, int, Mean]] = []  # (first level, last level, slow ones)
    for at, level in enumerate(levels):
        if level.weight < LEAST_KNOWN:
            continue
        first, pooled = at, level
        while pools and _share(pools[-1][2]) >= _share(pooled):
            first, _, before = pools.pop()
            pooled = Mean(weight=pooled.weight + before.weight, total=pooled.total + before.total)
        pools.append((first, at, pooled))
    if not pools:
        return None
    well = [last for _, last, pool in pools if _share(pool) <= allowed]
    if not well:
        return _level_rate(pools[0][0]) / PROBE
    more = _level_rate(well[-1]) * PROBE
    if len(well) == len(pools):
        return more
    too_much = _level_rate(pools[len(well)][0] - 1)
    return max(_level_rate(well[-1]), min(more, too_much))


def _share(mean: Mean) -> float:
    return mean.total / mean.weight


def _level_rate(at: int) -> float:
    return float(FIRST_LEVEL_PER_S * 2.0 ** (at / LEVELS_A_DOUBLING))
