"""The gateway's route table, made from endpoints and their replicas.

The control plane makes a table whenever one of them changes; a gateway follows by `seq`, keeps the
last one on disk, and needs nothing else to serve.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from leptonai.core.autoscaling import policy_kept
from leptonai.core.ingress import Host, balance_wishes, domain_owners, host_of
from leptonai.core.records import (
    Autoscaling,
    Endpoint,
    Goal,
    Ingress,
    OwnerKind,
    Phase,
    Replica,
)
from leptonai.core.rollouts.progress import candidate, shadowed, weights
from leptonai.spec.endpoints import EndpointSpec, LoadBalance
from leptonai.spec.gateway import GatewaySettings, HoldSettings
from leptonai.spec.pods import JUPYTER_AT, JUPYTER_PORT, PROXY_AT

ENDPOINTS_AT = "e"  # the gateway serves endpoints at /e/WORKSPACE/NAME/
STOPPED_DRAIN_MS = 10_000  # for the requests of an endpoint that somebody stops or removes
POD_HOLD_S = 15.0  # who enters a pod that is just starting waits so long
POD_SILENCE_S = 900  # of somebody in a pod; whoever is still there answers its pings
DEFAULT_TIMEOUT_S = 300  # of a request, where the endpoint sets none
DEFAULT_HELD_REQUESTS = 256
DEFAULT_HELD_S = 60.0
DEFAULT_HEDGES_PERCENT = 5.0
HELD_STARTS = 2  # where an endpoint's starts take long: it may take so many


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    replica: str
    host: str
    port: int
    version: str = ""  # of its endpoint: see `version_of`


class Retry(StrEnum):
    """Which requests may be sent to a second replica once a first has been sent a byte."""

    SAFE = "safe"  # those that do no harm twice: GET, HEAD …, and any with an Idempotency-Key
    ALWAYS = "always"  # any: the endpoint's answers change nothing
    NEVER = "never"


class BalanceBy(StrEnum):
    LEAST_OUTSTANDING = "least-outstanding"  # the replica with the fewest requests under way
    HEADER = "header"  # consistent hash of a header's value
    ADDRESS = "address"  # consistent hash of the caller's address
    COOKIE = "cookie"  # the replica that gave the first answer, told by a cookie


class Balance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one of several replicas is chosen. A hash or a cookie is a wish: where its replica is
    gone, another one takes its place."""

    by: BalanceBy = BalanceBy.LEAST_OUTSTANDING
    name: str = ""  # of the header, in lower case, or of the cookie


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many requests may wait for a first replica, and for how long."""

    requests: int = DEFAULT_HELD_REQUESTS
    seconds: float = DEFAULT_HELD_S
    progress: bool = False  # clients that accept an event stream are told while they wait


class LimitBy(StrEnum):
    TOKEN = "token"  # noqa: S105  # a caller without a token is limited by address
    ADDRESS = "address"


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one caller may use. Each gateway counts for itself."""

    by: LimitBy = LimitBy.TOKEN
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of models, as the `usage` of an answer says


class Hedging(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a request that does no harm twice goes to a second replica, too: after `after_ms`, or
    where that is 0, after the `quantile` of the times to the first byte of an answer."""

    quantile: float = 0.0
    after_ms: float = 0.0
    budget: float = 0.05  # second tries that a request earns


class Counting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which requests the endpoint's scaling target counts. () is any; a path that ends with * is
    all that begin so."""

    paths: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of requests, whose answers are compared and thrown away."""

    version: str
    percent: float  # of the requests that other versions get


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How requests to ``/{at}/{workspace}/{name}/…`` are let in, and where they go."""

    workspace: str
    name: str
    at: str = ENDPOINTS_AT
    upstreams: tuple[Upstream, ...] = ()
    expecting: bool = False  # replicas are on their way, or come when asked: requests may wait
    weights: dict[str, float] = {}  # by version; {}: all replicas alike. Not named, not asked
    shadow: Shadow | None = None
    token_sha256: tuple[str, ...] = ()  # of the endpoint's own tokens
    workspace_tokens: bool = True  # the workspace's tokens are let in too
    public: bool = False  # no token is asked for
    ip_allowlist: tuple[str, ...] = ()  # () lets any address in
    timeout_s: int = DEFAULT_TIMEOUT_S  # a request's deadline, unless it names an earlier one
    route_by_replica_header: bool = False  # X-Lepton-Replica-Target picks the replica
    retry: Retry = Retry.SAFE
    balance: Balance = Balance()
    hold: Hold = Hold()
    limit: RateLimit | None = None
    counting: Counting | None = None  # None: nobody asks
    hedging: Hedging | None = None
    watched: bool = False  # its requests are counted for whoever scales or judges it
    grpc: bool = False  # its replicas speak HTTP/2 alone
    domains: tuple[str, ...] = ()  # hosts that are this endpoint's own, in lower case
    credential: str = ""  # the replica is sent this as Authorization, whatever the caller sent
    browser_key: str = ""  # signs what lets browsers in; "": none is let in without a token
    keeps_prefix: bool = False  # the replica is sent the whole path

    @property
    def key(self) -> str:
        return f"/{self.at}/{self.workspace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDoor:
    """Who enters a pod, and what the gateway shows it to be believed."""

    token_sha256: tuple[str, ...]  # of who may change the pod
    key: str


class RouteTable(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    routes: tuple[Route, ...]
    workspace_token_sha256: dict[str, tuple[str, ...]]  # by workspace
    hosts: tuple[Host, ...] = ()  # domains that endpoints share


def version_of(replica: Replica) -> str:
    """Which version of its endpoint a replica serves: its revision, as text."""
    return str(replica.revision)


def drain_bound_ms(endpoint: Endpoint | None, replica: Replica) -> int:
    """For how long a server that leaves may go on with the requests that it has: to their own
    deadline where others take over; not for long where nobody is to serve any more. Sessions of a
    pod have no deadline, and end with it."""
    if replica.program.pod:
        return 0
    if endpoint is None or endpoint.spec.replicas == 0:
        return STOPPED_DRAIN_MS
    return 1000 * (endpoint.spec.ingress_timeout_seconds or DEFAULT_TIMEOUT_S)


def route_table(
    seq: int,
    endpoints: Iterable[Endpoint],
    replicas: Mapping[str, list[Replica]],
    addresses: Mapping[str, str],
    workspace_token_sha256: dict[str, tuple[str, ...]],
    ingresses: Iterable[Ingress] = (),
    doors: Mapping[str, PodDoor] = {},
) -> RouteTable:
    """The table for these endpoints.

    Args:
        replicas: of each endpoint, by `Replica.parent`.
        addresses: where each node is reached.
        doors: of each pod, by its id.
    """
    endpoints, ingresses = list(endpoints), list(ingresses)
    pods = [each for each in endpoints if each.is_pod]
    endpoints = [each for each in endpoints if not each.is_pod]
    named = {(endpoint.workspace, endpoint.name): endpoint for endpoint in endpoints}
    wishes = balance_wishes(ingresses, named)
    domains: dict[str, list[str]] = {}
    hosts: list[Host] = []
    for domain, owner in sorted(domain_owners(endpoints, ingresses).items()):
        if isinstance(owner, Ingress):
            hosts.append(host_of(owner, named))
        else:
            domains.setdefault(owner.id, []).append(domain)
    routes = [
        _route(
            endpoint,
            replicas.get(f"{OwnerKind.ENDPOINT}/{endpoint.id}", []),
            addresses,
            tuple(domains.get(endpoint.id, ())),
            wishes.get((endpoint.workspace, endpoint.name)),
        )
        for endpoint in endpoints
    ]
    for pod in pods:
        family = replicas.get(f"{OwnerKind.ENDPOINT}/{pod.id}", [])
        routes += _pod_routes(pod, doors[pod.id], family, addresses)
    routes.sort(key=lambda route: (route.workspace, route.name, route.at))
    return RouteTable(
        seq=seq,
        routes=tuple(routes),
        workspace_token_sha256=workspace_token_sha256,
        hosts=tuple(hosts),
    )


def without_keys(table: RouteTable) -> RouteTable:
    """For the eyes of people: nothing in it opens anything."""
    routes = tuple(
        msgspec.structs.replace(route, credential="", browser_key="") for route in table.routes
    )
    return msgspec.structs.replace(table, routes=routes)


def _route(
    endpoint: Endpoint,
    replicas: list[Replica],
    addresses: Mapping[str, str],
    domains: tuple[str, ...],
    wish: LoadBalance | None,
) -> Route:
    serving = _serving(replicas, addresses)
    spec = endpoint.spec
    auth = spec.auth_config
    versions = Counter(version_of(replica) for replica in serving)
    shadow = shadowed(endpoint)
    settings = spec.gateway or GatewaySettings()
    return Route(
        workspace=endpoint.workspace,
        name=endpoint.name,
        upstreams=tuple(
            Upstream(
                replica=replica.id,
                host=addresses[replica.node],
                port=replica.ports[0],
                version=version_of(replica),
            )
            for replica in serving
        ),
        expecting=spec.replicas > 0,
        weights=weights(endpoint, versions),
        shadow=Shadow(version=shadow[0], percent=shadow[1]) if shadow else None,
        token_sha256=tuple(token.sha256 for token in endpoint.token_hashes),
        public=bool(spec.allow_unauthenticated_access),
        ip_allowlist=tuple(auth.ip_allowlist or ()) if auth else (),
        timeout_s=spec.ingress_timeout_seconds or DEFAULT_TIMEOUT_S,
        route_by_replica_header=bool(
            spec.routing_policy and spec.routing_policy.enable_header_based_replica_routing
        ),
        retry=Retry(settings.retry or Retry.SAFE),
        balance=_balance(spec, settings, wish),
        hold=_hold(settings, endpoint.autoscaling),
        limit=_limit(settings),
        counting=_counting(spec),
        hedging=_hedging(settings),
        watched=policy_kept(spec) is not None or candidate(endpoint) is not None,
        grpc=speaks_grpc(spec),
        domains=domains,
    )


def speaks_grpc(spec: EndpointSpec) -> bool:
    """At the port that requests come to."""
    return bool(spec.container.ports and spec.container.ports[0].app_protocol == "grpc")


def _serving(replicas: list[Replica], addresses: Mapping[str, str]) -> list[Replica]:
    return [
        replica
        for replica in sorted(replicas, key=lambda replica: replica.id)
        if replica.ready
        and replica.phase is Phase.RUNNING
        and replica.goal is Goal.RUN
        and replica.ports
        and replica.node in addresses
    ]


def _pod_routes(
    pod: Endpoint, door: PodDoor, replicas: list[Replica], addresses: Mapping[str, str]
) -> list[Route]:
    """To its own process, where sessions begin; to its JupyterLab; and to the port that is to be
    proxied. Nobody is let in who may not change it."""
    serving = _serving(replicas, addresses)
    ports = dict(pod.pod.ports)
    jupyter = ports.get(JUPYTER_PORT)

    def upstreams(port: Callable[[Replica], int | None]) -> tuple[Upstream, ...]:
        return tuple(
            Upstream(replica=each.id, host=addresses[each.node], port=number)
            for each in serving
            if (number := port(each)) is not None
        )

    entrance = Route(
        workspace=pod.workspace,
        name=pod.name,
        upstreams=upstreams(lambda replica: replica.ports[0]),
        expecting=pod.wanted > 0,
        hold=Hold(seconds=POD_HOLD_S),
        token_sha256=door.token_sha256,
        workspace_tokens=False,
        retry=Retry.NEVER,
        timeout_s=POD_SILENCE_S,
        credential=f"Bearer {door.key}",
    )
    lab = msgspec.structs.replace(
        entrance,
        at=JUPYTER_AT,
        upstreams=upstreams(lambda replica: jupyter),
        credential=f"token {door.key}",
        browser_key=door.key,
        keeps_prefix=True,
    )
    if pod.spec.proxied_port is None:
        return [entrance, lab]
    proxied = ports.get(pod.spec.proxied_port)
    program = msgspec.structs.replace(
        entrance, at=PROXY_AT, upstreams=upstreams(lambda replica: proxied), credential=""
    )
    return [entrance, lab, program]


def _balance(spec: EndpointSpec, settings: GatewaySettings, wish: LoadBalance | None) -> Balance:
    """The endpoint's own settings go before what an ingress says of it."""
    asked = settings.balance
    if asked is not None:
        by = BalanceBy(asked.by)
        name = asked.name or ""
        return Balance(by=by, name=name.lower() if by is BalanceBy.HEADER else name)
    published = spec.load_balance_config or wish
    if published is not None and published.maglev is not None:
        return Balance(by=BalanceBy.ADDRESS)
    return Balance()


def _hold(settings: GatewaySettings, autoscaling: Autoscaling | None) -> Hold:
    asked = settings.hold or HoldSettings()
    start_s = autoscaling.usual_start_ms / 1000 if autoscaling else 0.0
    patience_s = max(DEFAULT_HELD_S, 10 * math.ceil(HELD_STARTS * start_s / 10))
    return Hold(
        requests=DEFAULT_HELD_REQUESTS if asked.max_requests is None else asked.max_requests,
        seconds=patience_s if asked.max_seconds is None else asked.max_seconds,
        progress=bool(asked.progress),
    )


def _limit(settings: GatewaySettings) -> RateLimit | None:
    asked = settings.rate_limit
    if asked is None or not (asked.requests_per_minute or asked.tokens_per_minute):
        return None
    return RateLimit(
        by=LimitBy(asked.by or LimitBy.TOKEN),
        requests_per_minute=asked.requests_per_minute,
        tokens_per_minute=asked.tokens_per_minute,
    )


def _counting(spec: EndpointSpec) -> Counting | None:
    target = spec.auto_scaler.target_throughput if spec.auto_scaler else None
    if target is None or not target.counts_some:
        return None
    return Counting(paths=tuple(target.paths or ()), methods=tuple(target.methods or ()))


def _hedging(settings: GatewaySettings) -> Hedging | None:
    asked = settings.hedge
    if asked is None or not (asked.percentile or asked.after_ms):
        return None
    return Hedging(
        quantile=0.0 if asked.after_ms else (asked.percentile or 0.0) / 100,
        after_ms=asked.after_ms or 0.0,
        budget=(asked.budget_percent or DEFAULT_HEDGES_PERCENT) / 100,
    )
