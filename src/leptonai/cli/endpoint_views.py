"""How an endpoint is shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from leptonai.cli.output import age, say, wants_colour
from leptonai.cli.scaling import desired, foresight, policy_text, requests_chart, why
from leptonai.cli.views import resources_text, state_of

if TYPE_CHECKING:
    from leptonai.spec.endpoints import LeptonDeployment, RequestHistory


def url_of(each: LeptonDeployment) -> str:
    return each.status.endpoint.external_endpoint if each.status else ""


def row_of(each: LeptonDeployment) -> tuple[str, ...]:
    ready = (each.status.ready_replicas or 0) if each.status else 0
    return (
        each.metadata.name or "",
        state_of(each),
        f"{ready}/{desired(each)}",
        age(each.metadata.created_at),
        url_of(each),
    )


def print_requests(requests: RequestHistory) -> None:
    import shutil

    if not requests.requests_per_second:
        say("nothing to plot yet: requests are counted of an endpoint that is scaled by a target")
        return
    terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, 120)
    text = requests_chart(requests, width=width, coloured=terminal and wants_colour())
    click.echo("\n".join(text), color=terminal)


def facts_of(each: LeptonDeployment) -> list[tuple[str, str]]:
    import shlex

    spec, status = each.spec, each.status
    return [
        ("name", each.metadata.name or ""),
        ("state", state_of(each)),
        ("message", (status.message or "") if status else ""),
        ("url", url_of(each)),
        ("ready", row_of(each)[2]),
        ("scaling", policy_text(each)),
        ("because", why(each)),
        ("foresight", foresight(each)),
        ("model", spec.model or ""),
        ("command", shlex.join(spec.container.command or [])),
        ("port", str(spec.port or "any: each replica is told its own in $PORT")),
        ("each", resources_text(spec.resource_requirement)),
        ("access", _access(each)),
        ("created", f"{age(each.metadata.created_at)} ago" if each.metadata.created_at else ""),
    ]


def _access(each: LeptonDeployment) -> str:
    if each.spec.allow_unauthenticated_access:
        return "public"
    literal = sum(1 for token in each.spec.api_tokens or () if token.value_from is None)
    return f"{literal} tokens of its own" if literal else "the workspace's tokens"
