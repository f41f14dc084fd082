"""The flags that say how the gateway treats the requests to an endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.options import together
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.spec.endpoints import AuthConfig
    from leptonai.spec.gateway import GatewaySettings

F = TypeVar("F", bound=Callable[..., Any])
OFF = "none"


gateway_options = together(
    click.option(
        "--retry",
        type=click.Choice(("safe", "always", "never")),
        help="Which requests another replica gets when one dies of them; safe if not given: "
        "GET and the like, and any with an Idempotency-Key.",
    ),
    click.option(
        "--hedge",
        metavar="WHEN",
        help="A safe request without an answer by then goes to a second replica too: "
        f"p95, or a time like 200ms. {OFF} is off.",
    ),
    click.option(
        "--balance",
        metavar="HOW",
        help="least-outstanding, address, header:NAME, cookie or cookie:NAME.",
    ),
    click.option(
        "--rate-limit",
        type=click.IntRange(min=0),
        metavar="PER_MINUTE",
        help="Requests of one caller; 0 is no limit.",
    ),
    click.option(
        "--token-limit",
        type=click.IntRange(min=0),
        metavar="PER_MINUTE",
        help="Tokens of a model, in and out, that one caller may use; 0 is no limit.",
    ),
    click.option(
        "--limit-by",
        type=click.Choice(("token", "address")),
        help="Whom the limits are for; each token if not given.",
    ),
    click.option(
        "--hold-requests",
        type=click.IntRange(0, 10_000),
        metavar="NUMBER",
        help="How many may wait for a first replica; 256 if not given.",
    ),
    click.option(
        "--hold-timeout",
        type=click.IntRange(0, 3600),
        metavar="SECONDS",
        help="How long a request may wait for a first replica; 60 if not given.",
    ),
    click.option(
        "--hold-progress/--no-hold-progress",
        default=None,
        help="Tell those who accept an event stream that they wait.",
    ),
    click.option(
        "--domain",
        "domains",
        multiple=True,
        metavar="HOST",
        help=f"A host that is the endpoint's own; in place of all old ones. {OFF} has none.",
    ),
    click.option(
        "--allow-address",
        "addresses",
        multiple=True,
        metavar="ADDRESS",
        help="Let in only callers from this address or network, 10.0.0.0/8 say; in place of "
        f"all old ones. {OFF} lets all in.",
    ),
)


def gateway_patch(flags: dict[str, Any]) -> dict[str, Any]:
    """A merge patch of `spec.gateway`; {} if no flag was given.

    Raises:
        InvalidRequest: no such way of balancing.
    """
    patch: dict[str, Any] = {}
    if flags["retry"] is not None:
        patch["retry"] = flags["retry"]
    if flags["balance"] is not None:
        patch["balance"] = _balance(flags["balance"])
    if flags["hedge"] is not None:
        patch["hedge"] = _hedge(flags["hedge"])
    hold = {
        "max_requests": flags["hold_requests"],
        "max_seconds": flags["hold_timeout"],
        "progress": flags["hold_progress"],
    }
    limit = {
        "requests_per_minute": flags["rate_limit"],
        "tokens_per_minute": flags["token_limit"],
        "by": flags["limit_by"],
    }
    for key, parts in (("hold", hold), ("rate_limit", limit)):
        given = {name: value for name, value in parts.items() if value is not None}
        if key == "rate_limit":
            given = {name: None if value == 0 else value for name, value in given.items()}
        if given:
            patch[key] = given
    if flags["domains"]:
        domains = [each for each in flags["domains"] if each != OFF]
        patch["domains"] = domains or None
    return patch


def addresses_patch(flags: dict[str, Any]) -> dict[str, Any]:
    """A merge patch of `spec.auth_config`; {} if the flag was not given."""
    if not flags["addresses"]:
        return {}
    return {"ip_allowlist": [each for each in flags["addresses"] if each != OFF] or None}


def admitting(config: AuthConfig | None, patch: dict[str, Any]) -> AuthConfig | None:
    """What a file says, with what the flag says instead."""
    if not patch:
        return config
    import msgspec

    from leptonai.spec.endpoints import AuthConfig

    return msgspec.structs.replace(config or AuthConfig(), **patch)


def overridden(settings: GatewaySettings | None, patch: dict[str, Any]) -> GatewaySettings | None:
    """What a file says, with what the flags say instead."""
    if not patch:
        return settings
    import msgspec

    from leptonai.spec.gateway import GatewaySettings

    fields = msgspec.to_builtins(settings) if settings else {}
    for name, value in patch.items():
        old = fields.get(name)
        fields[name] = {**old, **value} if isinstance(old, dict) and name != "balance" else value
    try:
        return msgspec.convert(fields, GatewaySettings)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error), hint="see `leptonai endpoint create --help`") from None


def _hedge(text: str) -> dict[str, Any] | None:
    if text == OFF:
        return None
    read = re.fullmatch(r"p(\d{2}(?:\.\d+)?)|(\d+(?:\.\d+)?)(ms|s)", text)
    if read is None:
        raise InvalidRequest(
            f"--hedge: {text[:60]!r} is no time", hint="use a percentile, p95, or a time, 200ms"
        )
    if read[1] is not None:
        return {"percentile": float(read[1]), "after_ms": None}
    return {"percentile": None, "after_ms": float(read[2]) * (1000 if read[3] == "s" else 1)}


def _balance(text: str) -> dict[str, Any]:
    by, _, name = text.partition(":")
    takes_name = by in ("header", "cookie")
    if by not in ("least-outstanding", "address", "header", "cookie") or (name and not takes_name):
        raise InvalidRequest(
            f"--balance: there is no {text[:60]!r}",
            hint="use least-outstanding, address, header:NAME, cookie or cookie:NAME",
        )
    return {"by": by, "name": name or None}
