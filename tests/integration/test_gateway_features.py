"""What an endpoint may have the gateway do: by host, version, key, limit, deadline, and more."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_world import (
    PATIENCE_S,
    WORKSPACE_TOKEN,
    Cloud,
    Gateway,
    Replica,
    Request,
    Wire,
    a_request,
    a_route,
    eventually,
    ok,
    read_answer,
    waiting,
)

from leptonai.core.ingress import Host, Share

PATH = "/e/default/e/"


@pytest.fixture(autouse=True)
def no_earlier_endpoint(cloud: Cloud) -> None:
    """What an endpoint counts goes with it."""
    cloud.routes.clear()
    cloud.publish()


def metric(gateway: Gateway, name: str, labels: str) -> int:
    found = re.search(
        rf"{name}\{{[^}}]*{labels}[^}}]*\}} (\d+)\n".encode(), gateway.ask("/metrics")[2]
    )
    return int(found[1]) if found else 0


def asked_at_host(
    gateway: Gateway, host: str, path: str = "/"
) -> tuple[int, dict[str, str], bytes]:
    with gateway.client() as wire:
        wire.send(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {WORKSPACE_TOKEN}\r\n\r\n".encode()
        )
        return read_answer(wire)


def versions(cloud: Cloud, **fields: object) -> dict[str, Replica]:
    """An endpoint with a replica of version 1 and one of version 2, each answering with its own."""
    replicas: dict[str, Replica] = {}
    for version in ("1", "2"):
        body = version.encode()
        replicas[version] = cloud.replica(lambda wire, _, body=body: wire.send(ok(body)))
    upstreams = [each.upstream(f"r{v}", v) for v, each in replicas.items()]
    cloud.routes.clear()
    cloud.publish(a_route("e", upstreams=upstreams, **fields))
    return replicas


# --- where it is asked ----------------------------------------------------------------------------


def test_a_domain_is_shared_by_several_endpoints(cloud: Cloud) -> None:
    for name in ("stable", "canary"):
        body = name.encode()
        replica = cloud.replica(lambda wire, _, body=body: wire.send(ok(body)))
        cloud.publish(a_route(name, upstreams=[replica.upstream(name)]))
    shares = tuple(
        Share(workspace="default", name=name, weight=weight)
        for name, weight in (("stable", 4), ("canary", 1), ("gone", 0))
    )
    cloud.hosts = (Host(domain="m.example.org", shares=shares),)
    cloud.publish()
    told = Counter(asked_at_host(cloud.gateway, "M.example.org:80")[2] for _ in range(20))
    assert set(told) == {b"stable", b"canary"}
    assert abs(told[b"stable"] - 16) <= 1
    cloud.hosts = ()
    cloud.publish()
    assert asked_at_host(cloud.gateway, "m.example.org")[0] == 404


def test_an_endpoint_has_a_host_of_its_own_and_may_have_more(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(ok(f"{request.line} {request.headers['x-forwarded-prefix']}".encode()))

    cloud.endpoint(cloud.replica(answer), domains=["models.example.org"])
    port = cloud.gateway.port
    for host in ("e.default.localhost", f"E.default.LOCALHOST:{port}", "Models.example.org:80"):
        for path in ("/a?b=c", "/e/default/other/", "/healthz"):
            status, _, body = asked_at_host(cloud.gateway, host, path)
            assert (status, body) == (200, f"GET {path} HTTP/1.1 /".encode())
    by_path = asked_at_host(cloud.gateway, "models.example.org", "/e/default/e/a")
    assert by_path[2] == b"GET /a HTTP/1.1 /e/default/e"  # a host takes nothing from a path
    assert asked_at_host(cloud.gateway, "f.default.localhost")[0] == 404
    assert asked_at_host(cloud.gateway, "e.other.localhost")[0] == 401
    assert asked_at_host(cloud.gateway, "else.example.org")[0] == 404


# --- which version, which replica -----------------------------------------------------------------


def test_versions_get_their_weights(cloud: Cloud) -> None:
    versions(cloud, weights={"1": 3, "2": 1})
    bodies = Counter(cloud.gateway.ask(PATH)[2] for _ in range(40))
    assert abs(bodies[b"2"] - 10) <= 1
    assert bodies.keys() == {b"1", b"2"}
    counted = metric(cloud.gateway, "lepton_gateway_requests_total", 'version="2"')
    assert counted == bodies[b"2"]


def test_a_header_decides_the_replica(cloud: Cloud) -> None:
    versions(cloud, balance={"by": "header", "name": "x-user"})
    chosen = {
        user: {cloud.gateway.ask(PATH, WORKSPACE_TOKEN, f"X-User: {user}")[2] for _ in range(4)}
        for user in range(12)
    }
    assert all(len(bodies) == 1 for bodies in chosen.values())
    assert len({min(bodies) for bodies in chosen.values()}) == 2


def test_a_cookie_leads_back_to_the_same_replica(cloud: Cloud) -> None:
    versions(cloud, balance={"by": "cookie", "name": "session"})
    _, headers, body = cloud.gateway.ask(PATH)
    cookie, *attributes = headers["set-cookie"].split("; ")
    assert attributes == ["Path=/e/default/e/", "HttpOnly", "SameSite=Lax"]
    for _ in range(4):
        _, headers, again = cloud.gateway.ask(PATH, WORKSPACE_TOKEN, f"Cookie: a=b; {cookie}")
        assert again == body
        assert "set-cookie" not in headers


def test_shadows_are_compared_and_nobody_waits_for_them(cloud: Cloud) -> None:
    go_on = threading.Event()
    copies: list[Request] = []

    def answer_as_shadow(wire: Wire, request: Request) -> None:
        copies.append(request)
        go_on.wait(PATIENCE_S)
        wire.send(ok(request.body) if request.body != b"differ" else ok(b"other"))

    user, shadow = cloud.replica(lambda w, r: w.send(ok(r.body))), cloud.replica(answer_as_shadow)
    upstreams = [user.upstream("r1", "1"), shadow.upstream("r2", "2")]
    fields = {"weights": {"1": 1}, "shadow": {"version": "2", "percent": 100}}
    cloud.routes.clear()
    cloud.publish(a_route("e", upstreams=upstreams, **fields))
    for body in (b"same", b"differ", b"same"):
        with cloud.gateway.client() as wire:
            wire.send(a_request(PATH, method="POST", body=body))
            assert read_answer(wire)[2] == body
    eventually(lambda: len(copies) == 3)
    assert [copy.headers["x-lepton-shadow"] for copy in copies] == ["1"] * 3
    assert [request.headers.get("x-lepton-shadow") for request in user.requests] == [None] * 3
    go_on.set()
    name = "lepton_gateway_shadows_total"
    eventually(lambda: metric(cloud.gateway, name, 'outcome="same"') == 2)
    assert metric(cloud.gateway, name, 'outcome="body_differs"') == 1


# --- limits ---------------------------------------------------------------------------------------


def test_one_request_too_many_is_told_when_to_come_again(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica(), limit={"requests_per_minute": 2})
    for left in (1, 0):
        status, headers, _ = cloud.gateway.ask(PATH)
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, str(left))
        assert headers["x-ratelimit-limit-requests"] == "2"
    status, headers, body = cloud.gateway.ask(PATH)
    assert (status, json.loads(body)["code"]) == (429, "TooManyRequests")
    assert 25 <= int(headers["retry-after"]) <= 30
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert metric(cloud.gateway, "lepton_gateway_denied_total", 'code="429"') == 1


@pytest.mark.parametrize(
    "answer",
    [
        b'{"choices":[{"text":"\\"total_tokens\\": 1"}],"usage":{"total_tokens": 70,"x":{}}}',
        b'data: {"choices":[]}\n\ndata: {"usage":{"total_tokens":70}}\n\ndata: [DONE]\n\n',
        b"data: {}\n\n" * 70,
    ],
    ids=["json", "stream", "stream-without-usage"],
)
def test_tokens_are_counted_as_the_answer_says(cloud: Cloud, answer: bytes) -> None:
    replica = cloud.replica(lambda wire, _: wire.send(ok(answer)))
    cloud.endpoint(replica, limit={"tokens_per_minute": 100})
    line = "Accept-Encoding: gzip"
    began = time.monotonic()
    assert cloud.gateway.ask(PATH, WORKSPACE_TOKEN, line)[2] == answer
    assert "accept-encoding" not in replica.requests[0].headers
    status, headers, _ = cloud.gateway.ask(PATH)
    refilled = (time.monotonic() - began) * 100 / 60
    assert status == 200
    assert 30 <= int(headers["x-ratelimit-remaining-tokens"]) <= 30 + refilled
    status, headers, body = cloud.gateway.ask(PATH)
    assert status == 429
    assert "more than 100 tokens a minute" in json.loads(body)["message"]


# --- time -----------------------------------------------------------------------------------------


def test_a_callers_deadline_is_kept_and_passed_on(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica(lambda wire, request: None))
    began = time.monotonic()
    status, _, body = cloud.gateway.ask(PATH, WORKSPACE_TOKEN, "X-Lepton-Timeout-Ms:  300 ")
    assert (status, json.loads(body)["code"]) == (504, "ReplicaTimeout")
    assert time.monotonic() - began >= 0.3
    cloud.endpoint(replica := cloud.replica())
    began = time.monotonic()
    cloud.gateway.ask(PATH, WORKSPACE_TOKEN, "X-Lepton-Timeout-Ms: 20000")
    took_ms = (time.monotonic() - began) * 1000
    passed_on = int(replica.requests[0].headers["x-lepton-timeout-ms"])
    assert 20_000 - took_ms - 1 <= passed_on <= 20_000, "less what has passed of it"
    cloud.gateway.ask(PATH, WORKSPACE_TOKEN, "X-Lepton-Timeout-Ms: soon")
    assert "x-lepton-timeout-ms" not in replica.requests[1].headers


@pytest.mark.parametrize("given", ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", None, "00-nonsense"])
def test_a_trace_goes_on_or_begins(cloud: Cloud, given: str | None) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    lines = () if given is None else (f"traceparent: {given}",)
    cloud.gateway.ask(PATH, WORKSPACE_TOKEN, *lines)
    seen = replica.requests[0].headers["traceparent"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", seen)
    assert (seen == given) is (given is not None and given.endswith("-01"))


# --- waiting --------------------------------------------------------------------------------------

EVENTS = ("Accept: text/event-stream",)


def test_an_endpoint_says_how_many_may_wait_and_how_long(cloud: Cloud) -> None:
    cloud.endpoint(hold={"requests": 1})
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH))
        eventually(lambda: waiting(cloud) == 1)
        assert cloud.gateway.ask(PATH)[0] == 503
    cloud.endpoint(hold={"requests": 1, "seconds": 0.5})
    eventually(lambda: waiting(cloud) == 0)
    status, headers, body = cloud.gateway.ask(PATH)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "became ready within 0.5 s" in json.loads(body)["message"]


def read_events(cloud: Cloud, answer: bytes) -> list[bytes]:
    """What a client is told that waited for a replica that then gives this answer."""
    cloud.endpoint(hold={"progress": True})
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH, WORKSPACE_TOKEN, *EVENTS))
        line, headers = wire.read_head()
        assert line == "HTTP/1.1 200 OK"
        assert headers["content-type"] == "text/event-stream"
        pieces = [wire.read_chunk()]
        cloud.endpoint(cloud.replica(lambda wire, _: wire.send(answer)), hold={"progress": True})
        while piece := wire.read_chunk():
            pieces.append(piece)
        assert wire.at_end()
        return pieces


def test_who_reads_events_may_be_told_that_it_waits(cloud: Cloud) -> None:
    first, *rest = read_events(cloud, ok(b"data: 1\n\n", b"Content-Type: text/event-stream"))
    assert first == b": waiting for a replica, 0 s\n\n"
    assert b"".join(rest) == b"data: 1\n\n"


def test_an_answer_that_is_no_stream_ends_one_that_has_begun_as_an_error(cloud: Cloud) -> None:
    failed = b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops"
    assert read_events(cloud, failed)[1:] == [b'event: error\ndata: {"status":500}\n\n']


def test_nobody_else_is_told(cloud: Cloud) -> None:
    cloud.endpoint()
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH, WORKSPACE_TOKEN, *EVENTS))
        eventually(lambda: waiting(cloud) == 1)
        cloud.endpoint(cloud.replica())
        assert read_answer(wire)[2] == b"ok"


# --- what is written down -------------------------------------------------------------------------


def test_each_request_is_a_line_of_the_access_log(
    own_cloud: Callable[..., Cloud], tmp_path: Path
) -> None:
    cloud = own_cloud(access_log=True)
    (tmp_path / "logs").mkdir()
    cloud.endpoint(cloud.replica())
    for path in ("one?x=1", "two"):
        assert cloud.gateway.ask(PATH + path)[0] == 200
    file = tmp_path / "logs" / "access.log"
    eventually(lambda: file.exists() and file.read_text().count("\n") == 2)
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["path"], second["path"]) == (f"{PATH}one?x=1", f"{PATH}two")
    assert (first["status"], first["version"], first["replica"]) == (200, "7", "r1")
    assert WORKSPACE_TOKEN not in file.read_text()
