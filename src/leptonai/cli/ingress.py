"""`leptonai ingress`: domains, and the endpoints that share their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_facts, print_json, print_list
from leptonai.cli.session import connect, output_option

if TYPE_CHECKING:
    from leptonai.spec.ingress import DomainRecord, LeptonIngress

ingress = Group(
    name="ingress",
    help="Have a domain lead to one or several endpoints, by weight.",
    example="""\
leptonai ingress create models.example.org stable:80 canary:20
leptonai ingress share models-example-org-1f3c stable:50 canary:50
leptonai ingress list""",
)

shares_argument = click.argument("shares", nargs=-1, metavar="[ENDPOINT:WEIGHT]...")


@ingress.does(
    "create",
    example="""\
leptonai ingress create models.example.org stable:80 canary:20
curl -H "Host: models.example.org" -H "Authorization: Bearer $(leptonai token show)" \\
    http://127.0.0.1:8421/""",
)
@click.argument("domain")
@shares_argument
@click.option("-n", "--name", help="Of the ingress; by default made from the domain.")
@output_option
def create(domain: str, shares: tuple[str, ...], name: str | None, output: str) -> None:
    """Have requests to DOMAIN go to these endpoints, each its share."""
    with connect() as client:
        made = client.ingresses.create(domain, _shares(shares), name)
    _tell(made, output, "created")


@ingress.does("list", example="leptonai ingress list")
@output_option
def list_(output: str) -> None:
    """List the domains, and where they lead."""
    with connect() as client:
        found = client.ingresses.list()
    headers = ("NAME", "DOMAIN", "STATE", "LEADS TO", "AGE")
    none = "no ingresses; `leptonai ingress create DOMAIN ENDPOINT` makes one"
    print_list(found, output, headers, _row, none=none)


@ingress.does("get", example="leptonai ingress get models-example-org-1f3c")
@click.argument("name")
@output_option
def get(name: str, output: str) -> None:
    """Show one ingress."""
    with connect() as client:
        found = client.ingresses.get(name)
    if output == "json":
        print_json(found)
        return
    status = found.status
    print_facts(
        (
            ("name", found.metadata.name or ""),
            ("domain", found.spec.domain_name),
            ("state", status.validation_status if status else ""),
            ("", status.message if status else ""),
            ("shares", _shown(found)),
            ("record", status.dns.record if status and status.dns else ""),
            ("dns", _dns(status.dns) if status and status.dns else ""),
            ("owner", found.metadata.owner or ""),
        )
    )


@ingress.does("share", example="leptonai ingress share models-example-org-1f3c stable:1 canary:1")
@click.argument("name")
@shares_argument
@output_option
def share(name: str, shares: tuple[str, ...], output: str) -> None:
    """Lead to these endpoints, by weight, and to no others."""
    with connect() as client:
        changed = client.ingresses.share(name, _shares(shares))
    _tell(changed, output, "changed")


@ingress.does("remove", example="leptonai ingress remove models-example-org-1f3c")
@click.argument("name")
@output_option
def remove(name: str, output: str) -> None:
    """Remove an ingress; its endpoints stay."""
    with connect() as client:
        client.ingresses.remove(name)
    answer({"name": name, "action": "removed"}, output, f"removed {name}")


def _shares(texts: tuple[str, ...]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for text in texts:
        endpoint, colon, weight = text.partition(":")
        if not endpoint or (colon and not (weight.isascii() and weight.isdigit())):
            raise click.UsageError(f"{text!r} is no ENDPOINT:WEIGHT, such as stable:80")
        if endpoint in shares:
            raise click.UsageError(f"{endpoint!r} is named twice")
        shares[endpoint] = int(weight) if colon else 100
    return shares


def _tell(made: LeptonIngress, output: str, done: str) -> None:
    if output == "json":
        print_json(made)
        return
    message = made.status.message if made.status else ""
    click.echo(f"{done} {made.metadata.name}: {made.spec.domain_name} {message}")


def _dns(found: DomainRecord) -> str:
    if found.leads_here is None:
        return "is looked up: ask again"
    where = ", ".join(found.addresses) or "no address"
    return f"{where}: {'leads here' if found.leads_here else 'does not lead here'}"


def _shown(each: LeptonIngress) -> str:
    return ", ".join(
        f"{share.deployment}:{100 if share.weight is None else share.weight}"
        for share in each.spec.endpoints or ()
    )


def _row(each: LeptonIngress) -> tuple[str, ...]:
    return (
        each.metadata.name or "",
        each.spec.domain_name,
        each.status.validation_status if each.status else "",
        _shown(each),
        age(each.metadata.created_at),
    )
