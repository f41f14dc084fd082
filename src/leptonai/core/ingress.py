"""Which domain leads to which endpoints, and with which shares. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import msgspec

from leptonai.core.records import Endpoint, Ingress
from leptonai.spec.endpoints import LoadBalance
from leptonai.spec.ingress import DomainRecord, IngressEndpoint, IngressStatus

DEFAULT_WEIGHT = 100


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint's part of a host's requests."""

    workspace: str
    name: str
    weight: int


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A domain whose requests several endpoints share."""

    domain: str  # in lower case
    shares: tuple[Share, ...]
    by_address: bool = False  # one caller gets to one endpoint, as long as the shares stay


@dataclass(frozen=True, slots=True)
class Lookup:
    """What DNS said of a domain."""

    addresses: tuple[str, ...]
    leads_here: bool  # one of them is the gateway's
    at_ms: int


def domain_owners(
    endpoints: Iterable[Endpoint], ingresses: Iterable[Ingress] = ()
) -> dict[str, Endpoint | Ingress]:
    """Whose a domain is, by its name in lower case: of several that name it, who was made first."""
    named: list[tuple[Endpoint | Ingress, Sequence[str]]] = [
        (each, (each.spec.gateway and each.spec.gateway.domains) or ()) for each in endpoints
    ]
    named += [(each, (each.spec.domain_name,)) for each in ingresses]
    owners: dict[str, Endpoint | Ingress] = {}
    for owner, hosts in sorted(named, key=lambda each: (each[0].created_at_ms, each[0].id)):
        for host in hosts:
            owners.setdefault(host.lower(), owner)
    return owners


def host_of(ingress: Ingress, endpoints: Mapping[tuple[str, str], Endpoint]) -> Host:
    """Args: endpoints: by workspace and name; what is not there has no share."""
    named = ingress.spec.endpoints or ()
    return Host(
        domain=ingress.spec.domain_name.lower(),
        shares=tuple(
            Share(workspace=ingress.workspace, name=each.deployment or "", weight=_weight(each))
            for each in named
            if (ingress.workspace, each.deployment) in endpoints and _weight(each) > 0
        ),
        by_address=any(_maglev(each.load_balance_config) for each in named),
    )


def balance_wishes(
    ingresses: Iterable[Ingress], endpoints: Mapping[tuple[str, str], Endpoint]
) -> dict[tuple[str, str], LoadBalance]:
    """How ingresses would have the replicas of an endpoint chosen, by workspace and name; of
    several that say so, who was made first. Only its owner has a say in an endpoint."""
    wishes: dict[tuple[str, str], LoadBalance] = {}
    for ingress in sorted(ingresses, key=lambda each: (each.created_at_ms, each.id)):
        for share in ingress.spec.endpoints or ():
            key = (ingress.workspace, share.deployment or "")
            endpoint, wish = endpoints.get(key), share.load_balance_config
            if wish is not None and endpoint is not None and endpoint.owner == ingress.owner:
                wishes.setdefault(key, wish)
    return wishes


def status_of(
    ingress: Ingress,
    owner: Endpoint | Ingress | None,
    known: Iterable[str],
    cname: str,
    lookup: Lookup | None = None,
) -> IngressStatus:
    """
    Args:
        owner: whose the domain is.
        known: names of the workspace's endpoints.
        cname: what a DNS record of the domain should point at.
        lookup: what DNS says of it, if that was asked already.
    """
    dns = _record(cname, lookup)
    domain = ingress.spec.domain_name
    if owner is None or owner.id != ingress.id:
        return IngressStatus(
            validation_status="failed",
            message=f"{domain} belongs to another resource",
            expected_cname_target=cname,
            dns=dns,
        )
    names = [each.deployment or "" for each in ingress.spec.endpoints or () if _weight(each) > 0]
    there = set(known)
    serving = [name for name in names if name in there]
    gone = [name for name in names if name not in there]
    if not serving:
        why = f"no endpoint {', '.join(gone)}" if gone else "no endpoint yet: add one"
        return IngressStatus(
            validation_status="pending", message=why, expected_cname_target=cname, dns=dns
        )
    message = f"leads to {', '.join(serving)}"
    if gone:
        message += f"; there is no endpoint {', '.join(gone)}"
    if dns.leads_here is False:
        message += f"; but {_strays(dns, domain)}"
    return IngressStatus(
        validation_status="active", message=message, expected_cname_target=cname, dns=dns
    )


def _record(host: str, lookup: Lookup | None) -> DomainRecord:
    try:
        kind = "A" if ip_address(host).version == 4 else "AAAA"
    except ValueError:
        kind = "CNAME"
    return DomainRecord(
        record=f"{kind} {host}",
        leads_here=lookup.leads_here if lookup else None,
        addresses=list(lookup.addresses) if lookup else [],
        looked_up_at=lookup.at_ms if lookup else None,
    )


def _strays(dns: DomainRecord, domain: str) -> str:
    if not dns.addresses:
        return f"DNS does not know {domain} yet: give it a record {dns.record}"
    return f"DNS leads {domain} to {dns.addresses[0]}: give it a record {dns.record}"


def _weight(share: IngressEndpoint) -> int:
    return DEFAULT_WEIGHT if share.weight is None else share.weight


def _maglev(balance: LoadBalance | None) -> bool:
    return balance is not None and balance.maglev is not None
