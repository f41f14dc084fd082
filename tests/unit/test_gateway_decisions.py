"""What the gateway decides without touching anything: who is let in, and where to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.routing import Route, Upstream
from leptonai.errors import Forbidden, InvalidRequest, LeptonError, Unauthenticated
from leptonai.gateway.admission import Gate, digest_of
from leptonai.gateway.answers import Answer, error_answer
from leptonai.gateway.balance import choose
from leptonai.gateway.endpoint import Endpoint
from leptonai.gateway.envoy.figures import read_figures
from leptonai.gateway.head import (
    Fields,
    ResponseHead,
    read_request,
    split_target,
    upstream_request,
)
from leptonai.gateway.limits import Limits
from leptonai.gateway.metrics import LATENCY_BUCKETS_S, EndpointFigures, Traffic, exposition
from leptonai.gateway.report import Reporter

# --- which replica --------------------------------------------------------------------------------


@dataclass(eq=False)
class ATarget:
    outstanding: int = 0
    ejected_until: float = 0.0


def test_equally_busy_replicas_take_turns() -> None:
    targets = [ATarget(), ATarget(), ATarget()]
    chosen = [choose(targets, turn, now=0) for turn in range(5)]
    assert chosen == [targets[0], targets[1], targets[2], targets[0], targets[1]]


def test_there_is_no_choice_among_none() -> None:
    assert choose([], 0, now=0) is None
    assert choose([ATarget(ejected_until=2)], 0, now=1) is None
    assert choose([ATarget(ejected_until=2)], 0, now=2) is not None


@given(
    st.lists(st.builds(ATarget, st.integers(0, 5), st.sampled_from([0.0, 10.0])), max_size=8),
    st.integers(0, 100),
)
def test_no_available_replica_has_less_to_do_than_the_chosen_one(
    targets: list[ATarget], turn: int
) -> None:
    available = [target for target in targets if target.ejected_until <= 5]
    chosen = choose(targets, turn, now=5)
    if chosen is None:
        assert available == []
    else:
        assert chosen.ejected_until <= 5
        assert chosen.outstanding == min(target.outstanding for target in available)


# --- who is let in --------------------------------------------------------------------------------

WORKSPACE = frozenset(["workspace"])


def refusal(digest: str = "", address: str = "1.2.3.4", **route: Any) -> type[LeptonError] | None:
    gate = Gate(Route(workspace="w", name="n", **route), WORKSPACE)
    error = gate.refusal(digest, address)
    return None if error is None else type(error)


@pytest.mark.parametrize(
    ("route", "digest", "outcome"),
    [
        ({}, "", Unauthenticated),
        ({}, "unknown", Unauthenticated),
        ({}, "workspace", None),
        ({"token_sha256": ("own",)}, "own", None),
        ({"token_sha256": ("own",)}, "workspace", None),
        ({"token_sha256": ("own",), "workspace_tokens": False}, "own", None),
        ({"token_sha256": ("own",), "workspace_tokens": False}, "workspace", Forbidden),
        ({"token_sha256": ("own",), "workspace_tokens": False}, "unknown", Unauthenticated),
        ({"public": True}, "", None),
        ({"public": True}, "unknown", None),
    ],
)
def test_a_gate_opens_to_its_tokens(
    route: dict[str, Any], digest: str, outcome: type[LeptonError] | None
) -> None:
    assert refusal(digest, **route) is outcome


@pytest.mark.parametrize(
    ("allowlist", "address", "outcome"),
    [
        (("1.2.3.0/24",), "1.2.3.4", None),
        (("1.2.3.0/24",), "::ffff:1.2.3.4", None),
        (("1.2.3.9/24",), "1.2.3.4", None),
        (("1.2.3.4",), "1.2.3.4", None),
        (("1.2.3.0/24",), "1.2.4.4", Forbidden),
        (("2001:db8::/32",), "2001:db8::1", None),
        (("2001:db8::/32",), "1.2.3.4", Forbidden),
        (("no network",), "1.2.3.4", Forbidden),
        (("0.0.0.0/0",), "", Forbidden),
    ],
)
def test_an_allow_list_is_asked_beside_the_token(
    allowlist: tuple[str, ...], address: str, outcome: type[LeptonError] | None
) -> None:
    assert refusal("workspace", address, ip_allowlist=allowlist) is outcome
    assert refusal("", address, ip_allowlist=allowlist) is Unauthenticated


@pytest.mark.parametrize(
    ("authorization", "digest"),
    [
        (b"Bearer abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"bEARER  abc ", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"Bearer ", ""),
        (b"Bearer", ""),
        (b"Basic abc", ""),
        (b"Bearer " + b"x" * 5000, ""),
        (None, ""),
    ],
)
def test_a_bearer_token_is_known_by_its_hash(authorization: bytes | None, digest: str) -> None:
    assert digest_of(authorization) == digest


# --- heads ----------------------------------------------------------------------------------------

HOST: Fields = [(b"Host", b"h")]


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/e/w/n/a/b?c=/d", (b"/e/w/n", b"/a/b?c=/d")),
        (b"/e/w/n/", (b"/e/w/n", b"/")),
        (b"/e/w/n", (b"/e/w/n", b"/")),
        (b"/e/w/n?a=/b", (b"/e/w/n", b"/?a=/b")),
        (b"/e/w/n//x", (b"/e/w/n", b"//x")),
        (b"/lab/w/n/tree?a", (b"/lab/w/n", b"/tree?a")),
        (b"/port/w/n/a", (b"/port/w/n", b"/a")),
        (b"/port/w", None),
        (b"/ports/w/n/", None),
        (b"/e/w/", (b"/e/w/", b"/")),
        (b"/e/w", None),
        (b"/e/", None),
        (b"/", None),
        (b"/x/w/n/", None),
    ],
)
def test_a_target_is_an_endpoint_and_a_path(
    target: bytes, parts: tuple[bytes, bytes] | None
) -> None:
    assert split_target(target) == parts


def upstream(fields: Fields, *, method: bytes = b"GET", show_authorization: bool = False) -> bytes:
    head = read_request(method, b"/e/w/n/p", "1.1", fields)
    before, after = upstream_request(
        head,
        b"/p",
        prefix=b"/e/w/n",
        address=b"1.2.3.4",
        client=b"c7",
        show_authorization=show_authorization,
    )
    return before + b"ID" + after


OURS = (
    b"host: h\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: http\r\n"
    b"x-forwarded-host: h\r\nx-forwarded-prefix: /e/w/n\r\nx-lepton-client: c7\r\n"
)


def test_what_a_replica_gets_is_what_came_less_what_was_for_us() -> None:
    fields: Fields = [
        *HOST,
        (b"Accept", b"a"),
        (b"Connection", b"close, x-hop"),
        (b"X-Hop", b"1"),
        (b"Upgrade", b"h2c"),
        (b"X-Forwarded-For", b"6.6.6.6"),
        (b"X-Lepton-Client", b"somebody else"),
        (b"Authorization", b"Bearer t"),
        (b"Content-Length", b"3"),
    ]
    assert upstream(fields, method=b"POST", show_authorization=True) == (
        b"POST /p HTTP/1.1\r\n" + OURS + b"x-request-id: ID\r\nAccept: a\r\n"
        b"authorization: Bearer t\r\n\r\n"
    )
    assert b"Bearer" not in upstream(fields)


def test_a_websocket_handshake_keeps_its_upgrade() -> None:
    fields: Fields = [*HOST, (b"Connection", b"Keep-Alive, Upgrade"), (b"Upgrade", b"WebSocket")]
    assert upstream(fields) == (
        b"GET /p HTTP/1.1\r\n" + OURS + b"x-request-id: ID\r\n"
        b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    )


def test_a_connection_header_cannot_take_away_what_we_add() -> None:
    fields: Fields = [*HOST, (b"Connection", b"x-forwarded-for, x-lepton-client, host")]
    assert OURS in upstream(fields)


@pytest.mark.parametrize(
    ("version", "target", "fields"),
    [
        ("0.9", b"/", []),
        ("2.0", b"/", HOST),
        ("1.1", b"*", HOST),
        ("1.1", b"http://h/", HOST),
        ("1.1", b"/#a", HOST),
        ("1.1", b"/", []),
        ("1.1", b"/", [*HOST, *HOST]),
        ("1.0", b"/", [*HOST, *HOST]),
        ("1.1", b"/", [*HOST, (b"Transfer-Encoding", b"gzip, chunked")]),
        ("1.0", b"/", [*HOST, (b"Transfer-Encoding", b"chunked")]),
        ("1.1", b"/", [*HOST, (b"Authorization", b"a"), (b"Authorization", b"b")]),
        (
            "1.1",
            b"/",
            [
                *HOST,
                (b"Connection", b"upgrade"),
                (b"Upgrade", b"websocket"),
                (b"Content-Length", b"1"),
            ],
        ),
    ],
)
def test_ambiguous_heads_are_refused(version: str, target: bytes, fields: Fields) -> None:
    with pytest.raises(InvalidRequest):
        read_request(b"GET", target, version, fields)


def test_an_answers_head_loses_what_was_for_one_connection() -> None:
    fields: Fields = [
        (b"Content-Length", b"3"),
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
    ]
    head = ResponseHead(200, b"OK", fields)
    assert (head.content_length, head.transfer_encoding) == (b"3", b"")
    assert head.encode(b"our: own\r\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"our: own\r\n\r\n"
    )


def test_our_own_answers_say_what_happened_and_what_to_do() -> None:
    answer = error_answer(Unauthenticated("who are you", hint="say it"), b"id7")
    assert answer.encode(close=True, keep_alive_1_0=False, head_only=False) == (
        b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 66\r\n"
        b"connection: close\r\nx-request-id: id7\r\nwww-authenticate: Bearer\r\n\r\n"
        b'{"code":"Unauthenticated","message":"who are you","hint":"say it"}'
    )
    assert Answer(200, b"ok").encode(close=False, keep_alive_1_0=True, head_only=True) == (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
        b"connection: keep-alive\r\n\r\n"
    )


# --- waiting for a replica ------------------------------------------------------------------------


class AGateway:
    """Remembers what it was asked to connect."""

    def __init__(self) -> None:
        self.limits = Limits(held_per_endpoint=3, hold_s=60)
        self.loop = self
        self.reporter = Reporter(self.now)
        self.connected: list[str] = []
        self.timers: list[Callable[[], None]] = []
        self.clock = 100.0

    def now(self) -> float:
        return self.clock

    def connect(self, target: Any) -> None:
        self.connected.append(target.upstream.replica)

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.timers.append(call)


class AnExchange:
    def __init__(self, name: str) -> None:
        self.name = name
        self.client = self
        self.deadline = 400.0
        self.passage = self
        self.replica = self.key = b""
        self.endpoint: Any = None
        self.failed_target: Any = None
        self.attempts = 0
        self.held_until = 0.0
        self.fresh_connection = False
        self.done = False
        self.target: Any = None
        self.error: LeptonError | None = None

    def sent_to(self, target: Any, now: float) -> None:
        self.target = target
        self.attempts += 1

    def drop_target(self, now: float) -> None:
        self.target.outstanding -= 1
        self.target = None

    def wait_in_hold(self) -> None:
        self.target = None

    def fail(self, error: LeptonError) -> None:
        self.done = True
        self.error = error


def an_endpoint(*replicas: str, expecting: bool = True) -> tuple[Endpoint, AGateway]:
    gateway = AGateway()
    endpoint = Endpoint(gateway, a_route(*replicas, expecting=expecting), WORKSPACE)  # type: ignore[arg-type]
    return endpoint, gateway


def a_route(*replicas: str, expecting: bool = True) -> Route:
    upstreams = tuple(Upstream(replica=name, host="h", port=1) for name in replicas)
    return Route(workspace="w", name="n", upstreams=upstreams, expecting=expecting)


def dispatch(endpoint: Endpoint, *names: str) -> list[AnExchange]:
    exchanges = [AnExchange(name) for name in names]
    for exchange in exchanges:
        exchange.endpoint = endpoint
        endpoint.dispatch(exchange, 100.0)  # type: ignore[arg-type]
    return exchanges


def test_held_requests_are_released_in_the_order_they_came() -> None:
    endpoint, gateway = an_endpoint()
    held = dispatch(endpoint, "a", "b", "c")
    assert gateway.connected == []
    endpoint.update(a_route("r1"), WORKSPACE)
    assert gateway.connected == ["r1"] * 3
    [target] = endpoint.targets
    assert [target.next_waiting() for _ in range(4)] == [*held, None]
    assert endpoint.tally.held == {}


def test_one_request_more_than_may_wait_is_told_so() -> None:
    endpoint, _ = an_endpoint()
    *waiting, refused = dispatch(endpoint, "a", "b", "c", "d")
    assert [exchange.error for exchange in waiting] == [None] * 3
    assert str(refused.error) == (
        "endpoint 'n' has no ready replica, and 3 requests wait for one already"
    )


def test_a_request_whose_replicas_all_refuse_waits_for_them_to_come_back() -> None:
    endpoint, gateway = an_endpoint("r1", "r2")
    [exchange] = dispatch(endpoint, "a")
    for _ in range(2):
        exchange.target.not_opened()
    assert gateway.connected == ["r2", "r1"]
    assert list(endpoint.tally.held) == [exchange]  # type: ignore[comparison-overlap]
    gateway.clock += gateway.limits.eject_s
    [timer] = gateway.timers
    timer()
    assert len(gateway.connected) == 3
    assert endpoint.tally.held == {}


def test_nothing_is_held_for_an_endpoint_that_expects_no_replica() -> None:
    endpoint, _ = an_endpoint(expecting=False)
    [exchange] = dispatch(endpoint, "a")
    assert str(exchange.error) == "endpoint 'n' is stopped: it has no replicas"


# --- metrics --------------------------------------------------------------------------------------


def test_what_envoy_counted_is_told_beside_what_we_did() -> None:
    of = 'envoy_cluster_name="w/n"'
    counts = [1, 1, 2, *[2] * 12]
    bounds = [*(f"{1000 * bound:g}" for bound in LATENCY_BUCKETS_S), "+Inf"]
    said = [
        "# TYPE envoy_cluster_upstream_rq counter",
        f'envoy_cluster_external_upstream_rq{{envoy_response_code="200",{of}}} 9',
        f'envoy_cluster_upstream_rq{{envoy_response_code="200",{of}}} 1',
        f'envoy_cluster_upstream_rq{{envoy_response_code="404",{of}}} 1',
        'envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="lepton"} 9',
        *(
            f'envoy_cluster_upstream_rq_time_bucket{{{of},le="{bound}"}} {count}'
            for bound, count in zip(bounds, counts, strict=True)
        ),
        f"envoy_cluster_upstream_rq_time_sum{{{of}}} 5.25",
        f"envoy_cluster_upstream_rq_time_count{{{of}}} 2",
    ]
    read = read_figures("\n".join(said) + "\n")
    assert [*read] == [("w", "n")]
    figures = EndpointFigures(
        *("w", "n", {"": Traffic()}),
        shadows={},
        refused={},
        hedges={},
        in_flight=0,
        waiting=0,
        by_envoy=read["w", "n"],
    )
    lines = exposition([figures], refused={}, clients=0, seq=1).splitlines()
    label = 'workspace="w",endpoint="n",proxy="envoy"'
    assert [line for line in lines if label in line] == [
        f'lepton_gateway_requests_total{{{label},code="200"}} 1',
        f'lepton_gateway_requests_total{{{label},code="404"}} 1',
        *(
            f'lepton_gateway_request_seconds_bucket{{{label},le="{bound}"}} {count}'
            for bound, count in zip((*LATENCY_BUCKETS_S, "+Inf"), counts, strict=True)
        ),
        f"lepton_gateway_request_seconds_sum{{{label}}} 0.005250",
        f"lepton_gateway_request_seconds_count{{{label}}} 2",
    ]


def test_a_scrape_shows_requests_by_endpoint_and_code() -> None:
    traffic = Traffic()
    traffic.count(200, 0.0009)
    traffic.count(200, 0.2)
    traffic.count(502, 60)
    traffic.lost_attempts = 6
    shadows = Traffic()
    shadows.arrivals, shadows.compared, shadows.body_differs = 9, 8, 1
    text = exposition(
        [
            EndpointFigures(
                *("w", "n", {"": Traffic(), "3": traffic}),
                shadows={"4": shadows},
                refused={429: 3},
                hedges={"sent": 2, "won": 1},
                in_flight=4,
                waiting=5,
            )
        ],
        refused={401: 2},
        clients=7,
        seq=9,
    )
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    endpoint = 'workspace="w",endpoint="n"'
    label = f'{endpoint},version="3"'
    assert lines == [
        f'lepton_gateway_requests_total{{{label},code="200"}} 2',
        f'lepton_gateway_requests_total{{{label},code="502"}} 1',
        *(
            f'lepton_gateway_request_seconds_bucket{{{label},le="{bound}"}} {count}'
            for bound, count in [
                ("0.001", 1),
                ("0.0025", 1),
                ("0.005", 1),
                ("0.01", 1),
                ("0.025", 1),
                ("0.05", 1),
                ("0.1", 1),
                ("0.25", 2),
                ("0.5", 2),
                ("1.0", 2),
                ("2.5", 2),
                ("5.0", 2),
                ("10.0", 2),
                ("30.0", 2),
                ("+Inf", 3),
            ]
        ),
        f"lepton_gateway_request_seconds_sum{{{label}}} 60.200900",
        f"lepton_gateway_request_seconds_count{{{label}}} 3",
        f"lepton_gateway_lost_attempts_total{{{label}}} 6",
        *(
            f'lepton_gateway_shadows_total{{{endpoint},version="4",outcome="{outcome}"}} {count}'
            for outcome, count in [
                ("same", 7),
                ("status_differs", 0),
                ("body_differs", 1),
                ("not_compared", 1),
            ]
        ),
        f'lepton_gateway_hedges_total{{{endpoint},outcome="sent"}} 2',
        f'lepton_gateway_hedges_total{{{endpoint},outcome="won"}} 1',
        f"lepton_gateway_in_flight{{{endpoint}}} 4",
        f"lepton_gateway_waiting{{{endpoint}}} 5",
        f'lepton_gateway_denied_total{{{endpoint},code="429"}} 3',
        'lepton_gateway_refused_total{code="401"} 2',
        "lepton_gateway_connections 7",
        "lepton_gateway_route_table_seq 9",
    ]
