"""`leptonai simulate queue`: what a policy would have done with the jobs of a trace."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
    from leptonai.testing.simulator.jobs import Job
    from leptonai.testing.simulator.outcome import Outcome

OURS = "ours"
NOT_PUBLISHED = (OURS, "ours_uninterrupted", "platform", "promise")  # know users and priorities
BY_DEADLINE = ("edf", "promise")  # no other policy sees a column that nobody named
MAX_GPUS = 1_000_000
UNIFORM = "uniform:"


def _policy_name(text: str) -> str:
    from leptonai.core.scheduler import QUEUE_POLICIES

    if text not in QUEUE_POLICIES:
        hint = f"use one of {', '.join(QUEUE_POLICIES)}"
        raise InvalidRequest(f"there is no policy {text!r}", hint=hint)
    return text


def _durations(text: str) -> object:
    from leptonai.testing.simulator.queue import Durations

    return Durations.of(text)


def _condition(text: str) -> object:
    from leptonai.testing.simulator.jobs import Condition

    return Condition.of(text)


def _named(text: str) -> tuple[str, str]:
    name, is_given, header = text.partition("=")
    if not (is_given and name.strip() and header.strip()):
        hint = "use NAME=HEADER, as in num_gpu=gpus"
        raise InvalidRequest(f"{text!r} names no column", hint=hint)
    return name.strip(), header.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidRequest(f"{text!r} is no length of time", hint="use seconds, 0 or above")
    return seconds


def _deadlines(text: str) -> str | tuple[float, float]:
    """The name of a column, or between which multiples of the duration."""
    if not text.startswith(UNIFORM):
        return text
    try:
        low, high = (float(part) for part in text.removeprefix(UNIFORM).split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not 0 <= low <= high < math.inf:
        hint = "use uniform:LOW,HIGH as in uniform:1.2,3"
        raise InvalidRequest(f"{text!r} gives no deadlines", hint=hint)
    return low, high


@click.command(
    "queue",
    cls=Command,
    example="""\
leptonai simulate queue --jobs jobs.csv --gpus 64
leptonai simulate queue --jobs jobs.csv --gpus 64 --policy srtf --durations estimate:1 \\
    --preempt-cost 60 --deadlines uniform:1.2,3 --plot queue.png -o json
leptonai simulate queue --jobs philly.csv --gpus 56 --where cluster=6214e9
leptonai simulate queue --jobs muri.csv --gpus 64 --time-unit ms
leptonai simulate queue --jobs pai.csv --gpus 512 --time-unit h \\
    --column submission_time=arrival_time --column duration=length --column num_gpu=cpus""",
)
@click.option(
    "--jobs",
    "file",
    type=csv_file,
    required=True,
    help="Columns submission_time (or timestamp, submit_time), duration, num_gpu (or num_gpus); "
    "if there, also job_id (or id), user, priority and deadline.",
)
@click.option("--gpus", type=click.IntRange(1, MAX_GPUS), required=True, help="Of the cluster.")
@click.option(
    "--gpus-per-node",
    type=click.IntRange(1, MAX_GPUS),
    default=8,
    show_default=True,
    help="The last node has fewer where it does not come out even.",
)
@click.option(
    "--policy",
    type=Parsed("name", _policy_name),
    default=OURS,
    show_default=True,
    help="Or fifo, easy, sjf, srtf, srsf, las, mlfq, edf, as published: without users and "
    "priorities; or promise, which admits deadlines that can be met, and keeps them.",
)
@click.option(
    "--durations",
    type=Parsed("knowledge", _durations),
    default="exact",
    show_default=True,
    help="What the policy is told: exact, unknown, or estimate:SIGMA for a lognormal error.",
)
@click.option(
    "--preempt-cost",
    "preempt_cost_s",
    type=Parsed("seconds", _seconds),
    default="0",
    show_default=True,
    help="How long a job that was preempted holds its GPUs before it works on.",
)
@click.option(
    "--checkpoint-every",
    "checkpoint_every_s",
    type=Parsed("seconds", _seconds),
    help="A job that stops loses its work since its last checkpoint; without, it saves all.",
)
@click.option(
    "--deadlines",
    type=Parsed("column", _deadlines),
    help="Where the deadlines are; or uniform:LOW,HIGH for submission + U x duration. Without, a "
    "column `deadline` is only measured, and no policy but edf and promise sees it.",
)
@click.option(
    "--column",
    "columns",
    type=Parsed("name=header", _named),
    multiple=True,
    help="Which header of the file a column is. Repeatable.",
)
@click.option(
    "--where",
    type=Parsed("condition", _condition),
    multiple=True,
    help="Read only rows that say so: cluster=6214e9, num_gpu>0. Repeatable; all must hold.",
)
@click.option(
    "--time-unit",
    type=click.Choice(["ms", "s", "min", "h"]),
    default="s",
    show_default=True,
    help="Of the times in the file that are numbers; they may also be dates.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=42,
    show_default=True,
    help="Of the error of estimates, and of uniform deadlines.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw utilisation and queue over time into this file: .png, .svg or .pdf.",
)
@output_option
def queue(
    file: Path,
    gpus: int,
    gpus_per_node: int,
    policy: str,
    durations: Any,
    preempt_cost_s: float,
    checkpoint_every_s: float | None,
    deadlines: str | tuple[float, float] | None,
    columns: tuple[tuple[str, str], ...],
    where: tuple[Any, ...],
    time_unit: str,
    seed: int,
    plot: Path | None,
    output: str,
) -> None:
    """Replay a trace of jobs against a cluster.

    Each job is so many one-GPU workers that start and stop together, on one node or many. The
    scheduler is the platform's own; nothing is run, and nothing is asked of a platform.
    """
    need_numpy()
    from leptonai.core.scheduler import QUEUE_POLICIES
    from leptonai.testing.simulator.jobs import read_jobs, with_uniform_deadlines
    from leptonai.testing.simulator.queue import Cluster, simulate_queue

    if plot is not None:
        from leptonai.testing.simulator.drawing import check_drawing

        check_drawing(plot)
    named = dict(columns)
    if isinstance(deadlines, str):
        named["deadline"] = deadlines
    jobs = read_jobs(
        lines_of(file),
        source=str(file),
        columns=named,
        where=where,
        time_unit=time_unit,
        most_gpus=gpus,
    )
    if isinstance(deadlines, tuple):
        jobs = with_uniform_deadlines(jobs, *deadlines, seed=seed)
    if policy in BY_DEADLINE and all(job.deadline_ms is None for job in jobs):
        hint = "name a column with --deadlines, or use --deadlines uniform:1.2,3"
        raise InvalidRequest(f"{policy} goes by deadlines, and {file} has none", hint=hint)
    with _progress(len(jobs)) as ended:
        outcome = simulate_queue(
            _as_seen(jobs, policy, deadlines_seen=deadlines is not None or policy in BY_DEADLINE),
            Cluster(gpus, gpus_per_node),
            QUEUE_POLICIES[policy],
            durations=durations,
            preempt_cost_s=preempt_cost_s,
            checkpoint_every_s=checkpoint_every_s,
            seed=seed,
            ended=ended,
        )
    outcome = replace(outcome, jobs=jobs)
    if plot is not None:
        _draw(plot, outcome, f"{file.name}: {policy} on {gpus} GPUs")
        say(f"drawn into {plot}")
    if output == "json":
        print_json(
            {
                "policy": policy,
                "jobs": len(jobs),
                "gpus": gpus,
                "gpus_per_node": gpus_per_node,
                "durations": str(durations),
                "preempt_cost_s": preempt_cost_s,
                "checkpoint_every_s": checkpoint_every_s,
                "seed": seed,
                **outcome.measures(),
            }
        )
        return
    print_table(("MEASURE", "VALUE", ""), _rows(policy, outcome))


def _as_seen(jobs: Sequence[Job], policy: str, *, deadlines_seen: bool) -> list[Job]:
    """Without what the policy is not to know of."""
    from leptonai.testing.simulator.jobs import as_equals

    seen = list(jobs) if policy in NOT_PUBLISHED else as_equals(jobs)
    return seen if deadlines_seen else [replace(job, deadline_ms=None) for job in seen]


@contextmanager
def _progress(jobs: int) -> Iterator[Callable[[int], None] | None]:
    """A bar, for people at a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=jobs, label="jobs ended", file=sys.stderr) as bar:
        yield bar.update


def _draw(file: Path, outcome: Outcome, title: str) -> None:
    from leptonai.testing.simulator.drawing import Curve, Panel, draw

    hours = (outcome.times_s - outcome.times_s[0]) / 3_600
    busy = Curve("", hours, outcome.busy_gpus.astype(float), steps=True)
    waiting = Curve("", hours, outcome.waiting_jobs.astype(float), steps=True)
    panels = [Panel("GPUs in use", (busy,), y_top=outcome.gpus), Panel("jobs waiting", (waiting,))]
    draw(file, panels, title=title, x_label="hours since the first submission")


def _rows(policy: str, outcome: Outcome) -> list[tuple[str, str, str]]:
    measures = outcome.measures()

    def time(label: str, name: str) -> tuple[str, str, str]:
        seconds = float(measures[name] or 0.0)
        return label, f"{seconds:,.0f} s", span(seconds)

    def share(label: str, name: str) -> tuple[str, str, str]:
        ratio = measures[name]
        return label, "" if ratio is None else f"{100 * ratio:.1f} %", ""

    rows = [
        ("policy", policy, ""),
        ("jobs", f"{len(outcome.jobs):,}", ""),
        ("GPUs", f"{outcome.gpus:,}", ""),
        time("average JCT", "avg_jct_s"),
        time("median JCT", "median_jct_s"),
        time("p99 JCT", "p99_jct_s"),
        time("largest delay", "max_delay_s"),
        time("makespan", "makespan_s"),
        share("utilisation", "utilisation"),
        share("deadlines met", "deadline_met_ratio"),
        share("admitted", "admitted_ratio"),
        share("met of the admitted", "admitted_met_ratio"),
        ("preemptions", f"{measures['preemptions']:,}", ""),
        ("decisions a second", f"{measures['decisions_per_s'] or 0.0:,.0f}", ""),
    ]
    return [row for row in rows if row[1]]
