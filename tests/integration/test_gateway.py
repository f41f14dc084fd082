"""The gateway as a real process, between raw sockets: what goes in, and what comes out."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from gateway_world import (
    ENDPOINT_TOKEN,
    GATEWAY_TOKEN,
    OTHER_WORKSPACE_TOKEN,
    PATIENCE_S,
    WORKSPACE_TOKEN,
    Cloud,
    ControlPlane,
    Gateway,
    Request,
    Wire,
    a_request,
    a_route,
    echo,
    eventually,
    ok,
    read_answer,
    sha256,
    waiting,
)

from leptonai.core.routing import RouteTable

# --- who is let in --------------------------------------------------------------------------------


def test_a_workspace_token_opens_an_endpoint_and_is_not_shown_to_the_replica(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    assert cloud.gateway.ask("/e/default/e/")[0] == 200
    assert "authorization" not in replica.requests[0].headers
    assert WORKSPACE_TOKEN not in str(replica.requests[0].headers)


def test_an_endpoints_own_token_opens_it_and_is_passed_on(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica, token_sha256=[sha256(ENDPOINT_TOKEN)])
    assert cloud.gateway.ask("/e/default/e/", ENDPOINT_TOKEN)[0] == 200
    assert replica.requests[0].headers["authorization"] == f"Bearer {ENDPOINT_TOKEN}"


@pytest.mark.parametrize("token", [None, "wrong", OTHER_WORKSPACE_TOKEN, ""])
def test_a_stranger_cannot_tell_a_known_endpoint_from_an_unknown_one(
    cloud: Cloud, token: str | None
) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica, token_sha256=[sha256(ENDPOINT_TOKEN)])
    known = cloud.gateway.ask("/e/default/e/", token, "X-Request-Id: same")
    unknown = cloud.gateway.ask("/e/default/nothing/", token, "X-Request-Id: same")
    unknown_workspace = cloud.gateway.ask("/e/nowhere/e/", token, "X-Request-Id: same")
    assert known == unknown == unknown_workspace
    status, headers, body = known
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert set(json.loads(body)) == {"code", "message", "hint"}
    assert replica.requests == []


def test_an_unknown_endpoint_is_told_to_whoever_has_the_workspaces_token(cloud: Cloud) -> None:
    cloud.endpoint()
    status, _, body = cloud.gateway.ask("/e/default/nothing/")
    assert (status, json.loads(body)["code"]) == (404, "NotFound")


def test_an_endpoint_may_take_its_own_tokens_only(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica, token_sha256=[sha256(ENDPOINT_TOKEN)], workspace_tokens=False)
    assert cloud.gateway.ask("/e/default/e/")[0] == 403
    assert cloud.gateway.ask("/e/default/e/", ENDPOINT_TOKEN)[0] == 200


def test_a_public_endpoint_asks_for_no_token_and_still_hides_the_workspaces(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica, public=True)
    assert cloud.gateway.ask("/e/default/e/", None)[0] == 200
    assert cloud.gateway.ask("/e/default/e/", "the-app's-own")[0] == 200
    assert cloud.gateway.ask("/e/default/e/", WORKSPACE_TOKEN)[0] == 200
    shown = [request.headers.get("authorization") for request in replica.requests]
    assert shown == [None, "Bearer the-app's-own", None]
    assert cloud.gateway.ask("/e/default/e/", OTHER_WORKSPACE_TOKEN)[0] == 200
    assert "authorization" not in replica.requests[-1].headers


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (["127.0.0.0/8"], 200),
        (["10.0.0.0/8", "127.0.0.1"], 200),
        (["10.0.0.0/8"], 403),
        (["x"], 403),
    ],
)
def test_an_allow_list_lets_in_its_addresses_only(
    cloud: Cloud, allowed: list[str], status: int
) -> None:
    cloud.endpoint(cloud.replica(), ip_allowlist=allowed)
    assert cloud.gateway.ask("/e/default/e/")[0] == status
    assert cloud.gateway.ask("/e/default/e/", None)[0] == 401


GOOD = a_request("/e/default/e/good", method="POST", body=b"1")
BAD = a_request("/e/default/e/bad", "wrong", method="POST", body=b"1")
UPGRADE = a_request("/e/default/e/good", WORKSPACE_TOKEN, "Connection: upgrade", "Upgrade: h2c")


@pytest.mark.parametrize(
    "reads",
    [
        [GOOD, BAD],
        [GOOD, GOOD, BAD, BAD, GOOD],
        [GOOD[:40], GOOD[40:] + GOOD, BAD, BAD],
        [GOOD + GOOD[:40], GOOD[40:], BAD, BAD],
        [GOOD + GOOD, BAD, BAD],
        [UPGRADE, BAD, BAD],
        [BAD, BAD, GOOD],
    ],
)
def test_nobody_gets_in_on_what_another_request_showed(cloud: Cloud, reads: list[bytes]) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    wire = cloud.gateway.connect()
    asked = b"".join(reads)
    for read in reads:
        wire.send(read)
        time.sleep(0.02)  # so that it is read alone, nearly always
    wanted = re.findall(rb"/e/default/e/(good|bad)", asked)
    answered = [read_answer(wire)[0] for _ in wanted]
    assert answered == [200 if each == b"good" else 401 for each in wanted]
    assert {each.line.split()[1] for each in replica.requests} == {"/good"}


def test_a_token_that_is_taken_back_lets_nobody_in_on_an_open_connection(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica, token_sha256=(sha256(ENDPOINT_TOKEN),))
    wire = cloud.gateway.connect()
    asked = a_request("/e/default/e/", ENDPOINT_TOKEN)
    for _ in range(3):
        wire.send(asked)
        assert read_answer(wire)[0] == 200
    cloud.endpoint(replica, token_sha256=())
    wire.send(asked)
    assert read_answer(wire)[0] == 401


def test_a_refused_upload_gets_its_answer(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica())
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", "wrong", "Content-Length: 4000000", method="POST"))
        wire.send(b"x" * 2_000_000)
        status, headers, _ = read_answer(wire)
        assert (status, headers["connection"]) == (401, "close")


def test_health_is_open_and_metrics_need_a_token_of_the_workspace(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica())
    assert cloud.gateway.ask("/healthz", None)[0] == 200
    assert cloud.gateway.ask("/metrics", None)[0] == 401
    cloud.publish(a_route("counted", upstreams=cloud.routes["e"].upstreams))
    cloud.gateway.ask("/e/default/counted/")
    cloud.gateway.ask("/e/default/counted/", "wrong")
    _, _, body = cloud.gateway.ask("/metrics")
    label = b'workspace="default",endpoint="counted"'
    version = label + b',version="7"'
    for line in (
        b'lepton_gateway_requests_total{%b,code="200"} 1\n' % version,
        b'lepton_gateway_denied_total{%b,code="401"} 1\n' % label,
        b'lepton_gateway_request_seconds_bucket{%b,le="+Inf"} 1\n' % version,
        b"lepton_gateway_request_seconds_count{%b} 1\n" % version,
        b"lepton_gateway_in_flight{%b} 0\n" % label,
        b"lepton_gateway_waiting{%b} 0\n" % label,
    ):
        assert line in body
    _, _, elsewhere = cloud.gateway.ask("/metrics", OTHER_WORKSPACE_TOKEN)
    assert b"counted" not in elsewhere


def test_nothing_is_served_outside_of_endpoints(cloud: Cloud) -> None:
    for path in ("/", "/e", "/e/default", "/x/default/e/", "/internal/routes"):
        assert cloud.gateway.ask(path)[0] == 404


# --- what the replica gets ------------------------------------------------------------------------


def test_the_replica_gets_the_request_without_the_prefix_and_without_what_was_for_us(
    cloud: Cloud,
) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    lines = (
        "Accept: */*",
        "Connection: keep-alive, X-Private",
        "X-Private: 1",
        "Keep-Alive: 5",
        "TE: trailers",
        "Proxy-Authorization: Basic abc",
        "X-Forwarded-For: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Lepton-Client: somebody-else",
        "X-Request-Id: abc-123",
    )
    cloud.gateway.ask("/e/default/e/a%20b//c?q=1&r=%ff", WORKSPACE_TOKEN, *lines)
    [request] = replica.requests
    assert request.line == "GET /a%20b//c?q=1&r=%ff HTTP/1.1"
    assert len(request.headers.pop("traceparent")) == 55
    assert request.headers == {
        "host": "gateway.test",
        "accept": "*/*",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "gateway.test",
        "x-forwarded-prefix": "/e/default/e",
        "x-lepton-client": sha256(WORKSPACE_TOKEN)[:16],
        "x-request-id": "abc-123",
    }


@pytest.mark.parametrize(
    ("path", "seen"),
    [("/e/default/e", "/"), ("/e/default/e?a=/b", "/?a=/b"), ("/e/default/e/?", "/?")],
)
def test_an_endpoints_bare_name_is_its_root(cloud: Cloud, path: str, seen: str) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    assert cloud.gateway.ask(path)[0] == 200
    assert replica.requests[0].line == f"GET {seen} HTTP/1.1"


def test_every_request_has_an_id_of_its_own(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    for _ in range(3):
        cloud.gateway.ask("/e/default/e/", WORKSPACE_TOKEN, "X-Request-Id: no spaces allowed")
    ids = {request.headers["x-request-id"] for request in replica.requests}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


# --- bodies, both ways ----------------------------------------------------------------------------


def test_bodies_arrive_whole_whichever_way_they_are_framed(cloud: Cloud) -> None:
    replica = cloud.replica(echo)
    cloud.endpoint(replica)
    body = os.urandom(300_000)
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", method="POST", body=body))
        assert read_answer(wire)[2] == body
        wire.send(
            a_request("/e/default/e/", WORKSPACE_TOKEN, "Transfer-Encoding: chunked", method="PUT")
        )
        for start in range(0, len(body), 70_000):
            piece = body[start : start + 70_000]
            wire.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
        wire.send(b"0\r\nTrailer-Field: dropped\r\n\r\n")
        assert read_answer(wire)[2] == body
    assert replica.requests[0].headers["content-length"] == str(len(body))
    assert replica.requests[1].headers["transfer-encoding"] == "chunked"


def test_answers_keep_their_status_and_headers_whichever_way_they_are_framed(cloud: Cloud) -> None:
    answers = {
        "/length": b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\nX-A: 1\r\nKeep-Alive: 5\r\n\r\nok",
        "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/unchanged": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        "/no-reason": b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n",
    }

    def answer(wire: Wire, request: Request) -> None:
        wire.send(answers[request.line.split(" ")[1]])

    replica = cloud.replica(answer)
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:  # one connection: each must end where it ends

        def ask(path: str) -> tuple[str, dict[str, str]]:
            wire.send(a_request(f"/e/default/e{path}"))
            return wire.read_head()

        assert ask("/length") == ("HTTP/1.1 201 Made", {"content-length": "2", "x-a": "1"})
        assert wire.read(2) == b"ok"
        assert ask("/chunked") == ("HTTP/1.1 200 OK", {"transfer-encoding": "chunked"})
        assert wire.read(12) == b"2\r\nok\r\n0\r\n\r\n"
        assert ask("/empty") == ("HTTP/1.1 204 No Content", {})
        assert ask("/unchanged") == ("HTTP/1.1 304 Not Modified", {"content-length": "7"})
        assert ask("/no-reason") == ("HTTP/1.1 404 ", {"content-length": "0"})
    assert replica.connections == 1


def test_an_answer_to_head_has_a_length_and_no_body(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    replica = cloud.replica(answer)
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        for _ in range(3):
            wire.send(a_request("/e/default/e/", method="HEAD"))
            assert wire.read_head() == ("HTTP/1.1 200 OK", {"content-length": "5"})
        wire.send(a_request("/e/default/nothing/", method="HEAD"))
        assert wire.read_head()[0] == "HTTP/1.1 404 Not Found"
        wire.send(a_request("/healthz"))
        assert read_answer(wire)[0] == 200
    assert replica.connections == 1


def test_an_answer_that_ends_with_its_connection_is_whole(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        wire.sock.shutdown(socket.SHUT_WR)

    cloud.endpoint(cloud.replica(answer))
    with cloud.gateway.client() as wire:
        for _ in range(2):
            wire.send(a_request("/e/default/e/"))
            status, headers, body = read_answer(wire)
            assert (status, headers, body) == (
                200,
                {"transfer-encoding": "chunked"},
                b"until the end",
            )


def test_a_client_of_http_1_0_gets_no_chunks(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    cloud.endpoint(cloud.replica(answer), public=True)
    with cloud.gateway.client() as wire:
        wire.send(b"GET /e/default/e/ HTTP/1.0\r\n\r\n")
        assert wire.read_head() == ("HTTP/1.1 200 OK", {"connection": "close"})
        assert wire.read_to_end() == b"ok"


def test_events_reach_the_client_one_by_one(cloud: Cloud) -> None:
    received = threading.Semaphore(0)

    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        wire.send(b"Transfer-Encoding: chunked\r\n\r\n")
        for n in range(5):
            event = b"data: %d\n\n" % n
            wire.send(b"%x\r\n%b\r\n" % (len(event), event))
            assert received.acquire(timeout=PATIENCE_S)  # before the next is even made
        wire.send(b"0\r\n\r\n")

    cloud.endpoint(cloud.replica(answer))
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        wire.read_head()
        for n in range(5):
            assert wire.read_chunk() == b"data: %d\n\n" % n
            received.release()
        assert wire.read_chunk() == b""


def test_an_upload_reaches_the_replica_piece_by_piece(cloud: Cloud) -> None:
    received = threading.Semaphore(0)

    def connection(wire: Wire) -> None:
        wire.read_head()
        for n in range(5):
            assert wire.read(1) == b"%d" % n
            received.release()
        wire.send(ok())

    cloud.endpoint(cloud.replica(connection=connection))
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, "Content-Length: 5", method="POST"))
        for n in range(5):
            wire.send(b"%d" % n)
            assert received.acquire(timeout=PATIENCE_S)
        assert read_answer(wire)[0] == 200


BIG_BYTES = 50 * 1024 * 1024
MAX_GROWTH_BYTES = 8 * 1024 * 1024


def test_a_big_upload_to_a_slow_replica_takes_little_memory(cloud: Cloud) -> None:
    go_on = threading.Event()
    digest = hashlib.sha256()

    def connection(wire: Wire) -> None:
        _, headers = wire.read_head()
        go_on.wait(PATIENCE_S)
        missing = int(headers["content-length"]) - len(wire.buffer)
        digest.update(wire.buffer)
        while missing:
            piece = wire.sock.recv(1 << 20)
            digest.update(piece)
            missing -= len(piece)
        wire.send(ok())

    cloud.endpoint(cloud.replica(connection=connection))
    piece = os.urandom(1 << 20)
    before = cloud.gateway.rss_bytes()
    sent = threading.Event()
    with cloud.gateway.client() as wire:

        def send() -> None:
            line = f"Content-Length: {BIG_BYTES}"
            wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, line, method="POST"))
            for _ in range(BIG_BYTES // len(piece)):
                wire.send(piece)
            sent.set()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        assert not sent.wait(0.3)  # nobody reads, so it cannot all have been taken
        growth = cloud.gateway.rss_bytes() - before
        go_on.set()
        assert read_answer(wire)[0] == 200
        sender.join(PATIENCE_S)
    assert growth < MAX_GROWTH_BYTES
    assert digest.digest() == hashlib.sha256(piece * (BIG_BYTES // len(piece))).digest()


def test_a_big_answer_to_a_slow_client_takes_little_memory(cloud: Cloud) -> None:
    piece = os.urandom(1 << 20)
    sent = threading.Event()

    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG_BYTES)
        for _ in range(BIG_BYTES // len(piece)):
            wire.send(piece)
        sent.set()

    cloud.endpoint(cloud.replica(answer))
    before = cloud.gateway.rss_bytes()
    digest = hashlib.sha256()
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        _, headers = wire.read_head()
        assert not sent.wait(0.3)
        growth = cloud.gateway.rss_bytes() - before
        missing = int(headers["content-length"]) - len(wire.buffer)
        digest.update(wire.buffer)
        while missing:
            got = wire.sock.recv(1 << 20)
            digest.update(got)
            missing -= len(got)
        wire.buffer = b""
        wire.send(a_request("/healthz"))
        assert read_answer(wire)[0] == 200
    assert growth < MAX_GROWTH_BYTES
    assert digest.digest() == hashlib.sha256(piece * (BIG_BYTES // len(piece))).digest()


def test_expecting_clients_are_told_to_continue_by_the_replica(cloud: Cloud) -> None:
    def connection(wire: Wire) -> None:
        _, headers = wire.read_head()
        assert headers["expect"] == "100-continue"
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.send(ok(wire.read(4)))

    cloud.endpoint(cloud.replica(connection=connection))
    with cloud.gateway.client() as wire:
        lines = ("Expect: 100-continue", "Content-Length: 4")
        wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, *lines, method="POST"))
        assert wire.read_head() == ("HTTP/1.1 100 Continue", {})
        wire.send(b"body")
        assert read_answer(wire)[2] == b"body"


def test_an_answer_before_the_whole_request_ends_the_connection(cloud: Cloud) -> None:
    def connection(wire: Wire) -> None:
        wire.read_head()
        wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        wire.read_to_end()

    cloud.endpoint(cloud.replica(connection=connection))
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, "Content-Length: 9", method="POST"))
        status, headers, body = read_answer(wire)
        assert (status, headers["connection"], body) == (413, "close", b"no")
        assert wire.at_end()


# --- connections ----------------------------------------------------------------------------------


def test_connections_are_used_again_on_both_sides(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        for _ in range(5):
            wire.send(a_request("/e/default/e/"))
            assert read_answer(wire)[0] == 200
    assert cloud.gateway.ask("/e/default/e/")[0] == 200
    assert (len(replica.requests), replica.connections) == (6, 1)


def test_a_client_that_says_close_is_closed(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica())
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, "Connection: close"))
        assert read_answer(wire)[1]["connection"] == "close"
        assert wire.at_end()


def test_pipelined_requests_are_answered_in_order(cloud: Cloud) -> None:
    replica = cloud.replica(lambda wire, request: wire.send(ok(request.line.encode())))
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        wire.send(
            b"".join(
                a_request(f"/e/default/e/{n}", method="POST", body=b"x" * n)
                if n % 3
                else a_request(f"/e/default/e/{n}", "wrong")
                for n in range(30)
            )
        )
        for n in range(30):
            status, _, body = read_answer(wire)
            if n % 3:
                assert (status, body) == (200, f"POST /{n} HTTP/1.1".encode())
            else:
                assert status == 401
        wire.send(a_request("/healthz"))
        assert read_answer(wire)[0] == 200


def test_too_many_pipelined_requests_are_answered_in_part_and_then_closed(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/") * 500)
        answers = 0
        with suppress(EOFError, ConnectionResetError):
            while True:
                status, headers, _ = read_answer(wire)
                assert status == 200
                answers += 1
    assert "connection" in headers
    assert 0 < answers < 500
    assert len(replica.requests) == answers


def test_a_client_that_leaves_takes_its_request_with_it(cloud: Cloud) -> None:
    asked, left = threading.Event(), threading.Event()

    def answer(wire: Wire, request: Request) -> None:
        asked.set()
        wire.read_to_end()
        left.set()

    cloud.endpoint(cloud.replica(answer))
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        assert asked.wait(PATIENCE_S)
        assert not left.is_set()
    assert left.wait(PATIENCE_S)


def test_a_client_that_leaves_while_it_is_held_is_forgotten(cloud: Cloud) -> None:
    cloud.endpoint()
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        eventually(lambda: waiting(cloud) == 1)
    eventually(lambda: waiting(cloud) == 0)


def test_the_control_plane_is_told_what_a_replica_that_left_still_has_to_answer(
    cloud: Cloud,
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def answer(wire: Wire, request: Request) -> None:
        asked.set()
        assert go_on.wait(PATIENCE_S)
        wire.send(ok(b"all of it"))

    def told() -> list[dict[str, int]]:
        return [report.leaving for report in cloud.control_plane.reports]

    cloud.endpoint(cloud.replica(answer))
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        assert asked.wait(PATIENCE_S)
        cloud.control_plane.reports.clear()
        cloud.endpoint()
        eventually(lambda: told()[-1:] == [{"r1": 1}])
        go_on.set()
        assert read_answer(wire)[2] == b"all of it"
    eventually(lambda: told()[-1:] == [{}])


def test_an_answer_cut_short_is_seen_to_be_cut_short(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        if "chunked" in request.line:
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        else:
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        raise EOFError

    cloud.endpoint(cloud.replica(answer))
    for path in ("/chunked", "/length"):
        with cloud.gateway.client() as wire:
            wire.send(a_request(f"/e/default/e{path}"))
            rest = wire.read_to_end()
            assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
            assert not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
        b"",
    ],
)
def test_a_replica_that_does_not_speak_http_is_a_bad_gateway(cloud: Cloud, garbage: bytes) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(garbage)
        raise EOFError

    cloud.endpoint(cloud.replica(answer))
    status, _, body = cloud.gateway.ask("/e/default/e/")
    assert (status, json.loads(body)["code"]) == (502, "ReplicaFailed")


def test_bytes_that_nobody_asked_for_reach_nobody(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(ok(b"mine") + ok(b"poison"))

    replica = cloud.replica(answer)
    cloud.endpoint(replica)
    for _ in range(3):
        assert cloud.gateway.ask("/e/default/e/")[2] == b"mine"
    assert replica.connections == 3


def test_a_request_that_met_a_closing_connection_is_sent_again_if_that_is_safe(
    cloud: Cloud,
) -> None:
    def connection(wire: Wire) -> None:
        for answered in range(2):
            line, headers = wire.read_head()
            wire.read_body(headers)
            if answered:
                return  # without an answer, as a server does whose keep-alive time is over
            wire.send(ok(line.encode()))

    replica = cloud.replica(connection=connection)
    cloud.endpoint(replica)
    assert cloud.gateway.ask("/e/default/e/1")[0] == 200
    assert cloud.gateway.ask("/e/default/e/2")[2] == b"GET /2 HTTP/1.1"
    assert replica.connections == 2
    status, _, body = cloud.gateway.ask("/e/default/e/3", method="POST")
    assert (status, json.loads(body)["code"]) == (502, "ReplicaFailed")


# --- which replica --------------------------------------------------------------------------------


def test_the_replica_with_the_least_to_do_is_asked(cloud: Cloud) -> None:
    go_on = threading.Event()
    asked = threading.Semaphore(0)

    def answer_late(wire: Wire, request: Request) -> None:
        asked.release()
        go_on.wait(PATIENCE_S)
        wire.send(ok())

    replicas = [cloud.replica(answer_late) for _ in range(3)]
    cloud.endpoint(*replicas)
    wires = [cloud.gateway.connect() for _ in range(6)]
    for wire in wires:
        wire.send(a_request("/e/default/e/"))
        assert asked.acquire(timeout=PATIENCE_S)
    go_on.set()
    for wire in wires:
        assert read_answer(wire)[0] == 200
        wire.close()
    assert [len(replica.requests) for replica in replicas] == [2, 2, 2]


def test_the_caller_may_choose_the_replica_where_the_endpoint_allows_it(cloud: Cloud) -> None:
    replicas = [cloud.replica(lambda wire, request: wire.send(ok())) for _ in range(3)]
    cloud.endpoint(*replicas, route_by_replica_header=True)
    for _ in range(4):
        line = "X-Lepton-Replica-Target: r2"
        assert cloud.gateway.ask("/e/default/e/", WORKSPACE_TOKEN, line)[0] == 200
    assert [len(replica.requests) for replica in replicas] == [0, 4, 0]
    line = "X-Lepton-Replica-Target: r9"
    assert cloud.gateway.ask("/e/default/e/", WORKSPACE_TOKEN, line)[0] == 503


def test_a_replica_that_refuses_connections_is_passed_over(cloud: Cloud) -> None:
    dead, alive = cloud.replica(), cloud.replica()
    dead.close()
    cloud.endpoint(dead, alive)
    for _ in range(6):
        assert cloud.gateway.ask("/e/default/e/", method="POST")[0] == 200
    assert len(alive.requests) == 6


def test_a_request_waits_for_the_only_replica_to_come_back(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(eject_s=0.1)
    dead, alive = cloud.replica(), cloud.replica()
    dead.close()
    cloud.endpoint(dead)
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        eventually(lambda: waiting(cloud) == 1)
        cloud.endpoint(alive)
        assert read_answer(wire)[0] == 200


def test_a_replica_that_left_the_table_ends_what_it_does_and_gets_nothing_new(cloud: Cloud) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def answer_late(wire: Wire, request: Request) -> None:
        asked.set()
        go_on.wait(PATIENCE_S)
        wire.send(ok(b"old"))

    old, new = cloud.replica(answer_late), cloud.replica()
    cloud.endpoint(old)
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        assert asked.wait(PATIENCE_S)
        cloud.endpoint(new)
        assert cloud.gateway.ask("/e/default/e/")[2] == b"ok"
        go_on.set()
        assert read_answer(wire)[2] == b"old"
    assert len(old.requests) == 1


# --- waiting --------------------------------------------------------------------------------------


def test_requests_wait_for_the_first_replica(cloud: Cloud) -> None:
    cloud.endpoint()
    wires = []
    for n in range(5):
        wires.append(cloud.gateway.connect())
        wires[-1].send(a_request(f"/e/default/e/{n}", method="POST", body=b"%d" % n))
        eventually(lambda: waiting(cloud) == len(wires))
    cloud.endpoint(cloud.replica(echo))
    for n, wire in enumerate(wires):
        assert read_answer(wire)[::2] == (200, b"%d" % n)
        wire.close()


def test_so_many_requests_wait_and_no_more(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(held_per_endpoint=2)
    cloud.endpoint()
    with cloud.gateway.client() as first, cloud.gateway.client() as second:
        first.send(a_request("/e/default/e/"))
        second.send(a_request("/e/default/e/"))
        eventually(lambda: waiting(cloud) == 2)
        status, headers, body = cloud.gateway.ask("/e/default/e/")
        assert (status, headers["retry-after"]) == (503, "1")
        assert "2 requests wait for one already" in json.loads(body)["message"]


def test_requests_wait_so_long_and_no_longer(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(hold_s=0.5)
    cloud.endpoint()
    with cloud.gateway.client() as first, cloud.gateway.client() as second:
        first.send(a_request("/e/default/e/"))
        second.send(a_request("/e/default/e/"))
        for wire in (first, second):
            status, headers, body = read_answer(wire)
            assert (status, headers["retry-after"]) == (503, "1")
            assert "became ready within 0.5 s" in json.loads(body)["message"]


def test_nothing_waits_for_a_stopped_endpoint(cloud: Cloud) -> None:
    cloud.endpoint(expecting=False)
    status, headers, body = cloud.gateway.ask("/e/default/e/")
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(body) == {
        "code": "Unavailable",
        "message": "endpoint 'e' is stopped: it has no replicas",
        "hint": "`leptonai endpoint update e --min-replicas 1` starts one",
    }


def test_those_who_wait_are_told_when_the_endpoint_stops_or_is_removed(cloud: Cloud) -> None:
    for status in (503, 404):
        cloud.endpoint()
        with cloud.gateway.client() as wire:
            wire.send(a_request("/e/default/e/"))
            eventually(lambda: waiting(cloud) == 1)
            if status == 503:
                cloud.endpoint(expecting=False)
            else:
                cloud.routes.clear()
                cloud.publish()
            assert read_answer(wire)[0] == status


def test_a_request_takes_no_longer_than_its_endpoint_allows(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.read_to_end()

    cloud.endpoint(cloud.replica(answer), timeout_s=1)
    status, _, body = cloud.gateway.ask("/e/default/e/")
    assert (status, json.loads(body)["code"]) == (504, "ReplicaTimeout")
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, "Content-Length: 9", method="POST"))
        status, headers, _ = read_answer(wire)
        assert (status, headers["connection"]) == (408, "close")


def test_a_stream_may_last_longer_than_a_request_as_long_as_it_is_not_silent(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            wire.send(b"1\r\nx\r\n")
            time.sleep(0.25)
        wire.read_to_end()

    cloud.endpoint(cloud.replica(answer), timeout_s=2)
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        wire.read_head()
        assert [wire.read_chunk() for _ in range(12)] == [b"x"] * 12  # 2.75 s at least
        assert wire.at_end()  # and then 2 s of silence


# --- other protocols ------------------------------------------------------------------------------

HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def test_a_websocket_is_passed_through_both_ways(cloud: Cloud) -> None:
    handshakes = []

    def connection(wire: Wire) -> None:
        _, headers = wire.read_head()
        handshakes.append(headers)
        wire.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: yes\r\n\r\nhello"
        )
        while True:
            wire.send(wire.read(4).upper())

    replica = cloud.replica(connection=connection)
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/ws", WORKSPACE_TOKEN, *HANDSHAKE) + b"earl")
        line, headers = wire.read_head()
        assert line == "HTTP/1.1 101 Switching Protocols"
        assert headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": "yes",
        }
        assert wire.read(9) == b"helloEARL"
        for word in (b"GET ", b"\x00\xff\r\n", b"more"):
            wire.send(word)
            assert wire.read(4) == word.upper()
        replica.close()
        assert wire.at_end()
    assert handshakes[0]["connection"] == "Upgrade"
    assert handshakes[0]["sec-websocket-key"] == "dGhlIHNhbXBsZSBub25jZQ=="


def test_a_declined_websocket_is_an_answer_and_hides_what_came_with_it(cloud: Cloud) -> None:
    def answer(wire: Wire, request: Request) -> None:
        wire.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    replica = cloud.replica(answer)
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        wire.send(a_request("/e/default/e/ws", WORKSPACE_TOKEN, *HANDSHAKE) + smuggled)
        status, headers, body = read_answer(wire)
        assert (status, headers["connection"], body) == (403, "close", b"no")
        assert wire.at_end()
    assert [request.line for request in replica.requests] == ["GET /ws HTTP/1.1"]


@pytest.mark.parametrize("body", [b"", b"x" * 10, b"y" * 100_000])
def test_other_upgrades_are_not_offered_to_the_replica(cloud: Cloud, body: bytes) -> None:
    replica = cloud.replica(echo)
    cloud.endpoint(replica)
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with cloud.gateway.client() as wire:
        for _ in range(2):
            wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, *lines, method="POST", body=body))
            assert read_answer(wire)[2] == body
        chunked = a_request("/e/default/e/", WORKSPACE_TOKEN, *lines, "Transfer-Encoding: chunked")
        wire.send(chunked + b"3\r\nabc\r\n0\r\n\r\n" + a_request("/e/default/e/last"))
        assert read_answer(wire)[2] == b"abc"
        assert read_answer(wire)[2] == b""
    for request in replica.requests:
        assert not {"upgrade", "connection", "http2-settings"} & set(request.headers)


# --- what is not let through ----------------------------------------------------------------------

PREFIX = b"POST /e/default/e/ HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer workspace-secret\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        PREFIX + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        PREFIX + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        PREFIX + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        PREFIX + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        PREFIX + b"Content-Length: 1, 1\r\n\r\na",
        PREFIX + b"Content-Length: +1\r\n\r\na",
        PREFIX + b"Content-Length: -1\r\n\r\na",
        PREFIX + b"Content-Length: 0x1\r\n\r\na",
        PREFIX + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        PREFIX + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        PREFIX + b"Transfer-Encoding: identity\r\n\r\n",
        PREFIX + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        PREFIX + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        PREFIX + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        PREFIX + b"X: a\r\n folded\r\n\r\n",
        PREFIX + b"X: a\x00b\r\n\r\n",
        PREFIX + b"X: a\rb\r\n\r\n",
        PREFIX + b"X: a\nb: c\r\n\r\n",
        PREFIX + b": a\r\n\r\n",
        PREFIX + b"Host: b\r\n\r\n",
        PREFIX + b"Authorization: Bearer other\r\n\r\n",
        PREFIX + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        PREFIX + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        PREFIX + b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
        PREFIX + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\na\r\n0\r\n\r\n",
        PREFIX.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        PREFIX.replace(b"/e/d", b"http://a/e/d") + b"\r\n",
        PREFIX.replace(b"/e/default", b"/e/default#x") + b"\r\n",
        PREFIX.replace(b"\r\n", b"\n") + b"\n",
        PREFIX.replace(b"HTTP/1.1", b"HTTP/1.2") + b"\r\n",
        PREFIX.replace(b"HTTP/1.1", b"HTTP/0.9") + b"\r\n",
        PREFIX.replace(b"POST", b"NONSENSE") + b"\r\n",
        PREFIX.replace(b"Host: a\r\n", b"") + b"\r\n",
        PREFIX.replace(b"/e/default/e/", b"/e/default/e/\xff\xfe") + b"\r\n",
        PREFIX.replace(b"/e/default/e/", b"/e/default/e/a b") + b"\r\n",
        PREFIX.replace(b"POST /e/default/e/", b"CONNECT a:80") + b"\r\n",
        PREFIX.replace(b"POST /e/default/e/", b"OPTIONS *") + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /e/default/e/\r\n\r\n",
    ],
)
def test_what_two_servers_could_read_differently_is_refused(
    cloud: Cloud, request_bytes: bytes
) -> None:
    replica = cloud.replica(connection=lambda wire: seen.append(wire.read_to_end()))
    seen: list[bytes] = []
    cloud.endpoint(replica)
    with cloud.gateway.client() as wire:
        wire.send(request_bytes)
        status, headers, body = read_answer(wire)
        assert (status, headers["connection"]) == (400, "close")
        assert set(json.loads(body)) == {"code", "message", "hint"}
        # What follows is not read as another request.
        with suppress(OSError):
            wire.send(a_request("/healthz"))
        assert wire.at_end()
    replica.close()
    assert not any(b"\r\n0\r\n\r\n" in each for each in seen)  # no replica saw a whole request


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 400_000,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"x" * 700 + b"\r\n" + b"Y: y\r\n" * 200,
        b"GET /healthz?" + b"x" * 70_000,
        b"GET /healthz HTTP/1.1\r\n" + b"x" * 70_000,
        (
            b"GET /healthz HTTP/1.1\r\n"
            + b"".join(b"X%d: %b\r\n" % (n, b"x" * 7000) for n in range(11))
        ),
    ],
)
def test_a_head_that_is_too_large_is_refused_before_it_is_whole(cloud: Cloud, head: bytes) -> None:
    with cloud.gateway.client() as wire:
        wire.send(head)
        status, headers, _ = read_answer(wire)
        assert (status, headers["connection"]) == (431, "close")


def test_endless_trailers_take_no_memory(cloud: Cloud) -> None:
    cloud.endpoint(cloud.replica())
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/", WORKSPACE_TOKEN, "Transfer-Encoding: chunked"))
        wire.send(b"0\r\nT: ")
        with suppress(OSError):
            for _ in range(100):
                wire.send(b"x" * 10_000)
        status, headers, _ = read_answer(wire)
        assert (status, headers["connection"]) == (431, "close")


def test_a_path_may_hold_any_escaped_bytes(cloud: Cloud) -> None:
    replica = cloud.replica()
    cloud.endpoint(replica)
    assert cloud.gateway.ask("/e/default/e/%ff%fe%00?%ff")[0] == 200
    assert cloud.gateway.ask("/e/default/%65/")[0] == 404
    assert cloud.gateway.ask("/e/%ff/e/", "wrong")[0] == 401
    assert replica.requests[0].line == "GET /%ff%fe%00?%ff HTTP/1.1"


def test_a_head_that_dribbles_in_is_cut_off(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(head_s=0.5)
    with cloud.gateway.client() as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\n")
        status, headers, _ = read_answer(wire)
        assert (status, headers["connection"]) == (408, "close")
        assert wire.at_end()


def test_an_idle_connection_is_closed_in_the_end(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(idle_s=1.5, pool_idle_s=0.5)
    replica = cloud.replica()
    cloud.endpoint(replica)
    with cloud.gateway.client() as used, cloud.gateway.client() as idle:
        used.send(a_request("/e/default/e/"))
        assert read_answer(used)[0] == 200
        assert idle.at_end()
        assert used.at_end()
    eventually(lambda: cloud.gateway.ask("/e/default/e/")[0] == 200 and replica.connections >= 2)


def test_there_are_so_many_connections_and_no_more(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(connections=5)
    wires = [cloud.gateway.connect() for _ in range(5)]
    for wire in wires:
        wire.send(a_request("/healthz"))
        assert read_answer(wire)[0] == 200
    with cloud.gateway.client() as refused:
        assert refused.at_end()
    wires.pop().close()
    eventually(lambda: answers(cloud.gateway))
    for wire in wires:
        wire.close()


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.ask("/healthz")[0] == 200
    except (EOFError, OSError):
        return False


# --- the control plane, and life and death --------------------------------------------------------


def test_the_last_table_is_kept_for_a_start_without_the_control_plane(
    own_cloud: Callable[..., Cloud],
) -> None:
    cloud = own_cloud()
    cloud.endpoint(cloud.replica())
    assert cloud.control_plane.tokens == {f"Bearer {GATEWAY_TOKEN}"}
    cloud.control_plane.close()
    assert cloud.gateway.ask("/e/default/e/")[0] == 200  # it is gone: nothing changes

    copy = cloud.gateway.home / "gateway" / "routes.json"
    eventually(lambda: copy.exists() and b'"e"' in copy.read_bytes())
    assert copy.stat().st_mode & 0o777 == 0o600
    cloud.gateway.close()
    cloud.gateway = Gateway(cloud.gateway.home, cloud.control_plane.url)
    assert cloud.gateway.ask("/e/default/e/")[0] == 200


def test_a_kept_table_that_is_old_denies_nothing_while_there_is_a_control_plane(
    own_cloud: Callable[..., Cloud],
) -> None:
    cloud = own_cloud()
    cloud.endpoint(cloud.replica())
    cloud.gateway.close()
    old = RouteTable(seq=1, routes=(), workspace_token_sha256={})
    (cloud.gateway.home / "gateway" / "routes.json").write_bytes(msgspec.json.encode(old))
    cloud.gateway = Gateway(cloud.gateway.home, cloud.control_plane.url)
    assert cloud.gateway.ask("/e/default/e/")[0] == 200


def test_a_kept_table_that_is_broken_does_not_keep_the_gateway_from_starting(
    tmp_path: Path,
) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "routes.json").write_bytes(b'{"seq": 1, "rou')
    gateway = Gateway(tmp_path, "http://127.0.0.1:9")
    try:
        assert gateway.ask("/healthz", None)[0] == 200
        assert "the kept route table cannot be read" in gateway.log.read_text()
    finally:
        gateway.close()


def test_a_control_plane_that_counts_from_the_start_again_is_followed(
    own_cloud: Callable[..., Cloud],
) -> None:
    cloud = own_cloud()
    cloud.seq = 1000
    cloud.endpoint(cloud.replica())
    old = cloud.control_plane
    fresh = ControlPlane()
    cloud.control_plane = fresh
    # The same address answers for another control plane: what a restore from a backup looks like.
    old._replica._answer = lambda wire, request: fresh._answer(wire, request)
    cloud.seq = 3
    fresh.publish(cloud.table())
    for wire in old._replica._wires:
        with suppress(OSError):
            wire.sock.shutdown(socket.SHUT_RDWR)
    cloud.gateway.wait_for_seq(3)
    assert -1 in fresh.asked_after
    old.close()


def test_a_smaller_seq_is_noticed_after_a_quiet_poll_at_the_latest(
    own_cloud: Callable[..., Cloud],
) -> None:
    cloud = own_cloud()
    cloud.control_plane.hold_s = 0.05
    cloud.seq = 1000
    cloud.endpoint(cloud.replica())
    cloud.seq = 3
    cloud.control_plane.publish(cloud.table())  # no poll fails: it is just never newer
    cloud.gateway.wait_for_seq(3)
    assert cloud.gateway.ask("/e/default/e/")[0] == 200


def test_a_refused_or_broken_poll_leaves_the_table_as_it_is(
    own_cloud: Callable[..., Cloud],
) -> None:
    cloud = own_cloud()
    cloud.endpoint(cloud.replica())
    broken = iter(
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            ok(b"not json"),
            ok(b'{"seq": "x"}'),
            b"garbage",
        )
    )
    asked = threading.Semaphore(0)

    def answer(wire: Wire, request: Request) -> None:
        asked.release()
        wire.send(next(broken))
        raise EOFError

    cloud.control_plane._replica._answer = answer
    cloud.seq += 1
    cloud.control_plane.publish(cloud.table())  # ends the poll that is under way
    for _ in range(4):
        assert asked.acquire(timeout=PATIENCE_S)
        assert cloud.gateway.ask("/e/default/e/")[0] == 200
    assert cloud.gateway.log.read_text().count("does not send routes") == 1


def test_a_thousand_routes_are_served_and_changed(cloud: Cloud) -> None:
    replica, other = cloud.replica(), cloud.replica(lambda wire, request: wire.send(ok(b"other")))
    cloud.routes.clear()
    cloud.publish(*(a_route(f"e{n}", upstreams=[replica.upstream()]) for n in range(1000)))
    for n in (0, 500, 999):
        assert cloud.gateway.ask(f"/e/default/e{n}/")[2] == b"ok"
    cloud.publish(a_route("e500", upstreams=[other.upstream()]))
    assert cloud.gateway.ask("/e/default/e500/")[2] == b"other"
    assert cloud.gateway.ask("/e/default/e501/")[2] == b"ok"
    cloud.routes.clear()
    cloud.publish()
    assert cloud.gateway.ask("/e/default/e500/")[0] == 404


def test_sigterm_lets_requests_end_and_takes_no_new_ones(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud()
    go_on, asked = threading.Event(), threading.Event()

    def answer(wire: Wire, request: Request) -> None:
        asked.set()
        go_on.wait(PATIENCE_S)
        wire.send(ok(b"late"))

    cloud.endpoint(cloud.replica(answer))
    with cloud.gateway.client() as wire, cloud.gateway.client() as idle:
        idle.send(a_request("/healthz"))
        assert read_answer(idle)[0] == 200
        wire.send(a_request("/e/default/e/"))
        assert asked.wait(PATIENCE_S)
        cloud.gateway.process.send_signal(signal.SIGTERM)
        assert idle.at_end()
        with pytest.raises(ConnectionRefusedError):
            cloud.gateway.connect()
        assert cloud.gateway.process.poll() is None
        go_on.set()
        status, headers, body = read_answer(wire)
        assert (status, headers["connection"], body) == (200, "close", b"late")
        assert wire.at_end()
    assert cloud.gateway.process.wait(PATIENCE_S) == 0


def test_draining_ends_when_its_time_is_up(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud(drain_s=0.3)
    asked = threading.Event()

    def answer(wire: Wire, request: Request) -> None:
        asked.set()
        wire.read_to_end()

    cloud.endpoint(cloud.replica(answer))
    with cloud.gateway.client() as wire:
        wire.send(a_request("/e/default/e/"))
        assert asked.wait(PATIENCE_S)
        cloud.gateway.process.send_signal(signal.SIGTERM)
        assert cloud.gateway.process.wait(PATIENCE_S) == 0


def run_main(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (home / "token").write_text(GATEWAY_TOKEN)
    return subprocess.run(
        [
            *(sys.executable, "-m", "leptonai.gateway", "--home", str(home)),
            *("--token-file", str(home / "token"), *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_main(tmp_path, "--control-url", "http://127.0.0.1:9", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"gateway: cannot listen on 127.0.0.1:{port}: Address already in use;"
        " choose another with --port\n"
    )


def test_a_wrong_control_url_is_said_in_one_line(tmp_path: Path) -> None:
    done = run_main(tmp_path, "--control-url", "ftp://x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_errors_are_logged_and_nothing_else(own_cloud: Callable[..., Cloud]) -> None:
    cloud = own_cloud()
    cloud.endpoint(cloud.replica())
    assert cloud.gateway.ask("/e/default/e/")[0] == 200
    assert cloud.gateway.ask("/e/default/e/", "wrong")[0] == 401
    assert cloud.gateway.log.read_text() == ""
    cloud.endpoint(expecting=False)
    assert cloud.gateway.ask("/e/default/e/", WORKSPACE_TOKEN, "X-Request-Id: r7")[0] == 503
    [line] = cloud.gateway.log.read_text().splitlines()
    told = json.loads(line)
    assert told.pop("at_ms") > 0
    assert told == {
        "message": "endpoint 'e' is stopped: it has no replicas",
        "code": "Unavailable",
        "status": 503,
        "workspace": "default",
        "endpoint": "e",
        "request_id": "r7",
    }
