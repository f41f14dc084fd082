"""Requests that are late get a second try, within a budget; and what a scaling target counts."""

import random
import re
import threading
import time
from collections import Counter
from itertools import count

import pytest
from gateway_world import (
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
)
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.routing import Counting
from leptonai.gateway.counting import Counted
from leptonai.gateway.slowness import FINEST_S, LEAST_KNOWN, Slowness

PATH = "/e/default/e/"


@pytest.fixture(autouse=True)
def no_earlier_endpoint(cloud: Cloud) -> None:
    """What an endpoint counts goes with it."""
    cloud.routes.clear()
    cloud.publish()


class Stuck:
    """Answers a request only when it is let go of."""

    def __init__(self, cloud: Cloud) -> None:
        self.go = threading.Event()
        self.left = threading.Event()  # its caller broke off
        self.replica = cloud.replica(self._answer)

    def _answer(self, wire: Wire, request: Request) -> None:
        self.go.wait(PATIENCE_S)
        try:
            wire.send(ok(b"slow"))
            assert wire.sock.recv(1) == b""
        finally:
            self.left.set()
            raise EOFError


def hedges(cloud: Cloud) -> dict[str, int]:
    found = re.findall(
        rb'lepton_gateway_hedges_total\{[^}]*outcome="(\w+)"\} (\d+)',
        cloud.gateway.ask("/metrics")[2],
    )
    return {name.decode(): int(number) for name, number in found}


def a_pair(cloud: Cloud, **hedging: object) -> tuple[Stuck, Replica]:
    stuck, quick = Stuck(cloud), cloud.replica(lambda wire, _: wire.send(ok(b"quick")))
    cloud.endpoint(stuck.replica, quick, hedging=hedging)
    return stuck, quick


def test_a_late_request_is_answered_by_a_second_replica_and_the_first_try_broken_off(
    cloud: Cloud,
) -> None:
    stuck, _ = a_pair(cloud, after_ms=30, budget=1.0)
    tries = Counter()
    for _ in range(6):
        status, headers, body = cloud.gateway.ask(PATH)
        assert (status, body) == (200, b"quick")
        tries[headers.get("x-lepton-attempts", "1")] += 1
    told = hedges(cloud)
    # On a busy machine the quick one may be late as well, and a second try be sent that loses.
    assert tries == Counter({"1": 6 - told["sent"], "2": told["sent"]})
    assert told["sent"] >= told["won"] >= 1
    assert told["sent"] >= len(stuck.replica.requests) >= told["won"]
    eventually(
        lambda: (
            b'lepton_gateway_in_flight{workspace="default",endpoint="e"} 0'
            in cloud.gateway.ask("/metrics")[2]
        )
    )
    stuck.go.set()
    assert stuck.left.wait(PATIENCE_S)


def test_an_answer_that_begins_first_wins_even_if_it_was_asked_first(cloud: Cloud) -> None:
    first, second = Stuck(cloud), Stuck(cloud)
    cloud.endpoint(first.replica, second.replica, hedging={"after_ms": 20, "budget": 1.0})
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH))
        eventually(lambda: len(first.replica.requests) + len(second.replica.requests) == 2)
        assert hedges(cloud) == {"sent": 1, "won": 0, "denied": 0}
        first.go.set()
        assert read_answer(wire)[::2] == (200, b"slow")
        second.go.set()
        assert second.left.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("method", "line", "repeated"),
    [("GET", "X-A: b", True), ("POST", "X-A: b", False), ("POST", "Idempotency-Key: k", True)],
)
def test_only_what_does_no_harm_twice_is_sent_twice(
    cloud: Cloud, method: str, line: str, repeated: bool
) -> None:
    first, second = Stuck(cloud), Stuck(cloud)
    cloud.endpoint(first.replica, second.replica, hedging={"after_ms": 20, "budget": 1.0})
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH, WORKSPACE_TOKEN, line, method=method, body=b"x"))
        wanted = 2 if repeated else 1
        eventually(lambda: len(first.replica.requests) + len(second.replica.requests) == wanted)
        if not repeated:
            time.sleep(0.1)  # in which a second would have been sent
        asked = [each for each in (first, second) if each.replica.requests]
        assert len(asked) == wanted
        assert {r.body for each in asked for r in each.replica.requests} == {b"x"}
        for each in asked:
            each.go.set()
        assert read_answer(wire)[0] == 200


def test_a_client_that_leaves_ends_both_tries(cloud: Cloud) -> None:
    first, second = Stuck(cloud), Stuck(cloud)
    cloud.endpoint(first.replica, second.replica, hedging={"after_ms": 20, "budget": 1.0})
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH))
        eventually(lambda: len(first.replica.requests) + len(second.replica.requests) == 2)
    first.go.set()
    second.go.set()
    assert first.left.wait(PATIENCE_S)
    assert second.left.wait(PATIENCE_S)


@pytest.mark.parametrize("dies", [0, 1], ids=["the first", "the second"])
def test_a_try_that_fails_leaves_the_answer_to_the_other(cloud: Cloud, dies: int) -> None:
    go = [threading.Event(), threading.Event()]
    turns = count()
    asked = []

    def answer(wire: Wire, request: Request) -> None:
        turn = next(turns)
        asked.append(turn)
        go[turn].wait(PATIENCE_S)
        if turn == dies:
            raise EOFError
        wire.send(ok(b"%d" % turn))

    pair = [cloud.replica(answer), cloud.replica(answer)]
    cloud.endpoint(*pair, hedging={"after_ms": 20, "budget": 1.0})
    with cloud.gateway.client() as wire:
        wire.send(a_request(PATH))
        eventually(lambda: len(asked) == 2)
        go[dies].set()
        lost = rb"lepton_gateway_lost_attempts_total\{[^}]*\} 1\n"
        eventually(lambda: re.search(lost, cloud.gateway.ask("/metrics")[2]) is not None)
        go[1 - dies].set()
        assert read_answer(wire)[::2] == (200, b"%d" % (1 - dies))


def test_second_tries_stay_within_their_budget(cloud: Cloud) -> None:
    def slow(wire: Wire, request: Request) -> None:
        time.sleep(0.03)
        wire.send(ok())

    cloud.endpoint(cloud.replica(slow), cloud.replica(slow), hedging={"after_ms": 5})
    for _ in range(60):
        assert cloud.gateway.ask(PATH)[0] == 200
    told = hedges(cloud)
    assert 1 <= told["sent"] <= 1 + 60 * 0.05
    assert told["denied"] >= 50


def test_how_late_is_late_is_learnt_from_the_answers(cloud: Cloud) -> None:
    lazy, over = threading.Event(), threading.Event()

    def answer(wire: Wire, request: Request) -> None:
        if lazy.is_set():
            over.wait(PATIENCE_S)
        wire.send(ok())

    cloud.endpoint(
        cloud.replica(answer),
        cloud.replica(lambda wire, _: wire.send(ok())),
        hedging={"quantile": 0.95, "budget": 1.0},
    )
    for _ in range(70):
        cloud.gateway.ask(PATH)
    before = hedges(cloud)["won"]
    lazy.set()
    for _ in range(4):
        assert cloud.gateway.ask(PATH)[0] == 200
    assert hedges(cloud)["won"] > before
    over.set()


@given(st.integers(), st.sampled_from([320, 640, 1600]))
@settings(max_examples=20)
def test_a_quantile_is_known_to_a_fifth(seed: int, number: int) -> None:
    draw = random.Random(seed)
    times = [draw.lognormvariate(-3, 1) for _ in range(number)]
    slowness = Slowness(0.9)
    for each in times:
        slowness.note(each)
    true = sorted(times)[number * 9 // 10 - 1]
    assert slowness.after_s is not None
    assert true <= slowness.after_s * (1 + 1e-9)
    assert slowness.after_s <= max(FINEST_S, true) * 2.0**0.25 * (1 + 1e-9)


def test_a_quantile_of_a_few_is_none() -> None:
    slowness = Slowness(0.9)
    for _ in range(LEAST_KNOWN - 1):
        slowness.note(1.0)
    assert slowness.after_s is None


# --- what a scaling target counts -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("counting", "counted"),
    [
        (Counting(), {"GET /", "POST /v1/a?x=1", "GET /v1"}),
        (Counting(paths=("/v1/*",)), {"POST /v1/a?x=1"}),
        (Counting(paths=("/v1", "/"), methods=("get",)), {"GET /", "GET /v1"}),
        (Counting(methods=("POST",)), {"POST /v1/a?x=1"}),
    ],
)
def test_requests_count_by_path_and_method(counting: Counting, counted: set[str]) -> None:
    rule = Counted(counting)
    for each in ("GET /", "POST /v1/a?x=1", "GET /v1"):
        method, path = each.encode().split(b" ")
        assert rule.counts(method, path) == (each in counted)


def test_the_control_plane_is_told_of_those_that_count(cloud: Cloud) -> None:
    # Of a name of its own: what is still to be told of "e" may be told meanwhile.
    upstreams = [cloud.replica().upstream()]
    cloud.publish(a_route("counted", upstreams=upstreams, counting={"paths": ["/predict"]}))
    for path in ("predict", "predict?a=b", "other", "healthz"):
        cloud.gateway.ask(f"/e/default/counted/{path}")

    def told() -> tuple[int, int]:
        reports = list(cloud.control_plane.reports)
        windows = [w for report in reports for w in report.windows if w.endpoint == "counted"]
        return sum(w.arrivals for w in windows), sum(w.matching for w in windows)

    eventually(lambda: told() == (4, 2))
