"""`leptonai raycluster`: Ray clusters, on which Ray jobs run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_facts, print_json, print_list, say
from leptonai.cli.session import (
    FOLLOW_PATIENCE_S,
    Parsed,
    connect,
    file_option,
    label_option,
    labels,
    output_option,
    priority_option,
    resource_options,
    variable_options,
)
from leptonai.cli.telling import tells
from leptonai.cli.views import print_replicas, resources_text
from leptonai.errors import TryLater, Unavailable
from leptonai.spec.quantities import memory_mib

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.containers import EnvVar
    from leptonai.spec.rayclusters import LeptonRayCluster

TELL_EVERY_S = 2.0  # what is waited for, if it is something else by then

raycluster = Group(
    name="raycluster",
    help="Run Ray: a head, workers, and a dashboard that takes Ray jobs.",
    example="""\
leptonai raycluster create tune --workers 2 --cpu 1 --memory 2GiB --wait
leptonai raycluster address tune
leptonai raycluster resize tune 4
leptonai raycluster stop tune""",
)


@raycluster.does(
    "create",
    example="""\
leptonai raycluster create tune --workers 2 --cpu 1 --memory 2GiB --wait
leptonai raycluster create tune --workers 4 --gpu 1 --head-shape cpu.medium -e HF_HOME=/data/hf
leptonai raycluster create tune --before 'pip install -r requirements.txt'
leptonai raycluster create tune -f raycluster-spec.json""",
)
@click.option("-w", "--workers", type=click.IntRange(min=0), help="How many; by default 1.")
@resource_options
@click.option("--head-shape", metavar="SHAPE", help="Of the head; by default cpu.small.")
@click.option("--head-memory", type=Parsed("2GiB", memory_mib), help="Of the head.")
@click.option("--before", "line", metavar="LINE", help="Run this line of shell before Ray starts.")
@variable_options
@priority_option
@label_option
@file_option("A spec as JSON, for several groups of workers; no option says the same then.")
@click.option("--wait", is_flag=True, help="Return when its head and all workers are ready.")
@output_option
@click.argument("name")
def create(
    workers: int | None,
    resources: Mapping[str, Any],
    head_shape: str | None,
    head_memory: int | None,
    line: str | None,
    envs: list[EnvVar],
    priority: str | None,
    label_texts: tuple[str, ...],
    file: Path | None,
    wait: bool,
    output: str,
    name: str,
) -> None:
    """Create a Ray cluster with one group of workers, each of the size that is asked.

    Only you and admins of the workspace can submit Ray jobs to it. Ray must be installed where the
    platform runs: pip install 'ray[default]>=2.52'.
    """
    import msgspec

    from leptonai.cli.requested import named, read
    from leptonai.spec.containers import Container, QueueConfig
    from leptonai.spec.metadata import Metadata
    from leptonai.spec.rayclusters import (
        LeptonRayCluster,
        RayClusterSpec,
        RayGroup,
        RayWorkerGroup,
    )

    if file is not None:
        told = (resources, line, envs, priority, head_shape, head_memory, workers)
        if any(each not in (None, [], {}) for each in told):
            raise click.UsageError("with --file, the file says it all: leave the options out")
        asked = read(LeptonRayCluster, file)
    else:
        each: dict[str, Any] = {
            "envs": envs or None,
            "container": Container(command=["/bin/sh", "-c", line]) if line else None,
            "queue_config": QueueConfig(priority_class=priority) if priority else None,
        }
        group = resources or {"resource_shape": "cpu.small"}
        spec = RayClusterSpec(
            head_group_spec=RayGroup(
                resource_shape=head_shape or "cpu.small", memory=head_memory, **each
            ),
            worker_group_specs=[
                RayWorkerGroup(
                    group_name="workers",
                    min_replicas=1 if workers is None else workers,
                    **group,
                    **each,
                )
            ],
        )
        asked = LeptonRayCluster(metadata=Metadata(), spec=spec)
    metadata = named(asked.metadata, "Ray cluster", name, labels(label_texts))
    asked = msgspec.structs.replace(asked, metadata=metadata)
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        made = client.rayclusters.create(asked)
        if wait:
            made = _ready(client, name)
        address = client.rayclusters.dashboard(name)
    if output == "json":
        print_json(made)
        return
    click.echo(f"created {name}")
    say(f"its dashboard, for Ray jobs: {address}")


@raycluster.does("list", example="leptonai raycluster list\nleptonai raycluster list -o json")
@output_option
def list_(output: str) -> None:
    """List Ray clusters."""
    with connect() as client:
        found = client.rayclusters.list()
    headers = ("NAME", "STATE", "WORKERS", "EACH", "AGE")
    none = "no Ray clusters yet; create one: leptonai raycluster create NAME"
    print_list(found, output, headers, _row, none=none)


@raycluster.does(
    "get", example="leptonai raycluster get tune\nleptonai raycluster get tune -o json"
)
@output_option
@click.argument("name")
def get(output: str, name: str) -> None:
    """Show a Ray cluster, how far it is, and its nodes."""
    with connect() as client:
        found = client.rayclusters.get(name)
        if output == "json":
            print_json(found)
            return
        replicas = client.rayclusters.replicas(name)
        address = client.rayclusters.dashboard(name)
    print_facts([*_facts(found), ("dashboard", address)])
    if replicas:
        click.echo()
        print_replicas(replicas)


@raycluster.does(
    "address",
    example="""\
leptonai raycluster address tune
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(leptonai token show) \\
  ray job submit --address $(leptonai raycluster address tune) --working-dir . -- python x.py""",
)
@click.argument("name")
def address(name: str) -> None:
    """Print the address that `ray job submit` and Ray's JobSubmissionClient are given.

    Whoever asks there sends a token of the workspace, as with any other request.
    """
    with connect() as client:
        client.rayclusters.get(name)
        click.echo(client.rayclusters.dashboard(name))


@raycluster.does(
    "resize",
    example="leptonai raycluster resize tune 4\nleptonai raycluster resize tune gpu=2 cpu=8",
)
@click.option("--wait", is_flag=True, help="Return when it has so many.")
@output_option
@click.argument("name")
@click.argument("sizes", nargs=-1, required=True, metavar="[GROUP=]WORKERS...")
def resize(wait: bool, output: str, name: str, sizes: tuple[str, ...]) -> None:
    """Change how many workers there are. What runs on those that leave is Ray's to repeat."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        made = client.rayclusters.resize(name, _sizes(sizes))
        if wait:
            made = _ready(client, name)
    answer(made, output, f"resizing {name}")


@raycluster.does("stop", example="leptonai raycluster stop tune")
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def stop(output: str, names: tuple[str, ...]) -> None:
    """End all that runs in Ray clusters; they can be started again."""
    with connect() as client:
        made = [client.rayclusters.stop(name) for name in names]
    answer(made, output, *(f"stopping {name}" for name in names))


@raycluster.does("start", example="leptonai raycluster start tune --wait")
@click.option("--wait", is_flag=True, help="Return when its head and all workers are ready.")
@output_option
@click.argument("name")
def start(wait: bool, output: str, name: str) -> None:
    """Start a Ray cluster that was stopped. It knows nothing of its earlier Ray jobs."""
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        made = client.rayclusters.start(name)
        if wait:
            made = _ready(client, name)
    answer(made, output, f"starting {name}")


@raycluster.does("remove", example="leptonai raycluster remove tune")
@output_option
@click.argument("name")
def remove(output: str, name: str) -> None:
    """Stop a Ray cluster and forget it."""
    with connect() as client:
        client.rayclusters.remove(name)
    answer({"name": name, "action": "removed"}, output, f"removed {name}")


tells(
    raycluster,
    "a Ray cluster",
    "tune",
    events=lambda client, name: client.rayclusters.events(name),
    why=lambda client, name: client.rayclusters.why(name),
)


@raycluster.does("log", example="leptonai raycluster log tune\nleptonai raycluster log -f tune")
@click.option("-f", "--follow", is_flag=True, help="Go on until they end.")
@click.argument("name")
def log(follow: bool, name: str) -> None:
    """Print what Ray says on each node. What a Ray job prints: ray job logs."""
    from leptonai.cli.following import follow_all

    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        found = client.rayclusters.replicas(name)
        logs = {
            f"[{each.metadata.name}] ": client.rayclusters.log(name, each.id, follow=follow)
            for each in found
        }
        follow_all(logs)


def _ready(client: LeptonClient, name: str) -> LeptonRayCluster:
    """It, once it is ready; what it waits for is told whenever that changes. It may be something
    to be done by whoever waits: to install Ray."""
    told = ""
    while True:
        try:
            return client.rayclusters.wait_ready(name, timeout_s=TELL_EVERY_S)
        except Unavailable:
            raise  # nobody answers
        except TryLater as error:
            if error.message != told:
                told = error.message
                say(told)


def _sizes(texts: tuple[str, ...]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for text in texts:
        group, _, number = text.rpartition("=")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise click.UsageError(f"{text!r} is no [GROUP=]WORKERS, such as 4 or gpu=4")
        if group in sizes:
            raise click.UsageError(f"{text!r}: that group is named twice")
        sizes[group] = int(number)
    return sizes


def _row(each: LeptonRayCluster) -> tuple[str, ...]:
    return (
        each.metadata.name or "",
        str(each.status.state) if each.status else "",
        _workers(each),
        " | ".join(resources_text(group) for group in each.spec.groups),
        age(each.metadata.created_at),
    )


def _workers(each: LeptonRayCluster) -> str:
    status = each.status
    return f"{status.ready_workers or 0}/{status.desired_workers or 0}" if status else ""


def _facts(each: LeptonRayCluster) -> list[tuple[str, str]]:
    status = each.status
    return [
        ("name", each.metadata.name or ""),
        ("state", str(status.state) if status else ""),
        ("message", (status.message or "") if status else ""),
        ("workers", _workers(each)),
        ("head", resources_text(each.spec.head)),
        *(
            (f"group {group.group_name}", f"{group.workers} x {resources_text(group)}")
            for group in each.spec.groups
        ),
        ("owner", each.metadata.owner or ""),
        ("created", f"{age(each.metadata.created_at)} ago" if each.metadata.created_at else ""),
    ]
