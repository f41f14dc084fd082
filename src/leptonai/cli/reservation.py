"""`leptonai node reserve …`: nodes that are kept for some users, for some time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import answer, print_json, print_table, say
from leptonai.cli.session import Parsed, connect, output_option
from leptonai.errors import NotFound
from leptonai.spec.quantities import duration_s, moment_s

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.reservations import NodeReservation


def add_to(node: Group) -> None:
    """The commands about reservations are commands of `leptonai node`."""
    node.does("reserve", example=_RESERVE_EXAMPLE)(_reserve)
    node.does("reservations", example="leptonai node reservations")(_reservations)
    node.does("approve", example="leptonai node approve sprint-1f3c2a --nodes 2")(_approve)
    node.does("reject", example="leptonai node reject sprint-1f3c2a")(_reject)
    node.does("unreserve", example="leptonai node unreserve sprint-1f3c2a")(_unreserve)


_RESERVE_EXAMPLE = """\
leptonai node reserve -n sprint --nodes 2 --for 8h
leptonai node reserve -n review --user ann --user ben --at 2030-05-02T08:00:00Z --for 2h
lep job create -n train … --with-reservation sprint-1f3c2a"""


def _a_time(text: str) -> int:
    """Seconds since 1970."""
    return moment_s(text, time.time())


group_option = click.option("-g", "--group", help="The node group; by default the only one.")


@group_option
@click.option("-n", "--name", required=True, help="The id begins with it.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--user", "users", multiple=True, help="Who may use them; by default you.")
@click.option("--at", type=Parsed("time", _a_time), help="From then on; by default at once.")
@click.option(
    "--for", "span_s", type=Parsed("span", duration_s), help="For so long; else for ever."
)
@output_option
def _reserve(
    group: str | None,
    name: str,
    nodes: int,
    users: tuple[str, ...],
    at: int | None,
    span_s: int | None,
    output: str,
) -> None:
    """Ask for nodes to be kept. An admin decides."""
    from leptonai.spec.reservations import ReservationSpec, TimeRule

    start = at if at is not None or span_s is None else int(time.time())
    ends = None if span_s is None or start is None else start + span_s
    rule = TimeRule(start_timestamp=start, end_timestamp=ends)
    with connect() as client:
        made = client.reservations.ask(
            _group(client, group),
            name,
            ReservationSpec(users=list(users) or None, desired_nodes=nodes, time_rule=rule),
        )
    _tell(made, output, "asked for")


@output_option
def _reservations(output: str) -> None:
    """List reservations, and how each stands."""
    with connect() as client:
        found = [
            (group, each) for group in _groups(client) for each in client.reservations.list(group)
        ]
    if output == "json":
        print_json([each for _, each in found])
    elif found:
        headers = ("RESERVATION", "GROUP", "STATE", "NODES", "USERS", "FROM", "UNTIL")
        print_table(headers, [_row(group, each) for group, each in found])
    else:
        say("no reservations; `leptonai node reserve` asks for one")


@click.argument("id")
@click.option("--nodes", type=click.IntRange(min=1), help="So many; by default as desired.")
@click.option("--node", "named", multiple=True, help="These, instead of those with least load.")
@output_option
def _approve(id: str, nodes: int | None, named: tuple[str, ...], output: str) -> None:
    """Keep nodes for a reservation. For admins."""
    from leptonai.spec.reservations import Verdict

    verdict = Verdict(approve=True, approved_nodes=nodes, nodes=list(named) or None)
    with connect() as client:
        made = client.reservations.decide(_group_of(client, id), id, verdict)
    _tell(made, output, "approved")


@click.argument("id")
@output_option
def _reject(id: str, output: str) -> None:
    """Keep no nodes for a reservation. For admins."""
    from leptonai.spec.reservations import Verdict

    with connect() as client:
        made = client.reservations.decide(_group_of(client, id), id, Verdict(approve=False))
    _tell(made, output, "rejected")


@click.argument("id")
@output_option
def _unreserve(id: str, output: str) -> None:
    """Give a reservation up: its nodes are for everybody again."""
    with connect() as client:
        client.reservations.remove(_group_of(client, id), id)
    answer({"id": id, "action": "removed"}, output, f"removed {id}")


def _groups(client: LeptonClient) -> list[str]:
    return [group.metadata.id or "" for group in client.nodes.groups()]


def _group(client: LeptonClient, named: str | None) -> str:
    if named is not None:
        return named
    groups = _groups(client)
    if len(groups) != 1:
        raise click.UsageError(f"name the node group: -g, one of {', '.join(groups)}")
    return groups[0]


def _group_of(client: LeptonClient, id: str) -> str:
    for group in _groups(client):
        if any(each.metadata.id == id for each in client.reservations.list(group)):
            return group
    raise NotFound(
        f"there is no reservation {id!r}", hint="`leptonai node reservations` shows them"
    )


def _tell(made: NodeReservation, output: str, done: str) -> None:
    if output == "json":
        print_json(made)
        return
    nodes = ", ".join(made.status.reserved_nodes) if made.status else ""
    state = made.status.phase.value if made.status else ""
    click.echo(f"{done} {made.metadata.id}: {state}{f', {nodes}' if nodes else ''}")


def _row(group: str, each: NodeReservation) -> tuple[str, ...]:
    rule, status = each.spec.time_rule, each.status
    nodes = ", ".join(status.reserved_nodes) if status else ""
    return (
        each.metadata.id or "",
        group,
        status.phase.value if status else "",
        nodes or f"{each.spec.desired_nodes} desired",
        ", ".join(each.spec.users or [each.metadata.owner or ""]),
        _time(rule.start_timestamp if rule else None),
        _time(rule.end_timestamp if rule else None),
    )


def _time(at_s: int | None) -> str:
    if at_s is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
