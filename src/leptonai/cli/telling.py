"""What all that runs tells of itself: the commands `events` and `why`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import print_json
from leptonai.cli.session import connect, output_option
from leptonai.cli.views import print_events, print_explanation

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.spec.explanations import Explanation
    from leptonai.spec.replicas import LeptonEvent


def tells(
    group: Group,
    what: str,
    example: str,
    *,
    events: Callable[[LeptonClient, str], Sequence[LeptonEvent]],
    why: Callable[[LeptonClient, str], Explanation],
) -> None:
    """Give the group of "a job" and its like both commands; `example` is a name of one."""

    @group.does(
        "events",
        example=f"leptonai {group.name} events {example}",
        help=f"Show what happened to {what}.",
    )
    @output_option
    @click.argument("name")
    def _events(output: str, name: str) -> None:
        with connect() as client:
            told = events(client, name)
        print_json(told) if output == "json" else print_events(told)

    @group.does(
        "why",
        example=f"leptonai {group.name} why {example}",
        help=f"Say why {what} is in the state it is in, and what would change that.",
    )
    @output_option
    @click.argument("name")
    def _why(output: str, name: str) -> None:
        with connect() as client:
            explanation = why(client, name)
        print_json(explanation) if output == "json" else print_explanation(explanation)
