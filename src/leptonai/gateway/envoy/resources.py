"""Envoy's configuration, as the JSON of its xDS resources (v3). Pure.

Routes are tried in their order, and the last one of each virtual host leads to our gateway: a
request that no earlier one lets in is answered, or refused, there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leptonai.core.routing import Retry, Route, RouteTable

from ..head import IDEMPOTENT
from ..limits import CONNECT_S, MAX_HEAD_BYTES, MAX_HEADERS, MAX_REPLAY_BYTES, Limits
from ..metrics import LATENCY_BUCKETS_S

Json = dict[str, Any]
Address = tuple[str, int]

OURS = "lepton"  # the cluster that is our gateway
DIGEST = "x-lepton-digest"
KEY = "x-lepton-envoy-key"  # proves to our gateway that it is Envoy that asks
ADDRESS = "x-lepton-address"  # whose request it is
CALLER = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"  # what Envoy puts there
OURS_IDLE_S = 3_700  # our gateway has shorter deadlines of its own
POOL_IDLE_S = 3  # under the 5 s after which uvicorn closes
RETRIES = 4
_TYPE = "type.googleapis.com/envoy."
_ROUTER = _TYPE + "extensions.filters.http.router.v3.Router"
_CONNECTIONS = (
    _TYPE + "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)
_LUA = _TYPE + "extensions.filters.http.lua.v3.Lua"
_MANAGER = _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PREVIOUS = _TYPE + "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
# Never sent, so it may be sent elsewhere, whatever it does.
_NOT_SENT = "connect-failure,refused-stream,reset-before-request"
_SAFE = "|".join(sorted(method.decode() for method in IDEMPOTENT))


def bootstrap(host: str, port: int, lua: str) -> Json:
    """What Envoy starts with; everything else is in files beside it that are replaced."""
    return {
        "node": {"id": "lepton", "cluster": "lepton"},
        "admin": {"address": {"pipe": {"path": "admin.sock", "mode": 0o600}}},
        "static_resources": {"listeners": [_listener(host, port, lua)]},
        "dynamic_resources": {"cds_config": _file("cds.json")},
        "stats_config": {
            "histogram_bucket_settings": [
                {
                    "match": {"suffix": "upstream_rq_time"},
                    "buckets": [1000 * bound for bound in LATENCY_BUCKETS_S],
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": _CONNECTIONS,
                        "max_active_downstream_connections": str(Limits().connections),
                    },
                }
            ]
        },
        "layered_runtime": {
            # A token's digest takes 66 steps of a pattern, and Envoy's own limit is 100.
            "layers": [
                {"name": "ours", "static_layer": {"re2.max_program_size.error_level": 2**31 - 1}}
            ]
        },
    }


def response(version: int, resources: Iterable[Json]) -> Json:
    """What a file holds."""
    return {"version_info": str(version), "resources": list(resources)}


def cluster_of(route: Route) -> str:
    return f"{route.workspace}/{route.name}"


def eds_file(cluster: str) -> str:
    return f"eds-{cluster.replace('/', '.')}.json"


def assignment(cluster: str, serving: Iterable[Address], leaving: Iterable[Address]) -> Json:
    """Where a cluster's replicas are. Those that leave get nothing new, and stay to be asked how
    much they still have."""
    hosts = [(address, "HEALTHY") for address in sorted(serving)]
    hosts += [(address, "DRAINING") for address in sorted(leaving)]
    return {
        "@type": _TYPE + "config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [
            {
                "lb_endpoints": [
                    {"endpoint": {"address": _address(*address)}, "health_status": health}
                    for address, health in hosts
                ]
            }
        ],
    }


def cluster(name: str, *, grpc: bool) -> Json:
    return {
        "@type": _TYPE + "config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _file(eds_file(name))},
        "connect_timeout": f"{CONNECT_S:g}s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "0.5s",
            "base_ejection_time": "1s",
            "max_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
        "per_connection_buffer_limit_bytes": MAX_REPLAY_BYTES,
        **_unlimited(),
        **_protocol(
            {"http2_protocol_options": {}} if grpc else {"http_protocol_options": {}}, POOL_IDLE_S
        ),
    }


def our_cluster(address: Address) -> Json:
    return {
        "@type": _TYPE + "config.cluster.v3.Cluster",
        "name": OURS,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_S:g}s",
        "load_assignment": {
            "cluster_name": OURS,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(*address)}}]}],
        },
        **_unlimited(),
        **_protocol({"http_protocol_options": {}}, 30),
    }


def routes(table: RouteTable, short: Mapping[str, Route], key: str) -> Json:
    """
    Args:
        short: the endpoints that Envoy serves, by cluster.
        key: what our gateway knows Envoy by.
    """
    known = sorted({each for hashes in table.workspace_token_sha256.values() for each in hashes})
    ours = _to_us(key)
    elsewhere = [
        # Deadlines of callers, and connections that become something else.
        {"match": {"prefix": "/", "headers": [_present("x-lepton-timeout-ms")]}, **ours},
        {"match": {"prefix": "/", "headers": [_present("upgrade")]}, **ours},
    ]
    by_path: list[Json] = []
    hosts: list[Json] = []
    for cluster_name, route in sorted(short.items()):
        tokens = tuple(table.workspace_token_sha256.get(route.workspace, ()))
        prefix = f"/e/{route.workspace}/{route.name}"
        by_path += _routes_of(route, cluster_name, prefix, tokens, known)
        hosts.append(
            {
                "name": cluster_name,
                "domains": [f"{route.name}.{route.workspace}.localhost", *route.domains],
                "routes": [
                    {"match": {"prefix": "/e/"}, **ours},
                    *elsewhere,
                    *_routes_of(route, cluster_name, "", tokens, known),
                    {"match": {"prefix": "/"}, **ours},
                ],
            }
        )
    hosts += [
        {
            "name": f"{cluster_of(route)} (asleep)",
            "domains": [f"{route.name}.{route.workspace}.localhost", *route.domains],
            "routes": [{"match": {"prefix": "/"}, **_unavailable(route)}],
        }
        for route in table.routes
        if route.grpc and cluster_of(route) not in short
    ]
    others = {
        "name": "all others",
        "domains": ["*"],
        "routes": [*elsewhere, *by_path, {"match": {"prefix": "/"}, **ours}],
    }
    return {
        "@type": _TYPE + "config.route.v3.RouteConfiguration",
        "name": "gateway",
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [*hosts, others],
    }


def _routes_of(
    route: Route, cluster_name: str, prefix: str, tokens: tuple[str, ...], known: list[str]
) -> list[Json]:
    """Those that let in: what replicas may see of the token depends on whose it is, and what is
    done where one dies on the request."""
    if route.public:
        # (conditions, whether the replica gets the Authorization header)
        doors = [([_one_of(known)], False)] if known else []
        doors.append(([], True))
    else:
        workspace = list(tokens) if route.workspace_tokens else []
        own = [each for each in route.token_sha256 if each not in known]
        shared = [*workspace, *(each for each in route.token_sha256 if each in known)]
        doors = [([_one_of(each)], shown) for each, shown in ((shared, False), (own, True)) if each]
    made = []
    for conditions, shown in doors:
        for more, retry_on in _kinds(route.retry):
            made.append(
                {
                    "match": {"prefix": prefix + "/", "headers": [*conditions, *more]},
                    "route": {
                        "cluster": cluster_name,
                        **({"prefix_rewrite": "/"} if prefix else {}),
                        "timeout": "0s",
                        "idle_timeout": f"{route.timeout_s}s",
                        "retry_policy": _retries(retry_on),
                    },
                    "request_headers_to_add": [
                        _header("x-forwarded-for", CALLER),
                        _header("x-forwarded-proto", "http"),
                        _header("x-forwarded-host", "%REQ(:AUTHORITY)%"),
                        _header("x-forwarded-prefix", prefix or "/"),
                        # Where tokens let in, the filter has set it by the token.
                        *([_header("x-lepton-client", CALLER)] if route.public else []),
                    ],
                    "request_headers_to_remove": [
                        *(DIGEST, KEY, ADDRESS, "x-lepton-shadow"),
                        *("x-envoy-external-address", "forwarded", "x-real-ip"),
                        *(() if shown else ("authorization",)),
                    ],
                }
            )
    return made


def _kinds(retry: Retry) -> list[tuple[list[Json], str]]:
    """Requests by what may be sent twice."""
    anything = f"{_NOT_SENT},reset"
    if retry is Retry.ALWAYS:
        return [([], anything)]
    if retry is Retry.NEVER:
        return [([], _NOT_SENT)]
    safe = {"name": ":method", "string_match": {"safe_regex": {"regex": _SAFE}}}
    return [([safe], anything), ([_present("idempotency-key")], anything), ([], _NOT_SENT)]


def _retries(retry_on: str) -> Json:
    return {
        "retry_on": retry_on,
        "num_retries": RETRIES,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": _PREVIOUS},
            }
        ],
        "host_selection_retry_max_attempts": "8",
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }


def _to_us(key: str) -> Json:
    return {
        "route": {
            "cluster": OURS,
            "timeout": "0s",
            "idle_timeout": f"{OURS_IDLE_S}s",
            "retry_policy": _retries("connect-failure,reset-before-request"),
            "upgrade_configs": [{"upgrade_type": "websocket"}],
        },
        "request_headers_to_add": [
            _header(KEY, key),
            _header(ADDRESS, CALLER),
        ],
        "request_headers_to_remove": [DIGEST, "x-envoy-external-address"],
    }


def _unavailable(route: Route) -> Json:
    """Our gateway does not speak gRPC; for its clients a 503 is UNAVAILABLE."""
    text = f"endpoint {route.name!r} has no ready replica, or is scaled by what we cannot count"
    return {"direct_response": {"status": 503, "body": {"inline_string": text}}}


def _listener(host: str, port: int, lua: str) -> Json:
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "gateway",
        "codec_type": "AUTO",  # HTTP/1.1, and HTTP/2 by its preface
        "rds": {"route_config_name": "gateway", "config_source": _file("rds.json")},
        "use_remote_address": True,
        "normalize_path": False,  # a path is the replica's matter, as it is at our gateway
        "merge_slashes": False,
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "stream_idle_timeout": "0s",  # routes have their own
        "request_headers_timeout": "10s",
        "max_request_headers_kb": MAX_HEAD_BYTES // 1024,
        "common_http_protocol_options": {
            "idle_timeout": "75s",
            "max_headers_count": MAX_HEADERS,
            # To CGI and WSGI an underscore is a dash: `X_Forwarded_For` would be believed there.
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "http_protocol_options": {"accept_http_10": True},
        "upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}],
        "local_reply_config": {
            "mappers": [
                {  # a replica that broke off: as our gateway answers
                    "filter": {"response_flag_filter": {"flags": ["UC", "UPE"]}},
                    "status_code": 502,
                }
            ],
            "body_format": {
                "json_format": {
                    "code": "%RESPONSE_CODE_DETAILS%",
                    "message": "%LOCAL_REPLY_BODY%",
                }
            },
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.lua",
                "typed_config": {"@type": _LUA, "default_source_code": {"inline_string": lua}},
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _ROUTER, "suppress_envoy_headers": True},
            },
        ],
    }
    return {
        "name": "gateway",
        "address": _address(host, port),
        "enable_reuse_port": True,
        "per_connection_buffer_limit_bytes": MAX_REPLAY_BYTES,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }


def _protocol(explicit: Json, idle_s: int) -> Json:
    options = {
        "@type": f"type.googleapis.com/{_OPTIONS}",
        "common_http_protocol_options": {"idle_timeout": f"{idle_s}s"},
        "explicit_http_config": explicit,
    }
    return {"typed_extension_protocol_options": {_OPTIONS: options}}


def _unlimited() -> Json:
    """The limits of Envoy's own, 1024 of each, are for many clusters that share one machine."""
    most = 100_000
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"circuit_breakers": {"thresholds": [dict.fromkeys(limits, most)]}}


def _file(name: str) -> Json:
    return {"path_config_source": {"path": f"./{name}"}, "resource_api_version": "V3"}


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _header(name: str, value: str) -> Json:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _present(name: str) -> Json:
    return {"name": name, "present_match": True}


def _one_of(digests: Iterable[str]) -> Json:
    return {"name": DIGEST, "string_match": {"safe_regex": {"regex": "|".join(digests)}}}
