"""`leptonai endpoint log`: what the replicas of an endpoint wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Command
from leptonai.cli.log_lines import Wanted, line_options, print_lines
from leptonai.cli.output import print_json, say
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.spec.replicas import Replica


@click.command(
    "log",
    cls=Command,
    example="""\
leptonai endpoint log digits
leptonai endpoint log -f digits --replica ID
leptonai endpoint log digits --since 2h --grep ERROR -t""",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until they end.")
@click.option("--replica", metavar="ID", help="Only of this one.")
@line_options
@output_option
@click.argument("name")
def log(follow: bool, replica: str | None, output: str, name: str, wanted: Wanted) -> None:
    """Print what the replicas of an endpoint wrote.

    Lines of several replicas begin with the last part of the replica's id.
    """
    from leptonai.cli.following import follow_all

    if follow and output == "json":
        raise click.UsageError("a log that goes on is no JSON: leave out -f or -o json")
    if follow:
        wanted.check_following()
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        chosen = _chosen(client.endpoints.replicas(name), name, replica)
        if not (follow or wanted.everything):
            between_ns = wanted.between_ns()
            dated = {
                each.id.rsplit("-", 1)[-1]: client.endpoints.history(
                    name, *between_ns, replica_id=each.id, q=wanted.grep, last=wanted.tail
                )
                for each in chosen
            }
            print_lines(wanted, dated, output=output)
            return
        if output == "json":
            print_json(
                [
                    {"replica": each.id, "line": line}
                    for each in chosen
                    for line in client.endpoints.log(name, each.id, follow=False)
                ]
            )
            return
        logs = {
            _prefix(each, chosen): client.endpoints.log(
                name, each.id, follow=follow, tail=wanted.tail
            )
            for each in chosen
        }
        idle = not any(_runs(each) for each in chosen)
        if follow and logs:
            if idle:
                say(client.endpoints.why(name).because)
            follow_all(logs, wanted.grep)
            return
        told = False
        for prefix, text in logs.items():
            for line in text:
                told = True
                click.echo(prefix + line)
        if idle:  # what a server wrote that keeps ending is what one looks for
            say(("" if told else "no log yet: ") + client.endpoints.why(name).because)


def _chosen(replicas: Sequence[Replica], name: str, replica: str | None) -> list[Replica]:
    if replica is not None:
        named = [each for each in replicas if each.id == replica]
        if not named:
            raise InvalidRequest(
                f"endpoint {name} has no replica {replica}", hint=f"see `endpoint get {name}`"
            )
        return named
    return [each for each in replicas if _runs(each)] or [*replicas]


def _runs(replica: Replica) -> bool:
    return replica.status is None or replica.status.state == "Running"


def _prefix(replica: Replica, among: Sequence[Replica]) -> str:
    return f"[{replica.id.rsplit('-', 1)[-1]}] " if len(among) > 1 else ""
