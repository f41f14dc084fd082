"""Which replica a request goes to, whether it goes to another, and how long one is left alone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.routing import Balance, BalanceBy, Retry, Route, Shadow, Upstream
from leptonai.gateway.balance import Ring, Shares, choose, draw, place_of
from leptonai.gateway.limits import MAX_UNPROVEN, Limits
from leptonai.gateway.metrics import Traffic
from leptonai.gateway.retries import (
    BUDGET_FLOOR,
    BUDGET_PER_S,
    EJECT_MOST_S,
    FAILURES_OF_ANSWERS,
    MAX_ATTEMPTS,
    RetryBudget,
    ejection_s,
    why_not_again,
)
from leptonai.gateway.selection import Selection
from leptonai.gateway.target import Target
from leptonai.gateway.windows import Totals


@dataclass(eq=False)
class ATarget:
    outstanding: int = 0
    ejected_until: float = 0.0


# --- by load, weight and key ----------------------------------------------------------------------


def test_one_to_avoid_is_chosen_only_where_there_is_no_other() -> None:
    busy, failed = ATarget(outstanding=9), ATarget()
    assert choose([busy, failed], 0, now=0, avoid=failed) is busy
    assert choose([failed], 0, now=0, avoid=failed) is failed
    failed.ejected_until = 1.0
    assert choose([failed], 0, now=0, avoid=failed) is None


@given(st.integers(0, 10_000), st.integers(1, 99))
def test_any_hundred_requests_are_split_by_weight(start: int, percent: int) -> None:
    shares = Shares({"old": 100.0 - percent, "new": float(percent)})
    chosen = Counter(shares.at(draw(start + n)) for n in range(100))
    assert abs(chosen["new"] - percent) <= 2


def test_without_weights_there_is_no_share() -> None:
    assert Shares({"a": 0.0}).at(0.5) is None
    assert Shares({"a": 0.0, "b": 1.0}).at(0.0) == "b"


def test_a_key_keeps_its_replica_when_another_leaves() -> None:
    targets = {name: ATarget() for name in "abcd"}
    keys = [b"key%d" % n for n in range(200)]
    before = Ring(targets)
    after = Ring({name: target for name, target in targets.items() if name != "d"})
    for key in keys:
        chosen = before.choose(key, now=0)
        if chosen is not targets["d"]:
            assert after.choose(key, now=0) is chosen
    shares = Counter(id(before.choose(key, now=0)) for key in keys)
    assert min(shares.values()) > 200 / 4 / 3


def test_an_ejected_replicas_keys_go_to_others_for_the_time() -> None:
    targets = {name: ATarget() for name in "abc"}
    ring = Ring(targets)
    own = ring.choose(b"key", now=0)
    assert own is not None
    own.ejected_until = 5.0
    other = ring.choose(b"key", now=0)
    assert other is not None and other is not own
    assert ring.choose(b"key", now=5) is own
    assert ring.choose(b"key", now=5, avoid=own) is other


# --- of an endpoint -------------------------------------------------------------------------------


def a_target(upstream: Upstream) -> Target:
    return Target(None, upstream, Traffic())  # type: ignore[arg-type]  # it connects to nothing


def a_selection(*versions: str, **fields: object) -> tuple[Selection, list[Target]]:
    upstreams = tuple(
        Upstream(replica=f"r{n}", host="h", port=n, version=version)
        for n, version in enumerate(versions)
    )
    targets = [a_target(upstream) for upstream in upstreams]
    route = Route(workspace="w", name="n", upstreams=upstreams, **fields)  # type: ignore[arg-type]
    return Selection(route, targets), targets


def versions_of(selection: Selection, requests: int, key: bytes = b"") -> Counter[str]:
    chosen = [selection.choose(0.0, key, None) for _ in range(requests)]
    return Counter(target.upstream.version for target in chosen if target is not None)


def test_versions_get_their_weight_however_many_replicas_they_have() -> None:
    selection, _ = a_selection("1", "1", "1", "2", weights={"1": 9.0, "2": 1.0})
    assert versions_of(selection, 100) == {"1": 90, "2": 10}


def test_a_version_without_weight_gets_nothing() -> None:
    selection, targets = a_selection("1", "2", weights={"1": 1.0})
    assert versions_of(selection, 10) == {"1": 10}
    targets[0].ejected_until = 1.0
    assert selection.choose(0.0, b"", None) is None
    unnamed, _ = a_selection("2", weights={"1": 1.0})
    assert not unnamed
    shadowed, _ = a_selection("1", "2", shadow=Shadow(version="2", percent=5.0))
    assert versions_of(shadowed, 10) == {"1": 10}


def test_a_version_that_is_down_leaves_its_share_to_the_others() -> None:
    selection, targets = a_selection("1", "2", weights={"1": 5.0, "2": 5.0})
    targets[1].ejected_until = 1.0
    assert versions_of(selection, 10) == {"1": 10}
    targets[1].ejected_until = 0.0
    failed = targets[0]
    assert {selection.choose(0.0, b"", failed) for _ in range(10)} == {targets[1]}


def test_a_caller_meets_one_version_only_where_keys_decide() -> None:
    fields = {"weights": {"1": 1.0, "2": 1.0}, "balance": Balance(by=BalanceBy.ADDRESS)}
    selection, _ = a_selection("1", "1", "2", "2", **fields)
    versions: Counter[str] = Counter()
    for n in range(100):
        [(version, count)] = versions_of(selection, 3, b"caller%d" % n).items()
        assert count == 3
        versions[version] += 1
    assert min(versions.values()) > 25
    assert 0 <= place_of(b"x") < 1


def test_a_cookie_leads_back_to_its_replica_until_that_is_gone() -> None:
    selection, targets = a_selection("1", "1", "1", balance=Balance(by=BalanceBy.COOKIE))
    name = selection.name_of(targets[2])
    assert {selection.choose(0.0, name, None) for _ in range(5)} == {targets[2]}
    targets[2].ejected_until = 1.0
    assert selection.choose(0.0, name, None) in targets[:2]
    assert selection.choose(0.0, b"of somebody else", None) in targets[:2]


# --- again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "safe", "sent", "kept", "again"),
    [
        ("safe", True, True, True, True),
        ("safe", False, True, True, False),
        ("safe", False, False, True, True),
        ("always", False, True, True, True),
        ("always", True, True, False, False),
        ("never", True, True, True, False),
        ("never", False, False, True, True),
    ],
)
def test_what_is_sent_again(policy: str, safe: bool, sent: bool, kept: bool, again: bool) -> None:
    facts = {"safe": safe, "sent": sent, "kept": kept}
    assert (why_not_again(Retry(policy), **facts, attempts=1) is None) is again
    assert why_not_again(Retry(policy), **facts, attempts=MAX_ATTEMPTS) is not None


def test_a_dying_endpoint_gets_a_fifth_more_work_and_no_more() -> None:
    budget = RetryBudget(now=0.0)
    first = sum(budget.spend(0, 0.0) for _ in range(1_000))
    assert first == BUDGET_FLOOR
    assert sum(budget.spend(1_000, 0.0) for _ in range(1_000)) == 200
    assert sum(budget.spend(1_000, 1.0) for _ in range(1_000)) == BUDGET_PER_S


def test_a_replica_is_left_alone_longer_each_time_until_it_answers() -> None:
    assert [ejection_s(1.0, n) for n in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert ejection_s(1.0, 100) == EJECT_MOST_S
    target = a_target(Upstream(replica="r", host="h", port=1))
    target.failed(10.0, 1.0)
    target.failed(10.5, 1.0)  # of the same moment
    assert target.ejected_until == 11.0
    target.failed(11.0, 1.0)
    assert target.ejected_until == 13.0
    target.answered(200, 13.0, 1.0)
    target.failed(14.0, 1.0)
    assert target.ejected_until == 15.0


def test_errors_in_a_row_count_as_a_failure() -> None:
    target = a_target(Upstream(replica="r", host="h", port=1))
    for status in (500,) * (FAILURES_OF_ANSWERS - 1) + (200,) + (500,) * (FAILURES_OF_ANSWERS - 1):
        target.answered(status, 1.0, 1.0)
    assert target.ejected_until == 0.0
    target.answered(503, 1.0, 1.0)
    assert target.ejected_until == 2.0


# --- traffic windows ------------------------------------------------------------------------------


def test_a_window_has_what_was_counted_between_two_instants() -> None:
    traffic = Traffic()
    traffic.dispatched(1.0)
    before = Totals(traffic, 2.0)
    traffic.arrivals += 1
    traffic.dispatched(3.0)
    traffic.returned(4.0)
    traffic.count(503, 1.5)
    traffic.served(1.0)
    about = {"workspace": "w", "endpoint": "e", "version": "1", "shadow": False}
    window = Totals(traffic, 5.0).since(before, **about, start_ms=2_000, end_ms=5_000)  # type: ignore[arg-type]
    assert window is not None
    assert (window.arrivals, window.ended, window.served) == (1, {5: 1}, 1)
    assert window.service_sum_ms == 1_000
    assert window.in_flight_ms == 4_000  # one for 3 s, and another for 1 s
    same = Totals(Traffic(), 1.0)
    assert same.since(Totals(Traffic(), 0.0), **about, start_ms=0, end_ms=1) is None  # type: ignore[arg-type]


# --- connections to a replica ---------------------------------------------------------------------


class ALink:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.unproven = False
        self.served: list[AWaiting] = []

    def rest(self, now: float) -> None:
        waiting = self.target.next_waiting()
        if waiting is not None:
            self.served.append(cast(AWaiting, waiting))


class AWaiting:
    done = False

    def __init__(self, target: Target) -> None:
        self.target: Target | None = target
        self.endpoint = self

    def connect_failed(self, exchange: object, target: Target, now: float) -> None:
        self.target = None  # it goes elsewhere


class AConnector:
    """A gateway that counts what it was asked to open."""

    limits = Limits()

    def __init__(self) -> None:
        self.loop = self
        self.opening = 0
        self.timers: list[Callable[[], None]] = []

    def now(self) -> float:
        return 1.0

    def connect(self, target: Target) -> None:
        self.opening += 1

    def call_later(self, delay: float, call: Callable[..., None], *arguments: object) -> None:
        self.timers.append(lambda: call(*arguments))

    def keep_sweeping(self) -> None:
        return None


@given(st.lists(st.sampled_from(["ask", "ask", "open", "fail", "answer", "time", "leave"])))
def test_few_connections_wait_to_be_accepted_and_no_request_is_forgotten(steps: list[str]) -> None:
    gateway = AConnector()
    target = Target(cast(Any, gateway), Upstream(replica="r", host="h", port=1), Traffic())
    asked: list[AWaiting] = []
    links: list[ALink] = []
    for step in [*steps, *["open", "time"] * len(steps)]:
        if step == "ask":
            asked.append(AWaiting(target))
            target.connect(cast(Any, asked[-1]))
        elif step == "open" and gateway.opening:
            gateway.opening -= 1
            links.append(ALink(target))
            target.opened(cast(Any, links[-1]))
        elif step == "fail" and gateway.opening:
            gateway.opening -= 1
            target.not_opened()
        elif step == "answer" and links:
            target.proven(cast(Any, links[0]))
            links[0].rest(1.0)
        elif step == "time" and gateway.timers:
            gateway.timers.pop(0)()
        elif step == "leave" and asked:
            asked[-1].done = True
        assert gateway.opening + sum(link.unproven for link in links) <= MAX_UNPROVEN
    served = [each for link in links for each in link.served]
    assert len(served) == len(set(served))
    assert {each for each in asked if each.target is target and not each.done} <= set(served)
