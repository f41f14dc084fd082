"""`leptonai quota`: what users and projects are guaranteed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import answer, print_list
from leptonai.cli.session import connect, output_option

if TYPE_CHECKING:
    from leptonai.spec.quotas import Quota

quota = Group(
    name="quota",
    help="Guarantee users and projects a part of the machines.",
    example="""\
leptonai quota set --user ann --gpus 4 --cpu 32
leptonai quota set --project vision --gpus 8 --no-borrow
leptonai quota list""",
)

user_option = click.option("--user", metavar="NAME", help="Of this user: the owner of workloads.")
project_option = click.option(
    "--project", metavar="NAME", help="Of this project: what workloads' label `project` says."
)


@quota.does("set", example="leptonai quota set --user ann --gpus 4 --cpu 32 --weight 2")
@user_option
@project_option
@click.option("--gpus", type=click.FloatRange(min=0), help="Guaranteed; without it, no bound.")
@click.option("--cpu", type=click.FloatRange(min=0), help="Cores; without it, no bound.")
@click.option(
    "--borrow/--no-borrow",
    default=True,
    help="May it hold more while that is idle, with jobs that can be preempted?",
)
@click.option(
    "--weight",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Of a user's turns in the queue: 2 is twice as much.",
)
@output_option
def set_(
    user: str | None,
    project: str | None,
    gpus: float | None,
    cpu: float | None,
    borrow: bool,
    weight: float,
    output: str,
) -> None:
    """Set a quota, in place of the one there was. For admins."""
    from leptonai.spec.quotas import QuotaSpec

    kind, name = _whose(user, project)
    with connect() as client:
        made = client.quotas.set(
            kind, name, QuotaSpec(gpus=gpus, cpu=cpu, borrow=borrow, weight=weight)
        )
    answer(made, output, f"set the quota of {kind} {name}")


@quota.does("list", example="leptonai quota list")
@output_option
def list_(output: str) -> None:
    """List quotas, and how much of each is used."""
    with connect() as client:
        found = client.quotas.list()
    headers = ("OF", "NAME", "GPUS", "CPUS", "BORROWS", "WEIGHT")
    print_list(found, output, headers, _row, none="no quotas: everybody may use what is free")


@quota.does("remove", example="leptonai quota remove --user ann")
@user_option
@project_option
@output_option
def remove(user: str | None, project: str | None, output: str) -> None:
    """Remove a quota. For admins."""
    kind, name = _whose(user, project)
    with connect() as client:
        client.quotas.remove(kind, name)
    answer(
        {"kind": kind, "name": name, "action": "removed"},
        output,
        f"removed the quota of {kind} {name}",
    )


def _whose(user: str | None, project: str | None) -> tuple[str, str]:
    if (user is None) == (project is None):
        raise click.UsageError("give one of --user and --project")
    return ("user", user) if user is not None else ("project", project or "")


def _row(quota: Quota) -> tuple[str, ...]:
    spec, used = quota.spec, quota.used
    return (
        quota.kind,
        quota.name,
        f"{used.gpus:g} of {spec.gpus:g}" if spec.gpus is not None else f"{used.gpus:g}",
        f"{used.cpu:g} of {spec.cpu:g}" if spec.cpu is not None else f"{used.cpu:g}",
        "yes" if spec.borrow else "no",
        f"{spec.weight:g}",
    )
