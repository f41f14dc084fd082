"""What an endpoint asks of the gateway, as its route says it."""

from typing import Any

import msgspec
import pytest

from leptonai.cli.gateway_options import gateway_patch
from leptonai.core.ingress import domain_owners
from leptonai.core.records import Endpoint
from leptonai.core.routing import (
    Balance,
    BalanceBy,
    Counting,
    Hedging,
    Hold,
    LimitBy,
    RateLimit,
    Retry,
    Route,
    route_table,
)
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import EndpointSpec


def an_endpoint(name: str = "e", at_ms: int = 1, **spec: object) -> Endpoint:
    return Endpoint(
        workspace="w",
        id=f"{name}-1",
        name=name,
        created_at_ms=at_ms,
        spec=msgspec.convert(spec, EndpointSpec),
    )


def routes(*endpoints: Endpoint) -> dict[str, Route]:
    table = route_table(1, endpoints, {}, {}, {})
    return {route.name: route for route in table.routes}


def test_a_route_says_what_its_endpoint_asked() -> None:
    asked = {
        "retry": "always",
        "balance": {"by": "header", "name": "X-User"},
        "hold": {"max_requests": 3, "progress": True},
        "rate_limit": {"by": "address", "tokens_per_minute": 9},
        "domains": ["Models.example.org"],
    }
    route = routes(an_endpoint(gateway=asked))["e"]
    assert route.retry is Retry.ALWAYS
    assert route.balance == Balance(by=BalanceBy.HEADER, name="x-user")
    assert route.hold == Hold(requests=3, progress=True)
    assert route.limit == RateLimit(by=LimitBy.ADDRESS, tokens_per_minute=9)
    assert route.domains == ("models.example.org",)


def test_without_asking_requests_are_safe_and_unlimited() -> None:
    route = routes(an_endpoint(gateway={"rate_limit": {"by": "token"}}))["e"]
    assert (route.retry, route.balance, route.limit) == (Retry.SAFE, Balance(), None)
    maglev = routes(an_endpoint(load_balance_config={"maglev": {}}))["e"]
    assert maglev.balance.by is BalanceBy.ADDRESS


def test_a_domain_belongs_to_the_endpoint_that_asked_first() -> None:
    older = an_endpoint("older", 1, gateway={"domains": ["a.example.org"]})
    younger = an_endpoint("younger", 2, gateway={"domains": ["A.example.org", "b.example.org"]})
    assert domain_owners([younger, older])["a.example.org"] is older
    made = routes(younger, older)
    assert (made["older"].domains, made["younger"].domains) == (
        ("a.example.org",),
        ("b.example.org",),
    )


FLAGS: dict[str, Any] = dict.fromkeys(
    (
        *("retry", "balance", "hold_requests", "hold_timeout", "hold_progress"),
        *("rate_limit", "token_limit", "limit_by", "hedge"),
    )
) | {"domains": ()}


@pytest.mark.parametrize(
    ("flags", "patch"),
    [
        ({}, {}),
        ({"retry": "never"}, {"retry": "never"}),
        ({"balance": "cookie"}, {"balance": {"by": "cookie", "name": None}}),
        ({"balance": "header:x-user"}, {"balance": {"by": "header", "name": "x-user"}}),
        ({"hedge": "p99.5"}, {"hedge": {"percentile": 99.5, "after_ms": None}}),
        ({"hedge": "0.2s"}, {"hedge": {"percentile": None, "after_ms": 200.0}}),
        ({"hedge": "none"}, {"hedge": None}),
        ({"hold_requests": 0}, {"hold": {"max_requests": 0}}),
        (
            {"rate_limit": 0, "token_limit": 5},
            {"rate_limit": {"requests_per_minute": None, "tokens_per_minute": 5}},
        ),
        ({"domains": ("none",)}, {"domains": None}),
        ({"domains": ("a.b",)}, {"domains": ["a.b"]}),
    ],
)
def test_flags_become_a_patch(flags: dict[str, Any], patch: dict[str, Any]) -> None:
    assert gateway_patch(FLAGS | flags) == patch


@pytest.mark.parametrize("how", ["maglev", "address:x", ""])
def test_an_unknown_way_of_balancing_is_refused(how: str) -> None:
    with pytest.raises(InvalidRequest, match="--balance"):
        gateway_patch(FLAGS | {"balance": how})


@pytest.mark.parametrize("when", ["p9", "95", "p95ms", "", "-1s"])
def test_an_unknown_time_to_hedge_is_refused(when: str) -> None:
    with pytest.raises(InvalidRequest, match="--hedge"):
        gateway_patch(FLAGS | {"hedge": when})


def test_what_is_hedged_and_counted_is_in_the_route() -> None:
    scaler = {"target_throughput": {"qpm": 9, "paths": ["/predict"]}}
    made = routes(
        an_endpoint("a", 1, gateway={"hedge": {"percentile": 95}}),
        an_endpoint("b", 2, gateway={"hedge": {"after_ms": 20, "budget_percent": 10}}),
        an_endpoint("c", 3, auto_scaler=scaler),
    )
    assert made["a"].hedging == Hedging(quantile=0.95, budget=0.05)
    assert made["b"].hedging == Hedging(after_ms=20, budget=0.1)
    assert made["c"].hedging is None
    assert made["c"].counting == Counting(paths=("/predict",))
