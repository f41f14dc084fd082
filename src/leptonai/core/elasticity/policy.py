"""A policy from what people ask: the endpoint's spec, `p95<200ms`, `Mon-Fri 08:00-18:00`."""

import re

from leptonai.core.elasticity.values import (
    DAY_S,
    MAX_REPLICAS,
    Concurrency,
    Latency,
    Policy,
    Schedule,
    Target,
    Throughput,
    Utilisation,
)
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import AutoScaler, EndpointSpec, ScalingSchedule

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
UNITS_S = {"ms": 1e-3, "s": 1.0}
MAX_CHARS = 100  # of a latency or of the times of a schedule
MAX_LATENCY_S = DAY_S
LEAST_TARGET = 1e-3  # requests a minute, or at once: less is no load that one could divide by


def policy_of(spec: EndpointSpec) -> Policy | None:
    """What an endpoint's spec asks for, or None where nothing is to be scaled.

    No replicas asked for is a stop by its user: traffic does not wake it, and nothing scales it.
    On the wire 0 is off.

    Raises:
        InvalidRequest: it has more than one target, or one that cannot be read, or its cost does;
            or it has room for more replicas, and nothing that would ever ask for them.
    """
    needs, scaler = spec.resource_requirement, spec.auto_scaler
    least = spec.replicas
    if least == 0:
        return None
    target = None if scaler is None else _target(scaler)
    moved = target is not None or (scaler is not None and (scaler.schedules or scaler.scale_down))
    if needs.max_replicas is not None and needs.max_replicas > least and not moved:
        raise InvalidRequest(
            f"spec.resource_requirement.max_replicas: nothing would ever make the {least}"
            f" replicas {needs.max_replicas}",
            hint="Say what to scale by: --target-concurrency, --slo, --target-qpm or --schedule;"
            " or give their number with --replicas.",
        )
    if scaler is None:
        return None
    _check_cost(scaler)
    schedules = tuple(_schedule(each) for each in scaler.schedules or ())
    down = scaler.scale_down
    timeout = (down.no_traffic_timeout if down is not None else None) or 0
    not_ready = (down.not_ready_timeout if down is not None else None) or 0
    if target is None and not timeout and not not_ready and not schedules:
        return None
    most = needs.max_replicas
    if most is None:
        most = least if target is None else MAX_REPLICAS
    return Policy(
        target=target,
        min_replicas=least,
        max_replicas=max(least, most),
        idle_timeout_s=float(timeout),
        not_ready_timeout_s=float(not_ready),
        hold_s=scaler.cool_down_seconds,
        max_up_per_minute=scaler.max_up_per_minute,
        max_down_per_minute=scaler.max_down_per_minute,
        max_cost_per_hour=scaler.max_cost_per_hour,
        cost_per_replica_hour=scaler.cost_per_replica_hour or 0.0,
        schedules=schedules,
    )


def _schedule(asked: ScalingSchedule) -> Schedule:
    least, most = asked.min_replicas, asked.max_replicas
    read = parse_schedule(asked.times, min_replicas=least, max_replicas=most)
    if least is None and most is None:
        raise InvalidRequest(
            f"the schedule {asked.times!r} says no number of replicas",
            hint="give it min_replicas, max_replicas or both",
        )
    return read


def _check_cost(scaler: AutoScaler) -> None:
    """
    Raises:
        InvalidRequest: it bounds nothing, or leaves no replica at all.
    """
    most, each = scaler.max_cost_per_hour, scaler.cost_per_replica_hour
    if most is None:
        return
    if not each:
        raise InvalidRequest(
            "spec.auto_scaler.max_cost_per_hour: what a replica costs is not known",
            hint="give cost_per_replica_hour, too",
        )
    if most < each:
        raise InvalidRequest(
            f"spec.auto_scaler.max_cost_per_hour: {most:g} pays for no replica, at {each:g} each",
            hint="raise it, or stop the endpoint with min_replicas 0",
        )


def _target(scaler: AutoScaler) -> Target | None:
    """
    Raises:
        InvalidRequest: there are several, or it is next to nothing.
    """
    throughput = scaler.target_throughput
    numbers = (
        ("target_concurrency", scaler.target_concurrency),
        ("target_throughput.qpm", throughput.qpm if throughput else None),
    )
    for field, number in numbers:
        if number and number < LEAST_TARGET:
            raise InvalidRequest(
                f"spec.auto_scaler.{field}: {number:g} is next to nothing",
                hint=f"use at least {LEAST_TARGET:g}; 0 is no target",
            )
    targets: list[Target] = []
    if throughput is not None and throughput.qpm:
        targets.append(Throughput(throughput.qpm, some=throughput.counts_some))
    if scaler.target_gpu_utilization_percentage:
        targets.append(Utilisation(scaler.target_gpu_utilization_percentage / 100))
    if scaler.target_concurrency:
        targets.append(Concurrency(scaler.target_concurrency))
    if scaler.slo:
        targets.append(parse_latency(scaler.slo))
    if len(targets) > 1:
        raise InvalidRequest(
            f"spec.auto_scaler: {len(targets)} targets to scale by",
            hint="keep one: requests a minute, concurrency, GPU utilisation or latency; 0 is none",
        )
    return targets[0] if targets else None


def parse_latency(text: str) -> Latency:
    """`p95<200ms`, `p99.9 < 2s`.

    Raises:
        InvalidRequest: it says neither.
    """
    parts = re.fullmatch(r"\s*p(\d+(?:\.\d+)?)\s*<=?\s*(\d+(?:\.\d+)?)\s*(ms|s)\s*", text)
    if parts is not None and len(text) <= MAX_CHARS:
        share, limit_s = round(float(parts[1]) / 100, 9), float(parts[2]) * UNITS_S[parts[3]]
        if 0 < share < 1 and 0 < limit_s <= MAX_LATENCY_S:
            return Latency(share, limit_s)
    raise InvalidRequest(
        f"{text[:MAX_CHARS]!r} is no target for latency",
        hint="use a percentile and a limit, as in p95<200ms",
    )


def parse_schedule(
    text: str, *, min_replicas: int | None = None, max_replicas: int | None = None
) -> Schedule:
    """`Mon-Fri 08:00-18:00`, `Sat,Sun 22:00-02:00`, `daily 06:00-24:00`; times in UTC.

    Raises:
        InvalidRequest: it is not such a text, or the bounds are none.
    """
    parts = re.fullmatch(r"\s*([A-Za-z,\-]+)\s+(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)\s*", text)
    days = _days(parts[1].lower()) if parts is not None else None
    if parts is None or days is None or len(text) > MAX_CHARS:
        raise _no_schedule(text)
    begins, ends = (
        int(parts[at]) * 3_600 + int(parts[at + 1]) * 60 if int(parts[at + 1]) < 60 else DAY_S + 1
        for at in (2, 4)
    )
    if begins >= DAY_S or ends > DAY_S:
        raise _no_schedule(text)
    if (min_replicas if min_replicas is not None else 1) < 1 or (
        max_replicas is not None and max_replicas < (min_replicas or 1)
    ):
        hint = "use a least number of 1 or more, and a largest that is not below it"
        raise InvalidRequest(f"the bounds of {text!r} leave nothing", hint=hint)
    return Schedule(
        days=days,
        begins_s=begins,
        ends_s=ends,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
    )


def _days(text: str) -> frozenset[int] | None:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            return None
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 + (7 if end < begin else 0))}
    return frozenset(days)


def _no_schedule(text: str) -> InvalidRequest:
    hint = "use days and times in UTC, as in Mon-Fri 08:00-18:00 or daily 22:00-02:00"
    return InvalidRequest(f"{text[:MAX_CHARS]!r} is no schedule", hint=hint)
