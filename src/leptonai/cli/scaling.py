"""How many replicas an endpoint is to have, or by what that is chosen: options, and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.options import as_one
from leptonai.cli.output import span
from leptonai.cli.session import Parsed, given
from leptonai.errors import InvalidRequest
from leptonai.spec.quantities import duration_s

if TYPE_CHECKING:
    from leptonai.spec.endpoints import AutoscalerCondition, LeptonDeployment, RequestHistory

F = TypeVar("F", bound=Callable[..., Any])

DAY_S = 86_400
PREDICTIVE = "Predictive"  # of the status: the condition that tells of forecasts
TARGETS = ("qpm", "gpu_percent", "concurrency", "slo")


def _schedule(text: str) -> dict[str, object]:
    """ "Mon-Fri 08:00-18:00 min=4 max=8".

    Raises:
        InvalidRequest: it has no bounds, or others.
    """
    times = [word for word in text.split() if "=" not in word]
    fields: dict[str, object] = {"times": " ".join(times)}
    for word in text.split():
        key, equals, number = word.partition("=")
        if equals:
            if key not in ("min", "max") or not number.isdecimal():
                raise InvalidRequest(f"{word!r} is no bound", hint="for example min=4 or max=8")
            fields[f"{key}_replicas"] = int(number)
    if len(fields) == 1:
        raise InvalidRequest(
            f"{text!r} says no number of replicas", hint="for example Mon-Fri 08:00-18:00 min=4"
        )
    return fields


def _spec_of(
    *,
    replicas: int | None,
    min_replicas: int | None,
    max_replicas: int | None,
    idle_s: int | None,
    not_ready_s: int | None,
    qpm: float | None,
    paths: tuple[str, ...],
    methods: tuple[str, ...],
    gpu_percent: int | None,
    concurrency: float | None,
    slo: str | None,
    schedules: tuple[dict[str, object], ...],
    cool_down_s: int | None,
    max_up: int | None,
    max_down: int | None,
    max_cost: float | None,
    replica_cost: float | None,
) -> Mapping[str, Any]:
    scaler: dict[str, Any] = {}
    down = given(no_traffic_timeout=idle_s, not_ready_timeout=not_ready_s)
    if down:
        scaler["scale_down"] = down
    if (paths or methods) and qpm is None:
        raise click.UsageError("--count-path and --count-method belong to --target-qpm")
    targets = [each for each in (qpm, gpu_percent, concurrency, slo) if each is not None]
    if len(targets) > 1:
        raise click.UsageError("keep one target: requests a minute, concurrency, GPUs or latency")
    if targets:  # in place of any other
        scaler |= {
            "target_throughput": None if qpm is None else _throughput(qpm, paths, methods),
            "target_gpu_utilization_percentage": gpu_percent,
            "target_concurrency": concurrency,
            "slo": slo,
        }
    scaler |= given(
        schedules=list(schedules) or None,
        cool_down_seconds=cool_down_s,
        max_up_per_minute=max_up,
        max_down_per_minute=max_down,
        max_cost_per_hour=max_cost,
        cost_per_replica_hour=replica_cost,
    )
    if min_replicas == 0 and scaler:
        raise click.UsageError(
            "--min-replicas 0 stops it, and nothing scales it then: leave that out; "
            "--scale-to-zero-after is what lets it go to 0 and come back"
        )
    if replicas is None:
        bounds = given(min_replicas=min_replicas, max_replicas=max_replicas)
        return given(resource_requirement=bounds or None, auto_scaler=scaler or None)
    if min_replicas is not None or max_replicas is not None or scaler:
        raise click.UsageError(
            "--replicas is a fixed number: give --min-replicas and --max-replicas to have it scaled"
        )
    if replicas == 0:  # one that is stopped is to be scaled as before when it is started again
        return {"resource_requirement": {"min_replicas": 0}}
    return {
        "resource_requirement": {"min_replicas": replicas, "max_replicas": replicas},
        "auto_scaler": None,
    }


# The command gets `scaling`: the fields of a spec, as a merge patch, that they ask for.
scaling_options = as_one(
    "scaling",
    _spec_of,
    click.option("--replicas", type=click.IntRange(min=0), help="A fixed number; 0 stops it."),
    click.option("--min-replicas", type=click.IntRange(min=0), help="At least; 0 stops it."),
    click.option("--max-replicas", type=click.IntRange(min=1), help="At most."),
    click.option(
        "--scale-to-zero-after",
        "idle_s",
        type=Parsed("duration", duration_s),
        help="None after so long without a request, until the next one: 10m. 0 is never.",
    ),
    click.option(
        "--give-up-after",
        "not_ready_s",
        type=Parsed("duration", duration_s),
        help="None where no replica was ready for so long, until the next request. 0 is never.",
    ),
    click.option(
        "--target-concurrency",
        "concurrency",
        type=click.FloatRange(min=0, min_open=True),
        help="So many requests at once in each replica.",
    ),
    click.option(
        "--target-qpm",
        "qpm",
        type=click.FloatRange(min=0, min_open=True),
        help="So many requests a minute to each replica.",
    ),
    click.option(
        "--count-path",
        "paths",
        multiple=True,
        metavar="PATH",
        help="With --target-qpm: only requests to this path; /v1/* is all that begin so.",
    ),
    click.option(
        "--count-method",
        "methods",
        multiple=True,
        metavar="METHOD",
        help="With --target-qpm: only requests by this method.",
    ),
    click.option(
        "--target-gpu",
        "gpu_percent",
        type=click.IntRange(1, 100),
        help="The GPUs of each replica so busy, in percent.",
    ),
    click.option(
        "--slo", metavar="LATENCY", help="Answered in time: 'p95<200ms'. The rest is learnt."
    ),
    click.option(
        "--schedule",
        "schedules",
        multiple=True,
        type=Parsed("times and bounds", _schedule),
        help="Other bounds at some times, in UTC: 'Mon-Fri 08:00-18:00 min=4 max=8'.",
    ),
    click.option(
        "--cool-down",
        "cool_down_s",
        type=Parsed("duration", duration_s),
        help="No fewer than were needed in so long: 5m.",
    ),
    click.option("--max-up", type=click.IntRange(min=1), help="So many replicas more a minute."),
    click.option("--max-down", type=click.IntRange(min=1), help="So many fewer a minute."),
    click.option("--max-cost", type=click.FloatRange(min=0), help="An hour, of all replicas."),
    click.option("--replica-cost", type=click.FloatRange(min=0), help="An hour, of each."),
)


def _throughput(
    qpm: float, paths: tuple[str, ...], methods: tuple[str, ...]
) -> Mapping[str, object]:
    return {"qpm": qpm, "paths": list(paths) or None, "methods": list(methods) or None}


def desired(each: LeptonDeployment) -> int:
    status = each.status.autoscaler_status if each.status else None
    number = status.desired_replicas if status else None
    return each.spec.replicas if number is None else number


def why(each: LeptonDeployment) -> str:
    """Why there are to be so many, in the autoscaler's words."""
    return next((c.message or "" for c in _conditions(each) if c.kind != PREDICTIVE), "")


def foresight(each: LeptonDeployment) -> str:
    """Whether a forecast of its traffic is acted by, and why; "" where none was tried."""
    return next((c.message or "" for c in _conditions(each) if c.kind == PREDICTIVE), "")


def _conditions(each: LeptonDeployment) -> Sequence[AutoscalerCondition]:
    status = each.status.autoscaler_status if each.status else None
    return (status.conditions if status else None) or ()


def requests_chart(history: RequestHistory, *, width: int, coloured: bool) -> list[str]:
    """The requests of the last day, beside the mean of the days before at the same time."""
    from leptonai.cli.charts import Line, chart

    steps = DAY_S // history.step_seconds
    rates = [math.nan if rate is None else rate for rate in history.requests_per_second]
    last, before = rates[-steps:], rates[:-steps]
    first_hour = (history.begins_at + len(before) * history.step_seconds) / 3600 % 24
    hours = [first_hour + place * history.step_seconds / 3600 for place in range(len(last))]
    usual = [_mean(before[len(before) - steps + place :: -steps]) for place in range(len(last))]
    lines = [Line("the last day", hours, last)]
    if any(rate == rate for rate in usual):
        lines.append(Line("the days before, on average", hours, usual))
    return chart(lines, title="requests/s by hour, UTC", width=width, height=12, coloured=coloured)


def _mean(rates: Sequence[float]) -> float:
    known = [rate for rate in rates if rate == rate]
    return sum(known) / len(known) if known else math.nan


def policy_text(each: LeptonDeployment) -> str:
    """What an endpoint is scaled by; "" where its number is fixed."""
    scaler, needs = each.spec.auto_scaler, each.spec.resource_requirement
    if scaler is None or each.spec.replicas == 0:
        return ""
    parts = []
    if scaler.target_throughput and scaler.target_throughput.qpm:
        counted = [
            *(scaler.target_throughput.methods or ()),
            *(scaler.target_throughput.paths or ()),
        ]
        which = f" ({', '.join(counted)} only)" if counted else ""
        parts.append(f"{scaler.target_throughput.qpm:g} requests a minute to each{which}")
    if scaler.target_gpu_utilization_percentage:
        parts.append(f"GPUs {scaler.target_gpu_utilization_percentage} % busy")
    if scaler.target_concurrency:
        number = scaler.target_concurrency
        parts.append(f"{number:g} request{'s' * (number != 1)} at once in each")
    if scaler.slo:
        parts.append(scaler.slo)
    for schedule in scaler.schedules or ():
        bounds = given(min=schedule.min_replicas, max=schedule.max_replicas)
        parts.append(" ".join([schedule.times, *(f"{key}={n}" for key, n in bounds.items())]))
    if scaler.scale_down and scaler.scale_down.no_traffic_timeout:
        parts.append(f"to 0 after {span(scaler.scale_down.no_traffic_timeout)} without a request")
    if scaler.scale_down and scaler.scale_down.not_ready_timeout:
        parts.append(f"to 0 after {span(scaler.scale_down.not_ready_timeout)} without a ready one")
    if not parts:
        return ""
    least, most = each.spec.replicas, needs.max_replicas
    replicas = f"{least}–{most}" if most not in (None, least) else str(least)
    return f"{replicas} replica{'s' * (replicas != '1')}, {'; '.join(parts)}"
