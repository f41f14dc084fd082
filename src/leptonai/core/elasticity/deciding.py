"""The decision: from what was measured to how many replicas there should be, and why.

What counts is the load one cold start ahead: whoever asks for a replica now gets it then. What was
needed within the last cold start is not stopped, so a step of the load turns the number around once
at most in each. Requests that wait do not count as load; what will still wait is worked out ahead
with the replicas that are on their way, and only that is provided for.
"""

import math

from msgspec import Struct
from msgspec.structs import replace

from leptonai.core.elasticity.forecast import SLOW_S, Forecast, reactive_rate
from leptonai.core.elasticity.measuring import (
    REACTIVE_S,
    State,
    capacity,
    judge,
    learn,
)
from leptonai.core.elasticity.values import (
    Concurrency,
    Demand,
    Fleet,
    Latency,
    Policy,
    Schedule,
    Utilisation,
)

DRAIN_SHARE = 0.25  # of a cold start: in this time a queue is to be gone, once replicas are there
MINUTE_S = 60.0


class Scale(Struct, frozen=True):
    """How many replicas there should be now, starting ones included."""

    desired: int
    reason: str  # a sentence for people
    predictive: bool = False  # the forecast had its say
    asleep: bool = False  # zero for want of traffic: the next request wakes it


def decide(
    policy: Policy,
    state: State,
    demand: Demand,
    fleet: Fleet,
    now_s: float,
    forecast: Forecast | None = None,
) -> tuple[Scale, State]:
    """Decide for one endpoint, every second or so. Equal arguments give equal answers.

    Args:
        state: NEW at first, then what came back the last time.
        demand: of the window since then.
        now_s: seconds since 1970; never earlier than the last time.
        forecast: of `fit`, for this policy's certainty; None: by the rate of now alone.

    Cost: about 50 µs.
    """
    state = learn(state, policy, demand, fleet, now_s)
    service_s = state.service_s if isinstance(policy.target, Concurrency) else None
    state = judge(state, forecast, service_s)
    least, most, limits = _bounds(policy, fleet, now_s)
    if _is_idle(policy, state, demand, now_s) and not _scheduled(policy, fleet, now_s):
        quiet_s = now_s - (state.traffic_s or 0.0)
        reason = f"no request for {_span(quiet_s)}: none until the next one"
        state = replace(state, asleep=True, needed=(), wanted=((now_s, 0),))
        return Scale(0, reason, asleep=True), state
    needed, reason, predictive = _needed(policy, state, demand, fleet, now_s, forecast)
    needed = max(needed, 1)
    if not state.wanted:  # the first look: what there is was somebody's decision
        state = replace(state, needed=((now_s, fleet.replicas),))
    hold_s = fleet.cold_start_s if policy.hold_s is None else policy.hold_s
    held, state = _hold(state, needed, now_s, hold_s)
    if held > needed:
        reason += f"; {held} were needed within the last {_span(hold_s)}"
    paced, state = _pace(policy, state, fleet, min(max(held, least), most), now_s)
    desired = min(max(paced, least), most)
    if desired != held:
        reason += f"; {desired} {limits if desired in (least, most) else 'as fast as allowed'}"
    state = replace(state, asleep=False, wanted=_noted(state.wanted, now_s, desired))
    return Scale(desired, reason, predictive=predictive), state


def _needed(
    policy: Policy,
    state: State,
    demand: Demand,
    fleet: Fleet,
    now_s: float,
    forecast: Forecast | None,
) -> tuple[int, str, bool]:
    """Replicas, why, and whether a forecast said so."""
    if policy.target is None:
        reason = f"{policy.min_replicas} while there are requests"
        if policy.max_replicas > policy.min_replicas and not policy.schedules:
            reason += f"; without a target nothing asks for the {policy.max_replicas} it may have"
        return policy.min_replicas, reason, False
    each = capacity(state, policy)
    now_rate = state.rate(REACTIVE_S)
    if not each:
        there = demand.in_flight + demand.queued
        if not there:
            return 1, "no request was measured yet", False
        slots = policy.target.per_replica if isinstance(policy.target, Concurrency) else fleet.slots
        # Not what there is: a roll-out adds the replicas of the other version.
        wanted = state.wanted[-1][1] if state.wanted else fleet.replicas
        needed = max(math.ceil(there / slots), min(wanted, policy.max_replicas))
        there_words = f"{there} requests are" if there != 1 else "1 request is"
        return needed, f"{there_words} there, and what one takes is not known yet", False
    service_s = state.service_s if isinstance(policy.target, Concurrency) else None
    rate = reactive_rate(now_rate, policy.certainty, service_s)
    predictive = forecast is not None and not state.given_up
    if predictive:
        assert forecast is not None
        rate = forecast.rate(state.rate(forecast.fast_s), state.rate(SLOW_S), now_s)
    reason = _words(policy, state, fleet, now_rate, rate, predictive)
    backlog = _backlog(state, demand, fleet, now_rate, each)
    if backlog > 0:
        drained = now_rate + backlog / (DRAIN_SHARE * fleet.cold_start_s)
        if drained > rate:
            rate = drained
            reason += f"; {math.ceil(backlog)} will still wait in {_span(fleet.cold_start_s)}"
    # An exact multiple is not rounded up for the last bit of a division.
    needed = math.ceil(round(rate / each, 9))
    return needed, f"{reason}: {needed} replica{'s' * (needed != 1)}", predictive


def _backlog(state: State, demand: Demand, fleet: Fleet, rate: float, each: float) -> float:
    """Requests that will wait one cold start from now, if nothing is started in addition."""
    if not demand.queued:
        return 0.0
    service_s = state.service_s
    each = fleet.slots / service_s if service_s else each
    waiting, serving, at = float(demand.queued), fleet.ready, 0.0
    for age_s in sorted(fleet.starting_ages_s, reverse=True):
        there_s = min(max(0.0, fleet.cold_start_s - age_s), fleet.cold_start_s)
        waiting = max(0.0, waiting + (rate - serving * each) * (there_s - at))
        serving, at = serving + 1, there_s
    return max(0.0, waiting + (rate - serving * each) * (fleet.cold_start_s - at))


def _hold(state: State, needed: int, now_s: float, hold_s: float) -> tuple[int, State]:
    """The most that was needed in the last hold_s; kept as a falling sequence, so it is short."""
    kept = tuple(one for one in state.needed if one[1] > needed and one[0] > now_s - hold_s)
    kept = (*kept, (now_s, needed))
    return kept[0][1], replace(state, needed=kept)


def _pace(
    policy: Policy, state: State, fleet: Fleet, desired: int, now_s: float
) -> tuple[int, State]:
    """No faster than so many replicas a minute."""
    wanted = state.wanted or ((now_s, fleet.replicas),)
    # The last one that began before this minute still held in it.
    first = max((at for at, one in enumerate(wanted) if one[0] <= now_s - MINUTE_S), default=0)
    wanted = wanted[first:]
    numbers = [number for _, number in wanted]
    if policy.max_up_per_minute is not None:
        desired = min(desired, min(numbers) + policy.max_up_per_minute)
    if policy.max_down_per_minute is not None:
        desired = max(desired, max(numbers) - policy.max_down_per_minute)
    return desired, replace(state, wanted=wanted)


def _noted(
    wanted: tuple[tuple[float, int], ...], now_s: float, desired: int
) -> tuple[tuple[float, int], ...]:
    return wanted if wanted and wanted[-1][1] == desired else (*wanted, (now_s, desired))


def _bounds(policy: Policy, fleet: Fleet, now_s: float) -> tuple[int, int, str]:
    """The least and the most, and what makes them so. What may be paid goes before all else."""
    least, most, why = policy.min_replicas, policy.max_replicas, "by the bounds of its policy"
    for schedule in _schedules(policy, fleet, now_s):
        least = schedule.min_replicas or least
        most = schedule.max_replicas or max(most, least)
        why = "by its schedule"
    if policy.max_cost_per_hour is not None and policy.cost_per_replica_hour:
        ratio = policy.max_cost_per_hour / policy.cost_per_replica_hour
        paid = math.floor(min(ratio, most) + 1e-9)
        if paid < most:
            most, why = paid, f"is all that {policy.max_cost_per_hour:g} an hour pays for"
    return min(least, most), most, why


def _schedules(policy: Policy, fleet: Fleet, now_s: float) -> list[Schedule]:
    """Those that hold now, or will when a replica that is asked for now is ready."""
    return [
        schedule
        for schedule in policy.schedules
        if schedule.holds(now_s)
        or (schedule.min_replicas and schedule.holds(now_s + fleet.cold_start_s))
    ]


def _scheduled(policy: Policy, fleet: Fleet, now_s: float) -> bool:
    return any(one.min_replicas for one in _schedules(policy, fleet, now_s))


def _is_idle(policy: Policy, state: State, demand: Demand, now_s: float) -> bool:
    if not policy.idle_timeout_s:
        return False
    if demand.arrivals or demand.uncounted or demand.queued or demand.in_flight:
        return False
    assert state.traffic_s is not None
    return state.asleep or now_s - state.traffic_s >= policy.idle_timeout_s


def _words(
    policy: Policy, state: State, fleet: Fleet, now_rate: float, rate: float, predictive: bool
) -> str:
    ahead = f"in {_span(fleet.cold_start_s)} " if predictive else ""
    certain = f"at most {rate:.3g}/s {ahead}with {100 * policy.certainty:g} % certainty"
    match policy.target:
        case Concurrency(per_replica):
            service_s = state.service_s or 0.0
            load = f"{now_rate:.3g} requests/s × {service_s:.2g} s"
            text = f"{load} = {now_rate * service_s:.1f} busy slots"
            return f"{text}, {certain} = {rate * service_s:.1f}, {per_replica:g} a replica"
        case Utilisation(share):
            gpu_s = state.gpu.value or 0.0
            load = f"{now_rate:.3g} requests/s × {gpu_s:.2g} s"
            text = f"{load} = {now_rate * gpu_s:.1f} busy replicas"
            text += f", to be busy {100 * share:g} % of the time"
        case Latency(share, limit_s):
            each = capacity(state, policy) or 0.0
            text = f"{now_rate:.3g} requests/s; a replica takes {each:.3g}/s with "
            text += f"p{100 * share:g} below {_span(limit_s)}"
        case _:
            each = capacity(state, policy) or 0.0
            text = f"{60 * now_rate:.3g} requests a minute, {60 * each:g} a replica"
    return f"{text}, {certain}" if predictive else text


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{1_000 * seconds:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
