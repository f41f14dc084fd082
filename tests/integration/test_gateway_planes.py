"""The same endpoints by our own gateway and with Envoy in front of it."""

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor

import pytest
from gateway_world import (
    ENDPOINT_TOKEN,
    OTHER_WORKSPACE_TOKEN,
    PATIENCE_S,
    WORKSPACE_TOKEN,
    Cloud,
    Replica,
    Request,
    Wire,
    a_request,
    a_route,
    eventually,
    ok,
    read_answer,
    sha256,
    waiting,
)

from leptonai.errors import NotFound
from leptonai.gateway.envoy.shortcuts import takes_short_cut
from leptonai.main.envoy_process import find_envoy

PATH = "/e/default/e/"


@pytest.fixture(scope="module", params=["own", "envoy"])
def plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    if request.param == "envoy":
        need_envoy()
    made = Cloud(tmp_path_factory.mktemp("plane"), envoy=request.param == "envoy")
    yield made
    log = made.gateway.log.read_text()
    made.close()
    assert "Traceback" not in log, log


@pytest.fixture
def cloud(plane: Cloud) -> Iterator[Cloud]:
    yield plane
    plane.end_test()
    plane.routes.clear()
    plane.publish()


def need_envoy() -> None:
    try:
        find_envoy()
    except NotFound as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing.hint)
        pytest.skip(f"no Envoy here: {missing.hint}")


def pair(cloud: Cloud, **fields: object) -> list[Replica]:
    """Two replicas, which tell of the request; so that Envoy serves them itself."""

    def answer(wire: Wire, request: Request) -> None:
        told = [request.line, *(f"{k}: {v}" for k, v in sorted(request.headers.items()))]
        wire.send(ok("\n".join([*told, request.body.decode()]).encode()))

    replicas = [cloud.replica(answer), cloud.replica(answer)]
    cloud.endpoint(*replicas, **fields)
    return replicas


def headers_of(body: bytes) -> dict[str, str]:
    lines = body.decode().split("\n")[1:-1]
    return dict(line.split(": ", 1) for line in lines)


def by_envoy(cloud: Cloud) -> int:
    """Requests that Envoy gave to replicas itself."""
    if cloud.gateway.envoy is None:
        return 0
    name = "cluster.default/e.upstream_rq_total"
    stats = cloud.gateway.envoy_says(f"/stats?format=json&filter=^{name}$")["stats"]
    return sum(each["value"] for each in stats)


# --- where it is asked, and by whom ---------------------------------------------------------------


def test_paths_and_hosts_lead_to_an_endpoint(cloud: Cloud) -> None:
    pair(cloud, domains=["models.example.org"])
    before = by_envoy(cloud)
    status, _, body = cloud.gateway.ask(PATH + "a/b?c=d&e=%2F")
    assert (status, body.split(b"\n")[0]) == (200, b"GET /a/b?c=d&e=%2F HTTP/1.1")
    assert headers_of(body)["x-forwarded-prefix"] == "/e/default/e"
    for host in ("e.default.localhost", "E.default.LOCALHOST:81", "models.example.org"):
        with cloud.gateway.client() as wire:
            wire.send(
                f"GET /a/../b HTTP/1.1\r\nHost: {host}\r\n"
                f"Authorization: Bearer {WORKSPACE_TOKEN}\r\n\r\n".encode()
            )
            status, _, body = read_answer(wire)
        assert (status, body.split(b"\n")[0]) == (200, b"GET /a/../b HTTP/1.1")
        assert headers_of(body)["x-forwarded-prefix"] == "/"
    assert cloud.gateway.ask("/e/default/f/")[0] == 404
    assert cloud.gateway.ask("/nothing")[0] == 404
    assert cloud.gateway.ask("/healthz", None)[0] == 200
    assert by_envoy(cloud) - before == (4 if cloud.gateway.envoy else 0)


def test_metrics_count_every_request_whoever_gave_it_to_the_replica(cloud: Cloud) -> None:
    pair(cloud)
    before = requests_counted(cloud)
    for _ in range(5):
        assert cloud.gateway.ask(PATH)[0] == 200
    assert requests_counted(cloud)["200"] - before["200"] == 5
    _, _, text = cloud.gateway.ask("/metrics", OTHER_WORKSPACE_TOKEN)
    assert b'endpoint="e"' not in text


def requests_counted(cloud: Cloud) -> Counter[str]:
    text = cloud.gateway.ask("/metrics")[2].decode()
    told = re.findall(
        r'^lepton_gateway_requests_total\{.*endpoint="e",.*code="(\d+)"\} (\d+)$',
        text,
        re.MULTILINE,
    )
    counted: Counter[str] = Counter()
    for code, number in told:
        counted[code] += int(number)
    return counted


def test_tokens_let_in_and_replicas_see_none_that_opens_more(cloud: Cloud) -> None:
    pair(cloud, token_sha256=[sha256(ENDPOINT_TOKEN)])
    for token, status in (
        (WORKSPACE_TOKEN, 200),
        (ENDPOINT_TOKEN, 200),
        (OTHER_WORKSPACE_TOKEN, 401),
        ("wrong", 401),
        ("", 401),
        (None, 401),
        ("x" * 5000, 401),
    ):
        found, _, body = cloud.gateway.ask(PATH, token)
        assert found == status, token
        shown = headers_of(body).get("authorization") if status == 200 else None
        assert shown == (f"Bearer {token}" if token == ENDPOINT_TOKEN else None)
    pair(cloud, public=True)
    for token in (None, "their own", WORKSPACE_TOKEN):
        found, _, body = cloud.gateway.ask(PATH, token)
        shown = headers_of(body).get("authorization")
        assert (found, shown) == (200, "Bearer their own" if token == "their own" else None)
    pair(cloud, workspace_tokens=False, token_sha256=[sha256(ENDPOINT_TOKEN)])
    assert cloud.gateway.ask(PATH, WORKSPACE_TOKEN)[0] == 403
    assert cloud.gateway.ask(PATH, ENDPOINT_TOKEN)[0] == 200


@pytest.mark.parametrize("length", [1, 54, 55, 56, 63, 64, 65, 119, 120, 500])
def test_a_token_may_be_of_any_length(cloud: Cloud, length: int) -> None:
    token = ("äab%" * length).encode()[:length].decode("latin-1").replace("\x80", "y")
    token = "".join(c if 33 <= ord(c) < 127 else "z" for c in token)
    pair(cloud, token_sha256=[sha256(token)])
    before = by_envoy(cloud)
    assert cloud.gateway.ask(PATH, token)[0] == 200
    assert cloud.gateway.ask(PATH, token + "x")[0] == 401
    assert by_envoy(cloud) - before == (cloud.gateway.envoy is not None)


def test_what_only_we_may_say_is_not_believed_of_a_client(cloud: Cloud) -> None:
    pair(cloud)
    digest = f"X-Lepton-Digest: {sha256(WORKSPACE_TOKEN)}"
    assert cloud.gateway.ask(PATH, None, digest)[0] == 401
    assert cloud.gateway.ask(PATH, "wrong", digest)[0] == 401
    forged = (
        *("X-Lepton-Envoy-Key: guess", "X-Lepton-Address: 10.0.0.1", "X-Real-IP: 10.0.0.1"),
        *("X_Forwarded_For: 10.0.0.1", "X-Forwarded_For: 10.0.0.1", "X_Lepton_Client: x"),
    )
    status, _, body = cloud.gateway.ask(
        PATH, WORKSPACE_TOKEN, *forged, digest, "X-Forwarded-For: 10.0.0.1", "Forwarded: for=x"
    )
    seen = headers_of(body)
    assert (status, seen["x-forwarded-for"]) == (200, "127.0.0.1")
    if cloud.gateway.envoy is not None:
        ours = {name for name in seen if name.startswith(("x-lepton-", "x-envoy-"))}
        assert ours == {"x-lepton-client"}
    assert not seen.keys() & {"forwarded", "x-real-ip"}
    assert not [name for name in seen if "_" in name]
    pair(cloud, ip_allowlist=["10.0.0.0/8"])
    assert cloud.gateway.ask(PATH, WORKSPACE_TOKEN, *forged)[0] == 403
    pair(cloud, ip_allowlist=["127.0.0.0/8"])
    assert cloud.gateway.ask(PATH)[0] == 200


def test_the_replica_is_told_who_asks_and_a_client_cannot_say_that_it_is_another(
    cloud: Cloud,
) -> None:
    forged = ("X-Lepton-Client: somebody", "x-lepton-client: else")
    pair(cloud)
    before = by_envoy(cloud)
    _, _, body = cloud.gateway.ask(PATH, WORKSPACE_TOKEN, *forged)
    assert headers_of(body)["x-lepton-client"] == sha256(WORKSPACE_TOKEN)[:16]
    pair(cloud, public=True)
    for token in (None, "their own"):
        _, _, body = cloud.gateway.ask(PATH, token, *forged)
        assert headers_of(body)["x-lepton-client"] == "127.0.0.1"
    assert by_envoy(cloud) - before == (3 if cloud.gateway.envoy else 0)


# --- what is passed on ----------------------------------------------------------------------------


def test_bodies_stream_both_ways(cloud: Cloud) -> None:
    got, more = threading.Event(), threading.Event()

    def converse(wire: Wire) -> None:
        _, headers = wire.read_head()
        assert headers["transfer-encoding"] == "chunked"
        assert wire.read_chunk() == b"first"
        got.set()
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        assert more.wait(PATIENCE_S)
        assert wire.read_chunk() == b"second"
        wire.send(b"3\r\ntwo\r\n0\r\n\r\n")

    cloud.endpoint(cloud.replica(connection=converse), cloud.replica(connection=converse))
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH, WORKSPACE_TOKEN, "Transfer-Encoding: chunked", method="POST"))
        wire.send(b"5\r\nfirst\r\n")
        assert got.wait(PATIENCE_S)
        line, _ = wire.read_head()
        assert (line, wire.read_chunk()) == ("HTTP/1.1 200 OK", b"one")
        more.set()
        wire.send(b"6\r\nsecond\r\n0\r\n\r\n")
        assert wire.read_chunk() == b"two"


def test_a_websocket_is_passed_through(cloud: Cloud) -> None:
    def upgrade(wire: Wire) -> None:
        wire.read_head()
        wire.send(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        wire.send(b"<" + wire.read(4) + b">")

    cloud.endpoint(cloud.replica(connection=upgrade), cloud.replica(connection=upgrade))
    lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: a")
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH, WORKSPACE_TOKEN, *lines))
        assert wire.read_head()[0].startswith("HTTP/1.1 101")
        wire.send(b"ping")
        assert wire.read(6) == b"<ping>"


def test_a_callers_deadline_is_kept(cloud: Cloud) -> None:
    def never(wire: Wire, request: Request) -> None:
        wire.sock.recv(1)

    cloud.endpoint(cloud.replica(never), cloud.replica(never))
    status, _, body = cloud.gateway.ask(PATH, WORKSPACE_TOKEN, "X-Lepton-Timeout-Ms: 50")
    assert status == 504
    assert b"did not answer within 0.05 s" in body
    assert b"X-Lepton-Timeout-Ms says how long" in body


# --- replicas that come, go and die ---------------------------------------------------------------


def test_requests_wait_while_an_endpoint_sleeps(cloud: Cloud) -> None:
    cloud.publish(a_route("e"))
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(cloud.gateway.ask, PATH)
        eventually(lambda: waiting(cloud) == 1)
        cloud.endpoint(cloud.replica(), cloud.replica())
        assert asked.result(PATIENCE_S)[0] == 200


def test_a_request_whose_replica_dies_is_repeated_only_where_that_is_safe(cloud: Cloud) -> None:
    seen: list[str] = []

    def dies(wire: Wire, request: Request) -> None:
        seen.append(request.line)
        raise EOFError

    cloud.endpoint(cloud.replica(dies), cloud.replica(dies))
    for method, lines, tries in (
        ("POST", (), 1),
        ("GET", (), 2),
        ("POST", ("Idempotency-Key: k",), 2),
    ):
        time.sleep(0.1)
        seen.clear()
        status, _, _ = cloud.gateway.ask(PATH, WORKSPACE_TOKEN, *lines, method=method)
        assert status in (502, 503)
        assert (len(seen) >= tries) if tries > 1 else (len(seen) == 1), (method, seen)
    cloud.endpoint(cloud.replica(dies), cloud.replica())
    assert {cloud.gateway.ask(PATH)[0] for _ in range(8)} == {200}


def lets_go_of(cloud: Cloud, replicas: Set[str]) -> bool:
    """Whether the gateway says that it serves by the table of now, and that these, which are not in
    it, have ended their requests: then the control plane stops them."""
    last = cloud.control_plane.reports[-1]
    return last.table == cloud.seq and not last.leaving.keys() & replicas


def test_no_request_is_lost_while_replicas_are_replaced(cloud: Cloud) -> None:
    def slowly(wire: Wire, request: Request) -> None:
        time.sleep(0.02)
        wire.send(ok())

    over = threading.Event()
    statuses: Counter[int] = Counter()

    def load() -> None:
        with cloud.gateway.client() as wire:
            while not over.is_set():
                wire.send(a_request(PATH, method="POST", body=b"x"))
                statuses[read_answer(wire)[0]] += 1

    names = iter(range(100))

    def generation() -> dict[str, Replica]:
        return {f"g{next(names)}": cloud.replica(slowly) for _ in range(2)}

    now = generation()
    cloud.endpoint(*now.values())
    cloud.publish(a_route("e", upstreams=[r.upstream(n) for n, r in now.items()]))
    before = by_envoy(cloud)
    threads = [threading.Thread(target=load) for _ in range(4)]
    for each in threads:
        each.start()
    for turn in range(3):
        eventually(lambda turn=turn: statuses.total() > 20 * turn)
        old, now = now, generation()
        cloud.publish(a_route("e", upstreams=[r.upstream(n) for n, r in now.items()]))
        eventually(lambda old=old: lets_go_of(cloud, old.keys()))
        for each in old.values():
            each.close()
    over.set()
    for each in threads:
        each.join(PATIENCE_S)
    assert statuses.keys() == {200}, statuses
    assert (by_envoy(cloud) > before) is (cloud.gateway.envoy is not None)


def test_what_envoy_cannot_say_in_files_stays_with_our_gateway(cloud: Cloud) -> None:
    replicas = [cloud.replica(), cloud.replica()]
    upstreams = [each.upstream(f"r{n}") for n, each in enumerate(replicas)]
    for fields in (
        {"limit": {"requests_per_minute": 1000}},
        {"hedging": {"after_ms": 50}},
        {"watched": True},
        {"weights": {"7": 1}},
        {"balance": {"by": "cookie"}},
        {"route_by_replica_header": True},
        {"ip_allowlist": ["127.0.0.1"]},
        {"counting": {"paths": ["/"]}},
        {"shadow": {"version": "8", "percent": 5}},
    ):
        route = a_route("e", upstreams=upstreams, **fields)
        assert not takes_short_cut(route), fields
        cloud.publish(route)
        before = by_envoy(cloud)  # of an endpoint that it served before
        assert cloud.gateway.ask(PATH)[0] == 200
        assert by_envoy(cloud) <= before
    assert not takes_short_cut(a_route("e", upstreams=upstreams[:1]))
    assert takes_short_cut(a_route("e", upstreams=upstreams))
    assert takes_short_cut(a_route("e", upstreams=upstreams[:1], grpc=True))


@pytest.mark.parametrize("plane", ["envoy"], indirect=True)
def test_routes_that_envoy_refuses_lead_to_our_gateway(cloud: Cloud) -> None:
    pair(cloud)
    pair(cloud, timeout_s=10**18)  # longer than Envoy can count
    before = by_envoy(cloud)
    assert cloud.gateway.ask(PATH, "wrong")[0] == 401
    assert cloud.gateway.ask(PATH)[0] == 200
    assert by_envoy(cloud) == before
    eventually(lambda: "Envoy refused 1 routes" in cloud.gateway.log.read_text())


def test_many_tokens_are_told_apart(cloud: Cloud) -> None:
    tokens = [f"token-{number}" for number in range(300)]
    pair(cloud, token_sha256=[sha256(token) for token in tokens])
    before = by_envoy(cloud)
    assert {cloud.gateway.ask(PATH, token)[0] for token in tokens[::50]} == {200}
    assert by_envoy(cloud) - before == (6 if cloud.gateway.envoy else 0)
    pair(cloud, token_sha256=[sha256(token) for token in tokens[1:]])
    assert cloud.gateway.ask(PATH, tokens[0])[0] == 401


# --- gRPC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["envoy"], indirect=True)  # our gateway speaks HTTP/1.1
def test_grpc_passes_envoy_and_says_unavailable_without_a_replica(plane: Cloud) -> None:
    grpc = pytest.importorskip("grpc", reason="pip install grpcio")

    def reverse(request: bytes, context: object) -> bytes:
        return request[::-1]

    def count(request: bytes, context: object) -> Iterator[bytes]:
        yield from (b"%d" % number for number in range(int(request)))

    handlers = {
        "Reverse": grpc.unary_unary_rpc_method_handler(reverse),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        generic = grpc.method_handlers_generic_handler("test.Words", handlers)
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        upstream = {"replica": "r1", "host": "127.0.0.1", "port": port}
        plane.routes.clear()
        plane.publish(a_route("e", upstreams=[upstream], grpc=True))
        options = [("grpc.default_authority", "e.default.localhost")]
        credentials = [("authorization", f"Bearer {WORKSPACE_TOKEN}")]
        with grpc.insecure_channel(f"127.0.0.1:{plane.gateway.port}", options) as channel:
            unary = channel.unary_unary("/test.Words/Reverse")
            assert unary(b"abc", metadata=credentials, timeout=PATIENCE_S) == b"cba"
            stream = channel.unary_stream("/test.Words/Count")(
                b"3", metadata=credentials, timeout=PATIENCE_S
            )
            assert list(stream) == [b"0", b"1", b"2"]
            with pytest.raises(grpc.RpcError) as refused:
                unary(b"abc", timeout=PATIENCE_S)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            plane.publish(a_route("e", grpc=True))
            with pytest.raises(grpc.RpcError) as refused:
                unary(b"abc", metadata=credentials, timeout=PATIENCE_S)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        server.stop(None)
