"""Which endpoints Envoy serves without our gateway. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from leptonai.core.routing import BalanceBy, Route

LEAST_REPLICAS = 2  # so that a request whose replica dies finds another


def takes_short_cut(route: Route) -> bool:
    """Whether all that its endpoint asks of the gateway can be said in Envoy's files.

    What must be counted for the control plane (scaling, roll-outs that are judged), held, limited,
    compared, hedged or kept with one replica stays with our gateway.
    """
    least = 1 if route.grpc else LEAST_REPLICAS  # nobody else could serve gRPC
    return (
        len(route.upstreams) >= least
        and not route.watched
        and not route.weights
        and route.shadow is None
        and route.limit is None
        and route.counting is None
        and route.hedging is None
        and not route.ip_allowlist
        and not route.route_by_replica_header
        and route.balance.by is BalanceBy.LEAST_OUTSTANDING
        and all(_is_address(each.host) for each in route.upstreams)
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
