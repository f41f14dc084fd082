"""An endpoint has the replicas that its autoscaler came to, within what was asked."""

import asyncio

import pytest
from msgspec.structs import replace

from leptonai.control.draining import LET_GO_MS, LOOK_AGAIN_MS, UNHEARD_MS, Draining
from leptonai.control.mirror import Mirror
from leptonai.control.traffic import TrafficLog
from leptonai.core.lifecycle.endpoint import (
    advance,
    new_endpoint,
    restarted,
    scaled,
    updated,
    woken,
)
from leptonai.core.lifecycle.replica import stop
from leptonai.core.records import Autoscaling, Endpoint, Goal, Phase, Replica
from leptonai.core.routing import STOPPED_DRAIN_MS, route_table
from leptonai.core.traffic import TrafficReport
from leptonai.spec.containers import Container
from leptonai.spec.endpoints import (
    AutoScaler,
    EndpointSpec,
    EndpointState,
    ResourceRequirement,
    ScaleDown,
    TargetThroughput,
)

NOW = 1_000_000
ASLEEP = Autoscaling(desired=0, because="scaled to 0")


def a_spec(
    least: int = 1, most: int | None = None, idle_s: int = 0, qpm: float = 0
) -> EndpointSpec:
    return EndpointSpec(
        container=Container(command=["serve"]),
        resource_requirement=ResourceRequirement(min_replicas=least, max_replicas=most),
        auto_scaler=AutoScaler(
            scale_down=ScaleDown(no_traffic_timeout=idle_s),
            target_throughput=TargetThroughput(qpm=qpm),
        ),
    )


def an_endpoint(spec: EndpointSpec, autoscaling: Autoscaling | None = None) -> Endpoint:
    made = new_endpoint(
        workspace="default",
        name="digits",
        spec=spec,
        owner="ada",
        labels={},
        visibility="",
        now_ms=NOW,
    )
    return replace(made, autoscaling=autoscaling, seq=1)


def changed(endpoint: Endpoint, spec: EndpointSpec) -> Endpoint:
    return updated(endpoint, spec, token_hashes=(), model_digest="", now_ms=NOW)


def test_its_number_is_the_autoscalers_and_a_stop_is_a_stop():
    busy = Autoscaling(desired=3)
    assert an_endpoint(a_spec(1, 4), busy).wanted == 3
    assert an_endpoint(a_spec(0, 4), busy).wanted == 0
    assert len(advance(an_endpoint(a_spec(1, 4), busy), (), NOW).replicas) == 3


def test_asleep_it_is_ready_says_why_and_requests_wait_for_it():
    endpoint = advance(an_endpoint(a_spec(idle_s=60), ASLEEP), (), NOW).owner
    assert (endpoint.state, endpoint.message) == (EndpointState.READY, "scaled to 0")
    (route,) = route_table(1, [endpoint], {}, {}, {}).routes
    assert route.expecting


@pytest.mark.parametrize(("starts_s", "held_s"), [((), 60), ((2, 3, 4), 60), ((40, 44, 300), 90)])
def test_requests_wait_for_as_long_as_its_starts_may_take(starts_s, held_s):
    asleep = replace(ASLEEP, starts_ms=tuple(1000 * each for each in starts_s))
    (route,) = route_table(1, [an_endpoint(a_spec(idle_s=60), asleep)], {}, {}, {}).routes
    assert route.hold.seconds == held_s


def test_stopped_it_is_not_asleep_and_nothing_waits_for_it():
    stopped = changed(an_endpoint(a_spec(idle_s=60), ASLEEP), a_spec(0, idle_s=60))
    endpoint = advance(stopped, (), NOW).owner
    assert (endpoint.state, endpoint.asleep) == (EndpointState.STOPPED, False)
    (route,) = route_table(1, [endpoint], {}, {}, {}).routes
    assert not route.expecting
    again = changed(endpoint, a_spec(2, idle_s=60))
    assert (again.wanted, again.state) == (2, EndpointState.STARTING)


def test_asleep_it_stays_asleep_when_its_program_changes():
    assert restarted(an_endpoint(a_spec(idle_s=60), ASLEEP), NOW).asleep
    assert changed(an_endpoint(a_spec(idle_s=60), ASLEEP), a_spec(2, idle_s=60)).asleep


def test_who_asks_for_its_replicas_wakes_it():
    awake = woken(an_endpoint(a_spec(2, idle_s=60), ASLEEP))
    assert (awake.wanted, awake.state) == (2, EndpointState.STARTING)


def test_new_bounds_leave_the_number_where_it_is_if_they_can():
    busy = an_endpoint(a_spec(1, 8, qpm=60), Autoscaling(desired=6))
    wanted = [
        changed(busy, a_spec(least, most, qpm=60)).wanted
        for least, most in [(2, 16), (1, 4), (7, 9)]
    ]
    assert wanted == [6, 4, 7]
    assert changed(busy, a_spec(2, 2)).wanted == 2


def test_a_change_of_the_number_is_told_with_its_reason():
    endpoint = an_endpoint(a_spec(1, 8, qpm=60), Autoscaling(desired=1))
    step = scaled(endpoint, Autoscaling(desired=3, because="180 requests a minute"), (), NOW)
    assert step.events[0].message == "1 → 3 replicas: 180 requests a minute"
    assert len(step.replicas) == 3


class AClock:
    at_ms = NOW

    def now_ms(self) -> int:
        return self.at_ms


@pytest.mark.parametrize(
    ("spec", "bound_ms"),
    [(a_spec(1), 300_000), (a_spec(0), STOPPED_DRAIN_MS), (None, STOPPED_DRAIN_MS)],
    ids=["scaled down", "stopped", "removed"],
)
def test_a_server_that_leaves_ends_its_requests_first(spec, bound_ms):
    clock, mirror = AClock(), Mirror()
    traffic = TrafficLog(clock)
    draining = Draining(mirror, traffic, lambda replica: 7)
    endpoint = an_endpoint(spec or a_spec(1))
    if spec is not None:
        mirror.apply([endpoint])
    (fresh,) = advance(an_endpoint(a_spec(1)), (), NOW).replicas
    serving = replace(fresh, phase=Phase.RUNNING, node="n1", ready=True, owner_id=endpoint.id)
    assert draining.again_ms(serving, clock.at_ms) is None
    leaving = stop(serving, clock.at_ms)
    assert leaving.goal is Goal.STOP
    told = TrafficReport(gateway="g", windows=(), leaving={leaving.id: 1}, table=7)
    while clock.at_ms < NOW + bound_ms:
        traffic.take(told)
        again_ms = draining.again_ms(leaving, clock.at_ms)
        assert again_ms == min(clock.at_ms + LOOK_AGAIN_MS, NOW + bound_ms)
        clock.at_ms = again_ms
    assert draining.again_ms(leaving, clock.at_ms) is None, "nothing keeps it for longer"


def test_a_server_that_has_ended_its_requests_is_stopped_at_once():
    clock, mirror = AClock(), Mirror()
    traffic, news = TrafficLog(clock), asyncio.Event()
    traffic.wake_when_idle(news)
    draining = Draining(mirror, traffic, lambda replica: 7)
    (fresh,) = advance(an_endpoint(a_spec(1)), (), NOW).replicas
    serving: Replica = replace(fresh, phase=Phase.RUNNING, node="n1", ready=True)
    leaving = stop(serving, NOW)
    traffic.take(TrafficReport(gateway="g", windows=(), leaving={leaving.id: 1}, table=7))
    assert draining.again_ms(leaving, NOW) == NOW + LOOK_AGAIN_MS
    traffic.take(TrafficReport(gateway="g", windows=(), table=7))
    assert news.is_set()
    assert draining.again_ms(leaving, NOW) is None


class Leaving:
    """A server that is to stop, and what gateways say of the table that it is not in."""

    def __init__(self):
        self.clock, self.news = AClock(), asyncio.Event()
        self.traffic = TrafficLog(self.clock)
        self.traffic.wake_when_idle(self.news)
        self.table = None  # once it is made
        self.draining = Draining(Mirror(), self.traffic, lambda replica: self.table)
        (fresh,) = advance(an_endpoint(a_spec(1)), (), NOW).replicas
        self.replica = stop(replace(fresh, phase=Phase.RUNNING, node="n1", ready=True), NOW)

    def serves_by(self, gateway, table):
        self.news.clear()
        self.traffic.take(TrafficReport(gateway=gateway, windows=(), table=table))

    @property
    def again_ms(self):
        return self.draining.again_ms(self.replica, self.clock.at_ms)


def test_a_server_is_stopped_as_soon_as_every_gateway_has_let_go_of_it():
    leaving = Leaving()
    leaving.serves_by("a", 6)
    leaving.serves_by("b", 6)
    assert leaving.again_ms == NOW + LET_GO_MS  # no table is without it
    leaving.table = 7
    assert leaving.again_ms == NOW + LET_GO_MS
    leaving.serves_by("a", 7)
    assert leaving.news.is_set()
    leaving.table = 9  # another change does not make it wait again
    assert leaving.again_ms == NOW + LET_GO_MS
    leaving.serves_by("b", 8)
    assert leaving.news.is_set()
    assert leaving.again_ms is None
    leaving.serves_by("b", 9)
    assert not leaving.news.is_set(), "nobody waits for that"


def test_a_gateway_that_does_not_let_go_is_gone_and_waited_for_once():
    leaving = Leaving()
    leaving.table = 7
    leaving.serves_by("killed", 6)
    assert leaving.again_ms == NOW + LET_GO_MS
    leaving.clock.at_ms += LET_GO_MS
    assert leaving.again_ms is None
    leaving.serves_by("next", 9)
    leaving.replica = replace(leaving.replica, attempt=leaving.replica.attempt + 1)
    leaving.table = 8
    assert leaving.again_ms is None


def test_where_no_gateway_has_told_yet_it_gets_half_a_second():
    leaving = Leaving()
    leaving.table = 7
    assert leaving.again_ms == NOW + UNHEARD_MS
    leaving.clock.at_ms += UNHEARD_MS
    assert leaving.again_ms is None
