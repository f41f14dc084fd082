"""How many replicas an endpoint should have: examples, then what holds for every load."""

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.elasticity import (
    NEW,
    Concurrency,
    Demand,
    Fleet,
    Forecast,
    Latency,
    Policy,
    Scale,
    State,
    Throughput,
    Utilisation,
    decide,
    parse_latency,
    parse_schedule,
    policy_of,
)
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import (
    AutoScaler,
    EndpointSpec,
    ResourceRequirement,
    ScalingSchedule,
    TargetThroughput,
)

MONDAY_S = 4 * 86_400  # of 1970
COLD_START_S = 30.0


TWO_AT_ONCE = Concurrency(2)


def a_policy(target=TWO_AT_ONCE, **more):
    return Policy(target=target, **more)


def a_forecast(alpha=1.0, beta=0.0, gamma=0.0, usual=0.0, certainty=0.99):
    return Forecast(
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        fast_s=20,
        lead_s=COLD_START_S,
        certainty=certainty,
        profile=(usual,) * 288,
        gain=0.1,
    )


class Endpoint:
    """Replicas that follow what is decided, one cold start later; requests of `service_s` each."""

    def __init__(self, policy, *, forecast=None, service_s=0.5, ready=1, slow=lambda each: 0.0):
        self.policy, self.forecast, self.service_s, self.slow = policy, forecast, service_s, slow
        self.state, self.now_s, self.ready, self.asked = NEW, MONDAY_S, ready, []
        self.scales: list[Scale] = []

    @property
    def fleet(self):
        ages = tuple(self.now_s - asked for asked in self.asked)
        return Fleet(ready=self.ready, starting_ages_s=ages, slots=2, cold_start_s=COLD_START_S)

    def demand(self, arrivals, queued=0):
        busy = arrivals * self.service_s
        each = arrivals / self.ready if self.ready else 0.0
        return Demand(
            window_s=1.0,
            arrivals=arrivals,
            ended=arrivals if self.ready else 0,
            busy_s=busy if self.ready else 0.0,
            in_flight=math.ceil(busy) if self.ready else 0,
            queued=queued,
            slow=round(arrivals * self.slow(each)),
            gpu_utilisation=min(1.0, busy / self.ready / 2) if self.ready else None,
        )

    def gets(self, *per_second, queued=0):
        for arrivals in per_second:
            self.now_s += 1
            self.ready += sum(self.now_s - asked >= COLD_START_S for asked in self.asked)
            self.asked = [a for a in self.asked if self.now_s - a < COLD_START_S]
            scale, self.state = decide(
                self.policy,
                self.state,
                self.demand(arrivals, queued),
                self.fleet,
                self.now_s,
                self.forecast,
            )
            self.scales.append(scale)
            more = scale.desired - self.fleet.replicas
            self.asked += [self.now_s] * max(0, more)
            for _ in range(max(0, -more)):
                if self.asked:
                    self.asked.pop()
                else:
                    self.ready -= 1
        return scale

    @property
    def desired(self):
        return [scale.desired for scale in self.scales]


def test_the_offered_load_and_chance_decide_and_a_person_can_follow():
    scale = Endpoint(a_policy()).gets(*[8] * 60)
    # 4 busy slots, and 2.33 standard deviations of a Poisson number with that mean.
    assert scale == Scale(
        5,
        "8 requests/s × 0.5 s = 4.0 busy slots, at most 17.3/s with 99 % certainty = 8.7, "
        "2 a replica: 5 replicas",
    )


@pytest.mark.parametrize(
    ("target", "replicas"),
    [(Throughput(240), 3), (Throughput(241), 2), (Throughput(240.0001), 2), (Utilisation(0.5), 4)],
)
def test_published_policies_divide_what_comes_by_what_a_replica_is_to_get(target, replicas):
    # 8 requests/s, of 0.25 s of a replica's GPUs each.
    load = 12 if target == Throughput(240) else 8
    assert Endpoint(a_policy(target), ready=4).gets(*[load] * 60).desired == replicas


def test_without_a_target_there_are_the_least_ones_or_none():
    wider = Endpoint(Policy(min_replicas=2, max_replicas=5, idle_timeout_s=60))
    assert wider.gets(5) == Scale(
        2, "2 while there are requests; without a target nothing asks for the 5 it may have"
    )
    endpoint = Endpoint(Policy(min_replicas=2, max_replicas=2, idle_timeout_s=60))
    assert endpoint.gets(5).desired == 2
    assert endpoint.gets(*[0] * 59).desired == 2
    assert endpoint.gets(0) == Scale(0, "no request for 60 s: none until the next one", asleep=True)
    assert endpoint.gets(1).desired == 2


def test_what_sleeps_wakes_for_a_request_that_is_held():
    endpoint = Endpoint(a_policy(idle_timeout_s=10))
    assert endpoint.gets(*[0] * 20).asleep
    assert endpoint.gets(0, queued=1).desired == 1


def test_long_requests_that_are_worked_on_are_traffic():
    policy, state = a_policy(idle_timeout_s=10), NEW
    for now_s in range(100):
        demand = Demand(window_s=1, in_flight=1, busy_s=1.0)
        scale, state = decide(policy, state, demand, Fleet(ready=1), float(now_s))
        assert scale.desired == 1


def test_a_queue_is_provided_for_only_where_replicas_on_their_way_will_not_do():
    endpoint = Endpoint(a_policy(), ready=2)
    endpoint.gets(*[4] * 60)
    without = endpoint.gets(4).desired
    # 2 replicas serve 8/s: 100 requests are gone in 25 s, 1,000 are not in 30 s.
    assert endpoint.gets(4, queued=100).desired == without
    scale = endpoint.gets(4, queued=1000)
    assert scale.desired > without
    assert "will still wait in 30 s" in scale.reason


def test_a_forecast_looks_one_cold_start_ahead_and_says_so():
    scale = Endpoint(a_policy(), forecast=a_forecast(1.0, 0.5, usual=8.0)).gets(*[8] * 60)
    assert scale == Scale(
        3,
        "8 requests/s × 0.5 s = 4.0 busy slots, at most 12/s in 30 s with 99 % certainty = 6.0, "
        "2 a replica: 3 replicas",
        predictive=True,
    )


def test_a_forecast_that_errs_is_given_up_and_the_next_fit_is_judged_anew():
    wrong = Endpoint(a_policy(), forecast=a_forecast(alpha=0.0, beta=1.0, usual=1_000.0))
    assert wrong.gets(*[8] * 60).predictive
    assert not wrong.gets(*[8] * 1_900).predictive
    wrong.forecast = a_forecast(alpha=1.5)
    assert wrong.gets(8).predictive


def test_the_latency_a_replica_can_keep_is_learnt():
    # Fast up to 10 requests/s a replica, slow above.
    policy = a_policy(Latency(0.95, 0.2))
    endpoint = Endpoint(policy, ready=1, slow=lambda each: 1.0 if each > 10 else 0.0)
    endpoint.gets(*[4] * 200, *[30] * 600)
    assert endpoint.ready in (3, 4)
    assert "a replica takes" in endpoint.scales[-1].reason


def test_who_comes_without_a_state_first_looks_for_a_cold_start_and_stops_nothing():
    endpoint = Endpoint(a_policy(), ready=20)
    endpoint.gets(*[8] * 60)
    assert endpoint.desired[:29] == [20] * 29
    assert endpoint.desired[-1] == 5


def test_rates_bound_how_fast_replicas_come_and_go():
    endpoint = Endpoint(a_policy(max_up_per_minute=2, max_down_per_minute=1), ready=1)
    endpoint.gets(*[40] * 200, *[0] * 200)
    for at in range(60, len(endpoint.desired)):
        change = endpoint.desired[at] - endpoint.desired[at - 60]
        assert -1 <= change <= 2


def test_what_may_be_paid_goes_before_what_is_needed():
    policy = a_policy(min_replicas=2, max_cost_per_hour=6.0, cost_per_replica_hour=2.0)
    scale = Endpoint(policy).gets(*[100] * 60)
    assert scale.desired == 3
    assert scale.reason.endswith("; 3 is all that 6 an hour pays for")


def test_a_schedule_has_its_replicas_ready_when_it_begins():
    schedule = parse_schedule("Mon-Fri 00:01-00:03", min_replicas=4)
    endpoint = Endpoint(a_policy(idle_timeout_s=5, schedules=(schedule,)))
    endpoint.gets(*[0] * 240)
    assert endpoint.desired[28] == 0
    assert endpoint.desired[29:178] == [4] * 149
    assert endpoint.desired[-1] == 0


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("Mon-Fri 08:00-18:00", [(0, 8), (4, 17)], [(0, 7), (0, 18), (5, 9)]),
        ("sat,sun 22:00-02:00", [(5, 23), (6, 1), (0, 1)], [(5, 1), (0, 23)]),
        ("Fri-Mon 00:00-24:00", [(4, 0), (6, 23), (0, 12)], [(1, 0), (3, 23)]),
        ("daily 06:00-24:00", [(2, 23)], [(2, 5)]),
    ],
)
def test_schedules_are_days_and_times(text, inside, outside):
    schedule = parse_schedule(text, min_replicas=1)
    assert all(schedule.holds(MONDAY_S + day * 86_400 + hour * 3_600) for day, hour in inside)
    assert not any(schedule.holds(MONDAY_S + day * 86_400 + hour * 3_600) for day, hour in outside)


@pytest.mark.parametrize("text", ["", "Mon", "Mon 8-9", "Noday 08:00-09:00", "Mon 25:00-26:00"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(InvalidRequest, match="is no schedule"):
        parse_schedule(text, min_replicas=1)


def test_latencies_are_read_as_people_write_them():
    assert parse_latency("p95<200ms") == Latency(0.95, 0.2)
    assert parse_latency(" p99.9 < 2s ") == Latency(0.999, 2.0)
    endless = ("p95<" + "9" * 400 + "s", "p50." + "0" * 500 + "1<1s")
    for text in ("", "p0<1s", "p100<1s", "95<1s", "p95<0ms", "p95<200", *endless):
        with pytest.raises(InvalidRequest, match="is no target"):
            parse_latency(text)


def test_the_spec_of_an_endpoint_says_how_it_scales():
    def spec(least, most=None, **scaler):
        needs = ResourceRequirement(min_replicas=least, max_replicas=most)
        return EndpointSpec(resource_requirement=needs, auto_scaler=AutoScaler(**scaler))

    qpm = TargetThroughput(qpm=30.0)
    assert policy_of(spec(1, 4, target_throughput=qpm)) == Policy(
        target=Throughput(30.0), min_replicas=1, max_replicas=4
    )
    off = TargetThroughput(qpm=0.0)
    both = spec(1, target_throughput=off, target_gpu_utilization_percentage=50)
    assert policy_of(both) == Policy(target=Utilisation(0.5))
    assert policy_of(spec(2, 2, target_throughput=off)) is None
    assert policy_of(spec(0, 4, target_throughput=qpm)) is None  # its user stopped it
    assert policy_of(EndpointSpec()) is None


@pytest.mark.parametrize(
    ("scaler", "because"),
    [
        (AutoScaler(target_concurrency=5e-324), "target_concurrency: .* next to nothing"),
        (
            AutoScaler(target_throughput=TargetThroughput(qpm=1e-9)),
            "qpm: .* next to nothing",
        ),
        (AutoScaler(max_cost_per_hour=5.0), "what a replica costs is not known"),
        (
            AutoScaler(max_cost_per_hour=1.0, cost_per_replica_hour=2.0),
            "1 pays for no replica, at 2 each",
        ),
        (AutoScaler(schedules=[ScalingSchedule(times="daily 1:00-2:00")]), "no number of replicas"),
        (
            AutoScaler(schedules=[ScalingSchedule(times="x" * 10_000)]),
            "^'x{100}' is no schedule\\n",
        ),
    ],
)
def test_a_spec_that_nothing_can_be_scaled_by_is_refused(scaler, because):
    with pytest.raises(InvalidRequest, match=because):
        policy_of(EndpointSpec(auto_scaler=scaler))


def test_room_for_more_replicas_that_nothing_would_ask_for_is_refused():
    def spec(least, most, **more):
        needs = ResourceRequirement(min_replicas=least, max_replicas=most)
        return EndpointSpec(resource_requirement=needs, **more)

    for scaler in (None, AutoScaler()):
        with pytest.raises(InvalidRequest, match="nothing would ever make the 1 replicas 4"):
            policy_of(spec(1, 4, auto_scaler=scaler))
    assert policy_of(spec(2, 2)) is None
    assert policy_of(spec(0, 4)) is None  # stopped: it may be told by what when it is started


def test_a_replica_that_costs_next_to_nothing_is_paid_for():
    policy = a_policy(max_replicas=3, max_cost_per_hour=1e9, cost_per_replica_hour=5e-324)
    assert Endpoint(policy).gets(*[100] * 60).desired == 3


def test_replicas_of_a_version_that_is_rolled_out_are_no_reason_for_more():
    policy, state = a_policy(idle_timeout_s=5), NEW
    held = Demand(window_s=1, arrivals=1, queued=1)
    _, state = decide(policy, state, Demand(window_s=1), Fleet(ready=0), 0.0)
    for now_s in range(1, 20):
        scale, state = decide(policy, state, held, Fleet(ready=0), float(now_s))
        there = scale.desired + 1  # one more, of the new version
        scale, state = decide(policy, state, held, Fleet(ready=there), now_s + 0.5)
        assert scale.desired == 1
        assert scale.reason.startswith("1 request is there")


# What holds for every load.

loads = st.lists(st.integers(0, 60), min_size=1, max_size=40)
targets = st.sampled_from(
    [Concurrency(2), Throughput(120), Utilisation(0.7), Latency(0.95, 0.2), None]
)
forecasts = st.none() | st.builds(
    a_forecast,
    alpha=st.floats(0, 3),
    beta=st.floats(0, 3),
    gamma=st.floats(0, 3),
    usual=st.floats(0, 50),
)


@given(loads, targets, forecasts, st.integers(1, 5), st.integers(0, 10), st.integers(0, 500))
def test_bounds_hold_and_every_answer_is_a_number(load, target, forecast, least, more, queued):
    policy = a_policy(target, min_replicas=least, max_replicas=least + more)
    endpoint = Endpoint(policy, forecast=forecast, slow=lambda each: 0.5 if each > 5 else 0.0)
    endpoint.gets(*load, queued=queued)
    assert all(least <= desired <= least + more for desired in endpoint.desired)
    assert "nan" not in "".join(scale.reason for scale in endpoint.scales)


@given(loads, targets, st.integers(1, 30))
def test_there_are_none_only_after_the_time_without_traffic(load, target, timeout_s):
    endpoint = Endpoint(a_policy(target, idle_timeout_s=timeout_s))
    endpoint.gets(*load)
    quiet, had_some = 0, False
    for arrivals, scale in zip(load, endpoint.scales, strict=True):
        quiet = 0 if arrivals else quiet + 1
        had_some = had_some or arrivals > 0
        assert (scale.desired == 0) == scale.asleep
        # Before the first request the time counts from the first look.
        assert scale.asleep == (quiet > timeout_s or (quiet == timeout_s and had_some))


@given(loads, targets, forecasts, st.integers(0, 60), st.integers(1, 60), st.integers(0, 300))
def test_more_load_never_means_fewer(load, target, forecast, last, more, queued):
    endpoint = Endpoint(a_policy(target), forecast=forecast)
    endpoint.gets(*load)

    def desired(arrivals, waiting):
        # The same work was done in the window: only what came and what waits differs.
        demand = Demand(window_s=1.0, arrivals=arrivals, queued=waiting, in_flight=2)
        at_s = endpoint.now_s + 1
        scale, _ = decide(
            endpoint.policy, endpoint.state, demand, endpoint.fleet, at_s, endpoint.forecast
        )
        return scale.desired

    assert desired(last, 0) <= desired(last + more, 0)
    assert desired(last, 0) <= desired(last, queued)


@given(st.integers(0, 60), targets.filter(lambda one: not isinstance(one, Latency)), forecasts)
@settings(max_examples=20)
def test_a_constant_load_has_a_constant_answer_once_nothing_is_left_to_learn(
    arrivals, target, forecast
):
    endpoint = Endpoint(a_policy(target), forecast=forecast, ready=40)
    endpoint.gets(*[arrivals] * 300)
    assert len(set(endpoint.desired[-100:])) == 1


@given(st.integers(0, 40), st.integers(0, 40), targets, forecasts)
@settings(max_examples=20)
def test_a_step_turns_the_number_around_once_at_most_in_a_cold_start(
    before, after, target, forecast
):
    endpoint = Endpoint(a_policy(target), forecast=forecast, ready=40)
    endpoint.gets(*[before] * 150, *[after] * 200)
    turns, direction = [], 0
    desired = endpoint.desired[100:]
    for at, (one, other) in enumerate(pairwise(desired)):
        if one != other:
            turned = 1 if other > one else -1
            if direction not in (0, turned):
                turns.append(at)
            direction = turned
    assert all(later - turn >= COLD_START_S for turn, later in pairwise(turns))


def test_what_overloaded_gpus_get_done_is_not_taken_for_what_requests_need():
    endpoint = Endpoint(a_policy(Utilisation(0.7)), ready=40)
    endpoint.gets(*[7] * 150)
    known = endpoint.state.gpu.value
    assert known == pytest.approx(0.25)
    endpoint.gets(*[35] * 20)  # 3 replicas, for what 9 could do
    assert endpoint.state.gpu.value == known
    endpoint.gets(*[35] * 180)
    assert set(endpoint.desired[-100:]) == {13}


@given(loads, targets, forecasts, st.integers(0, 39))
def test_the_state_can_be_stored_and_gone_on_with(load, target, forecast, killed_at):
    one, other = (Endpoint(a_policy(target), forecast=forecast) for _ in range(2))
    for at, arrivals in enumerate(load):
        assert one.gets(arrivals) == other.gets(arrivals)
        if at == killed_at:
            stored = msgspec.json.encode(other.state)
            other.state = msgspec.json.decode(stored, type=State)
            assert len(stored) < 10_000


@given(loads, st.floats(0, 20), st.floats(0.1, 5))
def test_no_more_is_wanted_than_may_be_paid(load, paid, price):
    policy = a_policy(max_cost_per_hour=paid, cost_per_replica_hour=price)
    endpoint = Endpoint(policy)
    endpoint.gets(*load)
    assert all(desired * price <= paid + 1e-6 for desired in endpoint.desired)
