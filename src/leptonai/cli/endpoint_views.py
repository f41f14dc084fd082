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
    from leptonai.spec.gateway import GatewaySettings


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
        say(
            "nothing to plot yet: of an endpoint that is scaled by a target, requests are counted "
            "every five minutes"
        )
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
        ("domains", ", ".join(_gateway(each).domains or ())),
        ("limits", _limits(each)),
        ("requests", _requests(each)),
        ("created", f"{age(each.metadata.created_at)} ago" if each.metadata.created_at else ""),
    ]


def _access(each: LeptonDeployment) -> str:
    spec = each.spec
    literal = sum(1 for token in spec.api_tokens or () if token.value_from is None)
    if spec.allow_unauthenticated_access:
        opened = "public"
    elif literal:
        opened = f"{literal} token{'s' if literal > 1 else ''} of its own"
    else:
        opened = "the workspace's tokens"
    addresses = (spec.auth_config.ip_allowlist if spec.auth_config else None) or ()
    return f"{opened}, from {', '.join(addresses)} alone" if addresses else opened


def _gateway(each: LeptonDeployment) -> GatewaySettings:
    from leptonai.spec.gateway import GatewaySettings

    return each.spec.gateway or GatewaySettings()


def _limits(each: LeptonDeployment) -> str:
    limits = _gateway(each).rate_limit
    if limits is None:
        return ""
    told = [
        f"{number} {what}"
        for number, what in (
            (limits.requests_per_minute, "requests"),
            (limits.tokens_per_minute, "tokens of the model"),
        )
        if number is not None
    ]
    return f"{' and '.join(told)} a minute for each {limits.by or 'token'}" if told else ""


def _requests(each: LeptonDeployment) -> str:
    """What the gateway does with them, as far as it was asked for."""
    settings = _gateway(each)
    told = []
    if settings.retry is not None:
        told.append(f"repeated: {settings.retry}")
    if settings.hedge is not None:
        percentile, after_ms = settings.hedge.percentile, settings.hedge.after_ms
        told.append(f"hedged after {f'p{percentile:g}' if percentile else f'{after_ms or 0:g} ms'}")
    if settings.balance is not None:
        name = f" {settings.balance.name}" if settings.balance.name else ""
        told.append(f"balanced by {settings.balance.by}{name}")
    hold = settings.hold
    if hold is not None:
        most = "" if hold.max_requests is None else f" {hold.max_requests} of them"
        long = "" if hold.max_seconds is None else f" for {hold.max_seconds} s"
        heard = ", told of it" if hold.progress else ""
        told.append(f"held without a replica:{most}{long}{heard}")
    return "; ".join(told)
