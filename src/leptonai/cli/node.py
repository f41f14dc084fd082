"""`leptonai node`: the machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonai.cli import reservation
from leptonai.cli.groups import Group
from leptonai.cli.output import print_json, print_table, say
from leptonai.cli.session import connect, output_option
from leptonai.spec.quantities import show_mib

if TYPE_CHECKING:
    from leptonai.spec.nodes import Node

node = Group(
    name="node",
    help="See the machines and what is free on them, and have some kept.",
    example="leptonai node list\nleptonai node shapes\nleptonai node reserve -n sprint --for 8h",
)
reservation.add_to(node)


@node.does("list", example="leptonai node list\nleptonai node list -o json")
@output_option
def list_(output: str) -> None:
    """List the machines, and how much of each is given away."""
    with connect() as client:
        nodes = [
            (group.metadata.name or group.metadata.id or "", each)
            for group in client.nodes.groups()
            for each in client.nodes.nodes(group.metadata.id or "")
        ]
    if output == "json":
        print_json([each for _, each in nodes])
    elif nodes:
        headers = (
            "NODE",
            "GROUP",
            "STATE",
            "CPU USED",
            "MEMORY USED",
            "GPU USED",
            "RUNS",
            "LIMITS",
        )
        print_table(headers, [_row(group, each) for group, each in nodes])
    else:
        say("no nodes; `leptonai doctor` says what this machine can do")


@node.does("shapes", example="leptonai node shapes\nleptonai job create -n x -rs cpu.small -- true")
@output_option
def shapes(output: str) -> None:
    """List the named amounts of machine that -rs takes."""
    with connect() as client:
        found = client.nodes.shapes()
    if output == "json":
        print_json(found)
        return
    rows = [
        (
            shape.spec.name,
            f"{shape.spec.cpu:g}" if shape.spec.cpu else "",
            show_mib(shape.spec.memory_in_mb) if shape.spec.memory_in_mb else "",
            f"{shape.spec.accelerator_num:g} {shape.spec.accelerator_type or ''}".strip()
            if shape.spec.accelerator_num
            else "",
            shape.spec.description or "",
        )
        for shape in found
    ]
    print_table(("SHAPE", "CPU", "MEMORY", "GPU", "WHAT"), rows)


def _row(group: str, each: Node) -> tuple[str, ...]:
    resource = each.spec.resource
    cpu = resource.cpu if resource else None
    memory = resource.memory if resource else None
    gpu = resource.gpu if resource else None
    state = " ".join(each.status.status)
    return (
        each.metadata.name or each.metadata.id or "",
        group,
        f"{state} (closed)" if each.spec.unschedulable else state,
        f"{cpu.allocated:g}/{cpu.total:g}" if cpu else "",
        f"{show_mib(memory.allocated)}/{show_mib(memory.total)}" if memory else "",
        f"{gpu.allocated:g}/{gpu.total:g} {gpu.product}" if gpu and gpu.total else "",
        str(len(each.status.workloads)),
        each.spec.limits or "",
    )
