"""`leptonai simulate autoscale`: what an autoscaler would have done with a series of rates."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.files import csv_file, lines_of
from leptonai.cli.groups import Command
from leptonai.cli.installed import need_numpy
from leptonai.cli.output import print_json, print_table, say, span
from leptonai.cli.session import Parsed, output_option
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.testing.simulator.autoscale import Autoscaled, Autoscaler
    from leptonai.testing.simulator.traffic import Traffic

POLICIES = ("ours", "hpa", "kpa", "static")
TARGETS = {"ours": 0.99, "hpa": 0.7, "kpa": 0.7}
BAR_STEP_S = 600.0  # of simulated time, between two drawings of the progress bar


def _policy_name(text: str) -> str:
    if text not in POLICIES:
        raise InvalidRequest(
            f"there is no policy {text!r}", hint=f"use one of {', '.join(POLICIES)}"
        )
    return text


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InvalidRequest(f"{text!r} is no number above 0", hint="use one, such as 60")
    return number


def _days(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        first, last = math.nan, math.nan
    if not 0 <= first < last < math.inf:
        raise InvalidRequest(f"{text!r} names no days", hint="use FROM:TO, as in 20:22")
    return first, last


def _service(text: str) -> float | Path:
    try:
        seconds = float(text)
    except ValueError:
        file = Path(text)
        if not file.is_file():
            hint = "use seconds, or a CSV file with service_s or with numbers of tokens"
            raise InvalidRequest(f"there is no file {text!r}", hint=hint) from None
        return file
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"{text!r} is no length of time", hint="use seconds, above 0")
    return seconds


@click.command(
    "autoscale",
    cls=Command,
    example="""\
leptonai simulate autoscale --rate requests.csv --service 0.4 --cold-start 60
leptonai simulate autoscale --rate requests.csv --service lengths.csv --cold-start 60 --slots 2 \\
    --days 20:22 --mean-rate 4 --policy kpa --target 0.6 --plot kpa.png -o json""",
)
@click.option(
    "--rate",
    "rate_file",
    type=csv_file,
    required=True,
    help="Column value (or requests, count): how many requests came in each bin.",
)
@click.option(
    "--service",
    type=Parsed("seconds or file", _service),
    required=True,
    help="How long a request takes: seconds, or a CSV file with a column service_s, or with "
    "ContextTokens and GeneratedTokens, at 0.3 ms and 30 ms a token.",
)
@click.option(
    "--cold-start",
    "cold_start_s",
    type=Parsed("seconds", _positive),
    required=True,
    help="From asking for a replica until it serves.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 1_000),
    default=1,
    show_default=True,
    help="Requests that a replica works on at once.",
)
@click.option(
    "--policy",
    type=Parsed("name", _policy_name),
    default="ours",
    show_default=True,
    help="Or kpa (Knative), hpa (Kubernetes), static.",
)
@click.option(
    "--target",
    type=Parsed("number", _positive),
    help="Of ours: the share of time with a free slot that it aims at [0.99]. Of kpa and hpa: the "
    "share of the slots to be in use [0.7]. Of static: replicas [enough for the busiest bin].",
)
@click.option(
    "--slo",
    "limit_s",
    type=Parsed("seconds", _positive),
    default="2",
    show_default=True,
    help="A request that waits for longer counts as a miss.",
)
@click.option(
    "--days",
    type=Parsed("from:to", _days),
    help="Simulate these days of the series; those before are the history to learn from.",
)
@click.option(
    "--mean-rate",
    type=Parsed("requests/s", _positive),
    help="Scale the series so that this is the mean of what is simulated.",
)
@click.option(
    "--bin",
    "bin_s",
    type=click.IntRange(1, 86_400),
    default=300,
    show_default=True,
    help="Seconds that a row of the series is about.",
)
@click.option("--min", "least", type=click.IntRange(1, 1_000), default=1, show_default=True)
@click.option("--max", "most", type=click.IntRange(1, 100_000), default=1_000, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw replicas, busy slots and queue over time into this file: .png, .svg or .pdf.",
)
@output_option
def autoscale(
    rate_file: Path,
    service: float | Path,
    cold_start_s: float,
    slots: int,
    policy: str,
    target: float | None,
    limit_s: float,
    days: tuple[float, float] | None,
    mean_rate: float | None,
    bin_s: int,
    least: int,
    most: int,
    seed: int,
    plot: Path | None,
    output: str,
) -> None:
    """Replay a series of request rates against an endpoint that scales.

    Requests come at random within each bin and wait in one queue for a free slot. The autoscaler
    is the platform's own; nothing is run, and nothing is asked of a platform.
    """
    need_numpy()
    import numpy as np

    from leptonai.testing.simulator.autoscale import simulate_autoscale
    from leptonai.testing.simulator.traffic import draw_traffic, read_rates, read_services

    if least > most:
        raise click.UsageError(f"--min {least} is more than --max {most}")
    if plot is not None:
        from leptonai.testing.simulator.drawing import check_drawing

        check_drawing(plot)
    counts = read_rates(lines_of(rate_file), source=str(rate_file))
    services = (
        read_services(lines_of(service), source=str(service))
        if isinstance(service, Path)
        else np.array([service])
    )
    traffic = draw_traffic(counts, services, bin_s=bin_s, days=days, mean_rate=mean_rate, seed=seed)
    scaler, target = _autoscaler(
        policy, target, traffic, cold_start_s=cold_start_s, slots=slots, least=least, most=most
    )
    with _progress(traffic.requests.until_s) as progress:
        outcome = simulate_autoscale(
            traffic.requests, scaler, cold_start_s=cold_start_s, slots=slots, progress=progress
        )
    if plot is not None:
        _draw(plot, outcome, slots, f"{rate_file.name}: {policy} {target:g}")
        say(f"drawn into {plot}")
    facts = {
        "policy": policy,
        "target": target,
        "cold_start_s": cold_start_s,
        "slots": slots,
        "seed": seed,
        "service_s": traffic.service_s,
        **outcome.measures(limit_s),
        **_learnt(scaler),
    }
    if output == "json":
        print_json(facts)
        return
    print_table(("MEASURE", "VALUE"), _rows(facts))


def _autoscaler(
    policy: str,
    target: float | None,
    traffic: Traffic,
    *,
    cold_start_s: float,
    slots: int,
    least: int,
    most: int,
) -> tuple[Autoscaler, float]:
    from leptonai.testing.simulator.ours import Ours, enough
    from leptonai.testing.simulator.published import Hpa, Kpa, Static

    if policy == "static":
        peak = enough(float(traffic.rates.max()), traffic.service_s, slots)
        replicas = target if target is not None else float(min(max(peak, least), most))
        if not (replicas.is_integer() and replicas <= most):
            hint = f"use a whole number of replicas, at most {most}"
            raise InvalidRequest(f"{replicas:g} is no target of static", hint=hint)
        return Static(int(replicas)), replicas
    target = TARGETS[policy] if target is None else target
    initial = min(max(enough(traffic.rate_before, traffic.service_s, slots), least), most)
    if policy == "ours":
        if not 0.5 <= target < 1:
            hint = "use a share from 0.5 to below 1, such as 0.99"
            raise InvalidRequest(f"{target:g} is no target of ours", hint=hint)
        ours = Ours(
            traffic,
            certainty=target,
            cold_start_s=cold_start_s,
            slots=slots,
            initial=initial,
            least=least,
            most=most,
        )
        return ours, target
    if target > 1:
        hint = "use a share of the slots, above 0 and up to 1"
        raise InvalidRequest(f"{target:g} is no target of {policy}", hint=hint)
    published = Kpa if policy == "kpa" else Hpa
    return published(target, slots=slots, initial=initial, least=least, most=most), target


def _learnt(scaler: Autoscaler) -> dict[str, Any]:
    from leptonai.core.elasticity import NoForecast
    from leptonai.testing.simulator.ours import Ours

    if not isinstance(scaler, Ours):
        return {}
    forecast = scaler.forecast
    share = scaler.predictive / max(1, scaler.decisions)
    if isinstance(forecast, NoForecast):
        return {"predictive_ratio": share, "forecast": None, "because": forecast.because}
    learnt = {
        "alpha": forecast.alpha,
        "beta": forecast.beta,
        "gamma": forecast.gamma,
        "window_s": forecast.fast_s,
        "gain_ratio": forecast.gain,
    }
    return {"predictive_ratio": share, "forecast": learnt}


@contextmanager
def _progress(until_s: float) -> Iterator[Callable[[float], None] | None]:
    """A bar, for people at a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=int(until_s), label="simulated", file=sys.stderr) as bar:

        def progress(now_s: float) -> None:
            if now_s - bar.pos >= BAR_STEP_S or now_s >= until_s:
                bar.update(int(now_s) - bar.pos)

        yield progress


def _draw(file: Path, outcome: Autoscaled, slots: int, title: str) -> None:
    from leptonai.testing.simulator.drawing import Curve, Panel, draw

    hours = outcome.times_s / 3_600
    panels = [
        Panel(
            "replicas",
            (
                Curve("there", hours, outcome.replicas.astype(float), steps=True),
                Curve("ready", hours, outcome.ready.astype(float), steps=True),
                Curve("busy", hours, outcome.busy_slots / slots, steps=True),
            ),
        ),
        Panel("requests waiting", (Curve("", hours, outcome.queued.astype(float), steps=True),)),
    ]
    draw(file, panels, title=title, x_label="hours")


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("policy", f"{facts['policy']}, target {facts['target']:g}"),
        ("requests", f"{facts['requests']:,}"),
        (f"waited for more than {facts['slo_s']:g} s", f"{100 * facts['slo_miss_ratio']:.2f} %"),
        ("cost, × busy replicas", f"{facts['cost_ratio']:.2f}"),
        ("replica hours", f"{facts['replica_hours']:,.1f}"),
        ("p99 wait", span(facts["p99_wait_s"])),
        ("longest queue", f"{facts['max_queue']:,}"),
        ("most replicas", f"{facts['max_replicas']:,}"),
        ("direction changes", f"{facts['direction_changes']:,}"),
    ]
    learnt = facts.get("forecast")
    if learnt:
        rows.append(("R(t)", "{alpha:.2f} L + {beta:.2f} H + {gamma:.2f} ΔL".format(**learnt)))
    elif "because" in facts:
        rows.append(("no forecast", facts["because"]))
    return rows
