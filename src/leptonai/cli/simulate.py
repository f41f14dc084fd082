"""`leptonai simulate`: what a policy would have done, without doing it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.files import csv_file, lines_of
from leptonai.cli.groups import Group
from leptonai.cli.output import print_json, print_table, say, span
from leptonai.cli.session import Parsed, output_option
from leptonai.cli.simulate_autoscale import autoscale
from leptonai.cli.simulate_pack import pack
from leptonai.cli.simulate_queue import queue
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.core.scheduler.optimize.energy import Chosen, Setting, TooLate

simulate = Group(
    name="simulate",
    help="Ask what a policy would do with a published or recorded workload. Needs no platform.",
    example="leptonai simulate energy --table summary_power_v100.csv --deadline 3600",
)
simulate.add_command(autoscale)
simulate.add_command(pack)
simulate.add_command(queue)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise InvalidRequest(f"{text!r} is no length of time", hint="use seconds, above 0")
    return seconds


def _target(text: str) -> tuple[str, float]:
    dataset, _, metric = text.partition("=")
    try:
        return dataset, float(metric)
    except ValueError:
        hint = "use DATASET=METRIC, as in cifar100=0.6"
        raise InvalidRequest(f"{text!r} names no target", hint=hint) from None


@simulate.does(
    "energy",
    example="""\
leptonai simulate energy --table summary_power_v100.csv --deadline 3600
leptonai simulate energy --table summary_power_v100.csv --table summary_power_a40.csv \\
    --train summary_train.csv --target cifar100=0.6 --deadline 86400 -o json""",
)
@click.option(
    "--table",
    "tables",
    type=csv_file,
    multiple=True,
    required=True,
    help="Measured time and power of an epoch, by batch size and power limit. Repeatable.",
)
@click.option("--deadline", type=Parsed("seconds", _seconds), required=True, help="In seconds.")
@click.option(
    "--train",
    type=csv_file,
    help="Training runs: how many epochs each batch size takes. Without, one epoch is planned.",
)
@click.option(
    "--target",
    "targets",
    type=Parsed("DATASET=METRIC", _target),
    multiple=True,
    help="What to train to; else the hardest that some batch size reached in every run.",
)
@output_option
def energy(
    tables: tuple[Path, ...],
    deadline: float,
    train: Path | None,
    targets: tuple[tuple[str, float], ...],
    output: str,
) -> None:
    """Choose batch size and power limit for the least energy before a deadline.

    For each dataset, network and GPU, of all that was measured: exactly the best.
    """
    from leptonai.core.scheduler.optimize import energy as models

    if targets and train is None:
        raise click.UsageError("--target needs --train")
    training = None
    if train is not None:
        training = models.read_training(lines_of(train), source=str(train), targets=dict(targets))
    settings = models.read_settings({str(table): lines_of(table) for table in tables}, training)
    outcomes = models.choose(settings, deadline)
    models.require_any(outcomes, deadline)
    goals = training.targets if training else {}
    rows = [
        _facts(outcome, goals.get((outcome.workload.dataset, outcome.workload.network), ""))
        for outcome in outcomes
    ]
    if output == "json":
        total = sum(row["energy_j"] for row in rows if row["met"])
        print_json({"deadline_s": deadline, "energy_j": total, "choices": rows})
        return
    print_table(
        ("DATASET", "NETWORK", "GPU", "BATCH", "LIMIT", "EPOCHS", "TIME", "ENERGY", "SAVED"),
        [_cells(row) for row in rows],
    )
    for outcome in outcomes:
        if isinstance(outcome, models.TooLate):
            say(f"cannot be met: {outcome}")


def _facts(outcome: Chosen | TooLate, target: str) -> dict[str, Any]:
    from leptonai.core.scheduler.optimize.energy import Chosen

    met = isinstance(outcome, Chosen)
    facts: dict[str, Any] = {
        "dataset": outcome.workload.dataset,
        "network": outcome.workload.network,
        "gpu": outcome.workload.gpu,
        "target": target or None,
        "met": met,
        "earliest_s": outcome.fastest.time_s if outcome.fastest else None,
    }
    if isinstance(outcome, Chosen):
        facts |= _setting(outcome.setting) | {
            "fastest": _setting(outcome.fastest),
            "saved_ratio": outcome.saved,
        }
    else:
        facts["because"] = str(outcome)
    return facts


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "batch_size": setting.batch_size,
        "optimizer": setting.optimizer,
        "learning_rate": setting.learning_rate or None,
        "power_limit_w": setting.power_limit_w,
        "power_w": setting.power_w,
        "epochs": setting.epochs,
        "time_s": setting.time_s,
        "energy_j": setting.energy_j,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    name = (row["dataset"], row["network"], row["gpu"])
    if not row["met"]:
        earliest = f"≥ {span(row['earliest_s'])}" if row["earliest_s"] else "never"
        return (*name, "", "", "", earliest, "", "")
    return (
        *name,
        str(row["batch_size"]),
        f"{row['power_limit_w']:g} W",
        f"{row['epochs']:.4g}",
        span(row["time_s"]),
        _joules(row["energy_j"]),
        f"{100 * row['saved_ratio']:.0f} %",
    )


def _joules(joules: float) -> str:
    for size, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if joules >= size:
            return f"{joules / size:.3g} {unit}"
    return f"{joules:.3g} J"
