"""`leptonai simulate pack`: how full a policy would get a cluster."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leptonai.cli.files import csv_file, lines_of
from leptonai.cli.groups import Command
from leptonai.cli.installed import need_numpy
from leptonai.cli.output import print_json, print_table, say
from leptonai.cli.session import Parsed, output_option
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.core.scheduler import Choice
    from leptonai.testing.simulator.pack import Packed

MAX_ARRIVAL = 10.0  # times what there is
BAR_STEP = 50  # pods between two drawings of the progress bar


def _policy_name(text: str) -> str:
    choices = ("ours", "random", "dotprod", "packing", "clustering", "best_fit", "fgd", "energy")
    if text not in choices:
        hint = f"use one of {', '.join(choices)}"
        raise InvalidRequest(f"there is no policy {text!r}", hint=hint)
    return text


def _arrival(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= MAX_ARRIVAL:
        hint = f"use a number above 0 and at most {MAX_ARRIVAL:g}; 1.3 is 130 %"
        raise InvalidRequest(f"{text!r} is no share of what there is", hint=hint)
    return share


@click.command(
    "pack",
    cls=Command,
    example="""\
leptonai simulate pack --nodes openb_node_list_gpu_node.csv --pods openb_pod_list_default.csv
leptonai simulate pack --nodes nodes.csv --pods pods.csv --policy fgd --arrival 1.1 --seed 7 \\
    --plot pack.png -o json""",
)
@click.option(
    "--nodes",
    "nodes_file",
    type=csv_file,
    required=True,
    help="Columns sn (or name), cpu_milli, memory_mib, gpu; if there, also model.",
)
@click.option(
    "--pods",
    "pods_file",
    type=csv_file,
    required=True,
    help="Columns name, cpu_milli, memory_mib, num_gpu, gpu_milli; if there, also gpu_spec: "
    "the types it takes, as in V100M16|V100M32.",
)
@click.option(
    "--policy",
    type=Parsed("name", _policy_name),
    default="ours",
    show_default=True,
    help="Or random, dotprod, packing, clustering, best_fit, fgd; or energy: the fewest watts.",
)
@click.option(
    "--arrival",
    type=Parsed("share", _arrival),
    default="1.3",
    show_default=True,
    help="Pods arrive until they ask for this share of all GPUs.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=42,
    show_default=True,
    help="Of the order of arrival, and of the policy random.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw what is allocated over what has arrived into this file: .png, .svg or .pdf.",
)
@output_option
def pack(
    nodes_file: Path,
    pods_file: Path,
    policy: str,
    arrival: float,
    seed: int,
    plot: Path | None,
    output: str,
) -> None:
    """Fill a cluster with pods that arrive and stay.

    Each is placed when it arrives, or skipped for good. The scheduler is the platform's own;
    nothing is run, and nothing is asked of a platform.
    """
    need_numpy()
    from leptonai.core.scheduler import Choice
    from leptonai.testing.simulator.pack import read_nodes, read_pods, simulate_pack

    if plot is not None:
        from leptonai.testing.simulator.drawing import check_drawing

        check_drawing(plot)
    nodes = read_nodes(lines_of(nodes_file), source=str(nodes_file))
    pods = read_pods(lines_of(pods_file), source=str(pods_file))
    choice = Choice(policy)
    with _progress() as placed:
        packed = simulate_pack(nodes, pods, choice, arrival=arrival, seed=seed, placed=placed)
    if plot is not None:
        _draw(plot, packed, f"{pods_file.name}: {policy}")
        say(f"drawn into {plot}")
    if output == "json":
        print_json(_facts(packed, choice, arrival))
        return
    print_table(("ARRIVED", "ALLOCATED", "POWER"), _rows(packed))
    say(_summary(packed))


def _facts(packed: Packed, choice: Choice, arrival: float) -> dict[str, object]:
    return {
        "policy": choice.value,
        "arrival": arrival,
        "seed": packed.seed,
        "allocation_ratio": packed.allocated,
        "power_watts": packed.watts,
        "pods": packed.arrived,
        "skipped": packed.skipped,
        "never_fit": packed.never_fit,
        "gpus_left": packed.gpus_left,
        "decisions_per_s": packed.decisions_per_s,
    }


def _rows(packed: Packed) -> list[tuple[str, str, str]]:
    return [
        (
            f"{100 * float(share):g} %",
            f"{100 * allocated:.2f} %",
            f"{packed.watts[share] / 1_000:,.1f} kW" if packed.watts else "",
        )
        for share, allocated in packed.allocated.items()
    ]


def _summary(packed: Packed) -> str:
    text = f"{packed.arrived:,} pods arrived, {packed.skipped:,} were skipped for want of room"
    if packed.never_fit:
        text += f" ({packed.never_fit:,} fit no node at all)"
    return f"{text}; {packed.decisions_per_s:,.0f} decisions a second"


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar, for people at a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label="pods arrived", file=sys.stderr) as bar:

        def placed(number: int, of: int) -> None:
            bar.length = of
            if number % BAR_STEP == 0 or number == of:
                bar.update(number - bar.pos)

        yield placed


def _draw(file: Path, packed: Packed, title: str) -> None:
    from leptonai.testing.simulator.drawing import Curve, Panel, draw

    arrived = [0.0, *(100 * float(share) for share in packed.allocated)]
    allocated = [0.0, *(100 * share for share in packed.allocated.values())]
    panels = [Panel("GPUs allocated, %", (Curve("", arrived, allocated),), y_top=100.0)]
    if packed.watts:
        kilowatts = [watts / 1_000 for watts in packed.watts.values()]
        panels.append(Panel("power, kW", (Curve("", arrived[1:], kilowatts),)))
    draw(file, panels, title=title, x_label="GPUs asked for by what has arrived, % of all")
