"""Which domain leads where."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from leptonai.core.ingress import Host, Share, domain_owners, status_of
from leptonai.core.records import Endpoint, Ingress
from leptonai.core.routing import BalanceBy, RouteTable, route_table
from leptonai.gateway.hosts import SharedHost
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.ingress import IngressSpec


def an_endpoint(name: str, at_ms: int = 1, **spec: Any) -> Endpoint:
    spec = msgspec.convert(spec, EndpointSpec)
    return Endpoint(workspace="w", id=f"{name}-id", name=name, created_at_ms=at_ms, spec=spec)


def an_ingress(domain: str, at_ms: int = 1, **shares: int | None) -> Ingress:
    endpoints = [{"deployment": name, "weight": weight} for name, weight in shares.items()]
    spec = msgspec.convert({"domain_name": domain, "endpoints": endpoints}, IngressSpec)
    return Ingress(workspace="w", id=f"{domain}-id", name="i", created_at_ms=at_ms, spec=spec)


def table(endpoints: list[Endpoint], ingresses: list[Ingress]) -> RouteTable:
    return route_table(1, endpoints, {}, {}, {}, ingresses)


def test_a_domain_is_shared_by_weight_among_endpoints_that_there_are() -> None:
    made = table(
        [an_endpoint("a"), an_endpoint("b")],
        [an_ingress("Models.example.org", a=80, b=None, gone=50)],
    )
    assert made.hosts == (
        Host(
            domain="models.example.org",
            shares=(
                Share(workspace="w", name="a", weight=80),
                Share(workspace="w", name="b", weight=100),
            ),
        ),
    )


def test_an_endpoint_without_weight_gets_nothing() -> None:
    (host,) = table([an_endpoint("a")], [an_ingress("x.org", a=0)]).hosts
    assert host.shares == ()


def test_a_domain_belongs_to_whoever_was_first() -> None:
    endpoint = an_endpoint("a", 2, gateway={"domains": ["x.org", "y.org"]})
    older, younger = an_ingress("x.org", 1, a=1), an_ingress("Y.org", 3, a=1)
    owners = domain_owners([endpoint], [younger, older])
    assert owners == {"x.org": older, "y.org": endpoint}
    made = table([endpoint], [younger, older])
    assert [host.domain for host in made.hosts] == ["x.org"]
    assert made.routes[0].domains == ("y.org",)


def test_what_an_ingress_says_of_balancing_gives_way_to_the_endpoint_itself() -> None:
    spec = {"domain_name": "x.org", "endpoints": [
        {"deployment": "a", "load_balance_config": {"maglev": {}}},
        {"deployment": "b", "load_balance_config": {"maglev": {}}},
    ]}  # fmt: skip
    ingress = msgspec.structs.replace(an_ingress("x.org"), spec=msgspec.convert(spec, IngressSpec))
    own = an_endpoint("b", load_balance_config={"least_request": {}})
    made = {each.name: each for each in table([an_endpoint("a"), own], [ingress]).routes}
    assert made["a"].balance.by is BalanceBy.ADDRESS
    assert made["b"].balance.by is BalanceBy.LEAST_OUTSTANDING
    strangers = msgspec.structs.replace(ingress, owner="eve")
    (route,) = table([an_endpoint("a")], [strangers]).routes
    assert route.balance.by is BalanceBy.LEAST_OUTSTANDING


@pytest.mark.parametrize(
    ("shares", "known", "status", "word"),
    [
        ({}, ["a"], "pending", "no endpoint yet"),
        ({"a": 1}, [], "pending", "no endpoint a"),
        ({"a": 1}, ["a"], "active", "leads to a"),
        ({"a": 1, "b": 1}, ["a"], "active", "there is no endpoint b"),
    ],
)
def test_the_status_says_where_it_leads(
    shares: dict[str, int], known: list[str], status: str, word: str
) -> None:
    ingress = an_ingress("x.org", **shares)
    said = status_of(ingress, ingress, known, "gateway.example.org")
    assert said.validation_status == status
    assert word in said.message
    assert said.expected_cname_target == "gateway.example.org"


def test_a_domain_that_is_anothers_has_failed() -> None:
    assert status_of(an_ingress("x.org"), an_endpoint("a"), [], "").validation_status == "failed"


def a_shared_host(by_address: bool) -> tuple[SharedHost, dict[bytes, Any]]:
    endpoints: dict[bytes, Any] = {b"/e/w/a": "a", b"/e/w/b": "b"}
    shares = (Share(workspace="w", name="a", weight=4), Share(workspace="w", name="b", weight=1))
    return SharedHost(Host(domain="x", shares=shares, by_address=by_address), endpoints), endpoints


def test_requests_are_shared_out_evenly() -> None:
    host, _ = a_shared_host(by_address=False)
    assert abs(Counter(host.choose("1.2.3.4") for _ in range(100))["a"] - 80) <= 1


def test_a_caller_stays_where_it_is_if_it_is_asked_for() -> None:
    host, _ = a_shared_host(by_address=True)
    for caller in range(50):
        assert len({host.choose(f"10.0.0.{caller}") for _ in range(5)}) == 1
    assert {host.choose(f"10.0.0.{caller}") for caller in range(50)} == {"a", "b"}


def test_a_host_without_shares_leads_nowhere() -> None:
    assert SharedHost(Host(domain="x", shares=()), {}).choose("1.1.1.1") is None
