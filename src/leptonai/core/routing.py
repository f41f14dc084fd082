"""The gateway's route table, made from endpoints and their replicas.

The control plane makes a table whenever one of them changes; a gateway follows by `seq`, keeps the
last one on disk, and needs nothing else to serve.
"""

from collections.abc import Iterable, Mapping

import msgspec

from leptonai.core.records import Endpoint, Goal, OwnerKind, Phase, Replica

DEFAULT_TIMEOUT_S = 300  # of a request, where the endpoint sets none


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    replica: str
    host: str
    port: int


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How requests to ``/e/{workspace}/{name}/…`` are let in, and where they go."""

    workspace: str
    name: str
    upstreams: tuple[Upstream, ...] = ()
    expecting: bool = False  # replicas are on their way: requests may wait for them
    token_sha256: tuple[str, ...] = ()  # of the endpoint's own tokens
    workspace_tokens: bool = True  # the workspace's tokens are let in too
    public: bool = False  # no token is asked for
    ip_allowlist: tuple[str, ...] = ()  # () lets any address in
    timeout_s: int = DEFAULT_TIMEOUT_S
    route_by_replica_header: bool = False  # X-Lepton-Replica-Target picks the replica


class RouteTable(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    routes: tuple[Route, ...]
    workspace_token_sha256: dict[str, tuple[str, ...]]  # by workspace


def route_table(
    seq: int,
    endpoints: Iterable[Endpoint],
    replicas: Mapping[str, list[Replica]],
    addresses: Mapping[str, str],
    workspace_token_sha256: dict[str, tuple[str, ...]],
) -> RouteTable:
    """The table for these endpoints.

    Args:
        replicas: of each endpoint, by `Replica.parent`.
        addresses: where each node is reached.
    """
    routes = [
        _route(endpoint, replicas.get(f"{OwnerKind.ENDPOINT}/{endpoint.id}", []), addresses)
        for endpoint in endpoints
    ]
    routes.sort(key=lambda route: (route.workspace, route.name))
    return RouteTable(seq=seq, routes=tuple(routes), workspace_token_sha256=workspace_token_sha256)


def _route(endpoint: Endpoint, replicas: list[Replica], addresses: Mapping[str, str]) -> Route:
    serving = [
        replica
        for replica in sorted(replicas, key=lambda replica: replica.id)
        if replica.ready
        and replica.phase is Phase.RUNNING
        and replica.goal is Goal.RUN
        and replica.ports
        and replica.node in addresses
    ]
    spec = endpoint.spec
    auth = spec.auth_config
    return Route(
        workspace=endpoint.workspace,
        name=endpoint.name,
        upstreams=tuple(
            Upstream(replica=replica.id, host=addresses[replica.node], port=replica.ports[0])
            for replica in serving
        ),
        expecting=spec.replicas > 0,
        token_sha256=tuple(token.sha256 for token in endpoint.token_hashes),
        public=bool(spec.allow_unauthenticated_access),
        ip_allowlist=tuple(auth.ip_allowlist or ()) if auth else (),
        timeout_s=spec.ingress_timeout_seconds or DEFAULT_TIMEOUT_S,
        route_by_replica_header=bool(
            spec.routing_policy and spec.routing_policy.enable_header_based_replica_routing
        ),
    )
