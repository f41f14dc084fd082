"""An endpoint's autoscaler: from what gateways told and what runs to a decision that is kept.

`core.elasticity` decides by rates and times; here they are made of traffic windows and replicas,
and what it came to is made a record's.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from leptonai.core.elasticity import (
    Concurrency,
    Demand,
    Fleet,
    Forecast,
    Latency,
    NoForecast,
    Policy,
    Scale,
    Throughput,
    Utilisation,
)
from leptonai.core.elasticity import decide as decide_number
from leptonai.core.elasticity.measuring import STEP_S, State, capacity, learn
from leptonai.core.elasticity.policy import policy_of
from leptonai.core.records import Autoscaling, Endpoint, Goal, Phase, Replica
from leptonai.core.rollouts.progress import has_requests
from leptonai.core.traffic import REPORT_MS, SERVICE_BOUNDS_MS, TrafficWindow
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import EndpointSpec

MEASURED_STARTS = 5  # the cold start is the median of so many
UNMEASURED_START_S = 30.0
LEAST_COLD_START_S = 1.0  # so that a start in no time does not make a backlog look like any rate
LEAST_COOL_DOWN_S = 30.0  # nor the number follow every whim of the arrivals
SILENCE_S = 1.5 * REPORT_MS / 1000  # after the last report: a request under way makes another one
NOT_READY_TIMEOUT_S = 600  # one that is not ready for so long is not waited for by the idle timeout
SCHEDULE_LOOK_MS = 60_000
STEP_MS = 1000 * STEP_S


@dataclass(frozen=True, slots=True)
class Look:
    autoscaling: Autoscaling
    again_ms: int | None  # when to look again, if nobody calls before


def look(
    endpoint: Endpoint,
    replicas: Iterable[Replica],
    windows: Sequence[TrafficWindow],
    held: int,
    before: Autoscaling | None,
    now_ms: int,
    *,
    forecast: Forecast | NoForecast | None = None,
    gpu_use: float | None = None,
) -> Look | None:
    """Decide afresh; None where the number is its user's alone.

    Args:
        replicas: the endpoint's.
        windows: all that were told since the last look, each once.
        held: requests that gateways hold for want of a replica.
        before: what the last look came to, of this control plane or of another.
        forecast: what was learnt of its traffic, or why nothing was; None: nobody tried as yet.
        gpu_use: the share of the time that the GPUs of its ready replicas are busy, on average;
            None: nobody can tell.
    """
    policy = policy_kept(endpoint.spec)
    if policy is None:
        return None
    staying = [
        r
        for r in replicas
        if r.goal is Goal.RUN and r.phase is not Phase.DONE and has_requests(endpoint, r)
    ]
    before = _with_starts(before or Autoscaling(desired=endpoint.wanted, since_ms=now_ms), staying)
    before = replace(before, unready_since_ms=_unready_since_ms(before, staying, now_ms))
    fleet = _fleet(policy, before, staying, now_ms)
    asked_s = policy.idle_timeout_s
    policy, aside = _measurable(policy, fleet, gpu_use)
    windows = [window for window in windows if not window.shadow]
    state, since_s = _caught_up(policy, before, fleet, windows, now_ms)
    window_s = max(0.001, now_ms / 1000 - since_s)
    demand = _demand(policy, fleet, windows, held, window_s, gpu_use)
    state = _awake_while_starting(state, fleet, staying, now_ms)
    learnt = forecast if isinstance(forecast, Forecast) and policy.target else None
    scale, state = decide_number(policy, state, demand, fleet, now_ms / 1000, learnt)
    because = _asleep_words(asked_s) if scale.asleep else scale.reason + aside
    if _gave_up(policy, before, demand, now_ms):
        because = _gave_up_words(policy.not_ready_timeout_s)
        scale = Scale(0, because, asleep=True)
        state = replace(state, asleep=True, needed=(), wanted=((now_ms / 1000, 0),))
    after = replace(
        before,
        desired=scale.desired,
        because=because,
        since_ms=before.since_ms if scale.desired == before.desired else now_ms,
        decided_at_ms=now_ms,
        state=state,
        forecast="" if forecast is None else _forecast_words(forecast, state),
        predictive=learnt is not None and not state.given_up,
    )
    return Look(after, _again_ms(policy, after, demand, now_ms))


def lead_s(kept: Autoscaling) -> float:
    """How far ahead is to be looked: the endpoint's usual start."""
    return max(LEAST_COLD_START_S, kept.usual_start_ms / 1000 or UNMEASURED_START_S)


def policy_kept(spec: EndpointSpec) -> Policy | None:
    """Of a spec that was accepted, perhaps by an earlier version: None too where it makes none."""
    try:
        return policy_of(spec)
    except InvalidRequest:
        return None


def resumed(kept: Autoscaling, now_ms: int) -> Autoscaling:
    """What another control plane came to. What was called last meanwhile is not known, so an
    endpoint is idle from now on only."""
    state = kept.state
    if state.asleep or state.traffic_s is None or state.traffic_s >= now_ms / 1000:
        return kept
    return replace(kept, state=replace(state, traffic_s=now_ms / 1000))


def _measurable(policy: Policy, fleet: Fleet, gpu_use: float | None) -> tuple[Policy, str]:
    """What can be done of it with what is measured, and what that leaves out."""
    hold_s = policy.hold_s
    if hold_s is None:
        hold_s = max(LEAST_COOL_DOWN_S, fleet.cold_start_s)
    idle_s = policy.idle_timeout_s and policy.idle_timeout_s + SILENCE_S
    policy = dataclasses.replace(policy, hold_s=hold_s, idle_timeout_s=idle_s)
    if isinstance(policy.target, Utilisation) and fleet.ready and gpu_use is None:
        aside = "; it has no GPU whose use is measured, so the target for that changes nothing"
        return dataclasses.replace(policy, target=None), aside
    return policy, ""


def _with_starts(before: Autoscaling, staying: Sequence[Replica]) -> Autoscaling:
    """With the starts that ended since: from asked for to ready."""
    ended = sorted(
        (r.ready_at_ms, r.ready_at_ms - r.created_at_ms)
        for r in staying
        if r.ready_at_ms is not None and r.attempt == 0 and r.ready_at_ms > before.last_start_ms
    )
    if not ended:
        return before
    starts = (*before.starts_ms, *(took_ms for _, took_ms in ended))
    return replace(before, starts_ms=starts[-MEASURED_STARTS:], last_start_ms=ended[-1][0])


def _fleet(policy: Policy, before: Autoscaling, staying: Sequence[Replica], now_ms: int) -> Fleet:
    slots = 1
    each, service_s = capacity(before.state, policy), before.state.service_s
    if isinstance(policy.target, Concurrency):
        slots = math.ceil(policy.target.per_replica)
    elif each and service_s:
        slots = max(1, math.ceil(each * service_s))  # Little's law
    starting = [r for r in staying if not r.ready]
    return Fleet(
        ready=len(staying) - len(starting),
        starting_ages_s=tuple(
            sorted((max(0, now_ms - r.created_at_ms) / 1000 for r in starting), reverse=True)
        ),
        slots=slots,
        cold_start_s=lead_s(before),
    )


def _caught_up(
    policy: Policy,
    before: Autoscaling,
    fleet: Fleet,
    windows: Sequence[TrafficWindow],
    now_ms: int,
) -> tuple[State, float]:
    """The state when the windows begin, and when that is: nobody looks while nothing happens, and
    what comes then is not to be spread over the silence."""
    state = before.state
    begins_s = min((window.start_ms for window in windows), default=now_ms) / 1000
    if state.at_s is None:
        return state, min(begins_s, now_ms / 1000 - 1)
    quiet_s = begins_s - state.at_s
    if quiet_s <= STEP_S or not windows:
        return state, state.at_s
    return learn(state, policy, Demand(window_s=quiet_s), fleet, begins_s), begins_s


def _demand(
    policy: Policy,
    fleet: Fleet,
    windows: Sequence[TrafficWindow],
    held: int,
    window_s: float,
    gpu_use: float | None,
) -> Demand:
    ended = sum(window.served for window in windows)
    busy_s = sum(window.in_flight_ms for window in windows) / 1000
    begins_ms = min((window.start_ms for window in windows), default=0)
    span_ms = max((window.end_ms for window in windows), default=0) - begins_ms
    at_once = 1000 * busy_s / max(1, span_ms)
    in_flight, waiting = math.ceil(at_once), 0
    if isinstance(policy.target, Concurrency):
        slots = fleet.slots * fleet.ready
        waiting = max(0, in_flight - slots)
        if at_once > slots > 0:  # so much of their time in a replica they wait for a slot there
            busy_s *= slots / at_once
    slow = 0
    if isinstance(policy.target, Latency):
        slow = round(sum(_slower(window.service_ms, policy.target.limit_s) for window in windows))
    came = arrivals = sum(window.arrivals for window in windows)
    if isinstance(policy.target, Throughput) and policy.target.some:
        arrivals = sum(window.matching for window in windows)
    return Demand(
        window_s=window_s,
        arrivals=arrivals,
        uncounted=max(0, came - arrivals),
        ended=ended,
        busy_s=busy_s,
        queued=held + waiting,
        in_flight=in_flight - waiting,
        slow=min(slow, ended),
        gpu_utilisation=gpu_use,
    )


def _slower(service_ms: tuple[int, ...], limit_s: float) -> float:
    """How many requests took longer, straight within the bucket that the limit lies in."""
    limit_ms, low_ms, slower = 1000 * limit_s, 0.0, 0.0
    for count, high_ms in zip(service_ms, (*SERVICE_BOUNDS_MS, math.inf), strict=False):
        if low_ms >= limit_ms:
            slower += count
        elif high_ms > limit_ms and high_ms < math.inf:
            slower += count * (high_ms - limit_ms) / (high_ms - low_ms)
        low_ms = high_ms
    return slower


def _awake_while_starting(
    state: State, fleet: Fleet, staying: Sequence[Replica], now_ms: int
) -> State:
    """One that nobody could call yet is not idle, unless it does not get ready at all."""
    since_s = max((r.ready_at_ms or 0 for r in staying), default=0) / 1000
    ages_s = fleet.starting_ages_s
    if not fleet.ready and ages_s and ages_s[0] < NOT_READY_TIMEOUT_S:
        since_s = now_ms / 1000
    if state.asleep or since_s <= (state.traffic_s or 0.0):
        return state
    return replace(state, traffic_s=since_s)


def _unready_since_ms(before: Autoscaling, staying: Sequence[Replica], now_ms: int) -> int:
    if not staying or any(r.ready for r in staying):
        return 0
    if before.unready_since_ms:
        return before.unready_since_ms
    oldest_ms = min(r.created_at_ms for r in staying)
    # Where it was looked at since then, one of them was ready until now.
    return now_ms if before.decided_at_ms >= oldest_ms else oldest_ms


def _gave_up(policy: Policy, before: Autoscaling, demand: Demand, now_ms: int) -> bool:
    """Whether its replicas do not get ready, so that they only cost: until the next request."""
    if not policy.not_ready_timeout_s:
        return False
    if before.unready_since_ms:
        return now_ms - before.unready_since_ms >= 1000 * policy.not_ready_timeout_s
    wanted = demand.arrivals or demand.uncounted or demand.queued
    return before.state.asleep and not wanted


def _gave_up_words(timeout_s: float) -> str:
    return f"scaled to 0: no replica was ready for {timeout_s:g} s; the next request tries again"


def _forecast_words(forecast: Forecast | NoForecast, state: State) -> str:
    if isinstance(forecast, NoForecast):
        return f"by the rate of now alone: {forecast.because}"
    if state.given_up:
        return "by the rate of now alone: the forecast errs more than that rate does of late"
    return (
        f"by a forecast {forecast.lead_s:.3g} s ahead: in back-test it lost"
        f" {100 * forecast.gain:.0f} % less than the rate of now"
    )


def _asleep_words(idle_s: float) -> str:
    return f"scaled to 0: no request for {idle_s:g} s; the next request wakes it"


def _again_ms(policy: Policy, after: Autoscaling, demand: Demand, now_ms: int) -> int | None:
    state = after.state
    times = [now_ms + SCHEDULE_LOOK_MS] if policy.schedules else []
    if not state.asleep:
        lively = state.step_arrivals or any(arrivals for _, arrivals in state.recent)
        if lively or demand.queued or demand.in_flight or after.desired > policy.min_replicas:
            times.append(now_ms + STEP_MS)
        if policy.idle_timeout_s and state.traffic_s is not None:
            idle_ms = math.ceil(1000 * (state.traffic_s + policy.idle_timeout_s))
            times.append(max(idle_ms, now_ms + 1))
    if policy.not_ready_timeout_s and after.unready_since_ms and after.desired:
        due_ms = after.unready_since_ms + math.ceil(1000 * policy.not_ready_timeout_s)
        times.append(max(due_ms, now_ms + 1))
    return min(times, default=None)
