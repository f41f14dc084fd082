"""The simulated endpoint: small cases worked out by hand, and what others publish."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.testing.simulator.autoscale import Measured, Requests, simulate_autoscale
from leptonai.testing.simulator.ours import Ours
from leptonai.testing.simulator.published import Hpa, Kpa, Static
from leptonai.testing.simulator.traffic import draw_traffic


class Told:
    """Wants what it is told, from the second on."""

    interval_s = 1.0

    def __init__(self, first, later=None):
        self.first, self.later, self.seen = first, later or {}, []

    def initial(self):
        return self.first

    def desired(self, measured):
        self.seen.append(measured)
        self.first = self.later.get(round(measured.now_s), self.first)
        return self.first


def some_requests(*arrivals, takes=1.0, until_s=10.0):
    return Requests(np.array(arrivals, dtype=float), np.full(len(arrivals), takes), until_s)


def simulated(requests, autoscaler, slots=1, cold_start_s=3.0):
    return simulate_autoscale(requests, autoscaler, cold_start_s=cold_start_s, slots=slots)


def test_requests_wait_for_a_slot_in_the_order_they_came():
    outcome = simulated(some_requests(0.5, 0.6, 0.7), Static(1))
    assert outcome.waited_s.tolist() == pytest.approx([0, 0.9, 1.8])
    assert (outcome.max_queue, outcome.miss_ratio(1.0)) == (2, pytest.approx(1 / 3))
    assert outcome.cost_ratio == pytest.approx(10 / 3)


def test_a_replica_serves_one_cold_start_after_it_was_asked_for():
    outcome = simulated(some_requests(0.5, 0.6, 0.7, takes=5.0), Told(1, {1: 3}))
    assert outcome.waited_s.tolist() == pytest.approx([0, 3.4, 3.3])
    assert outcome.replica_s == pytest.approx(10 + 2 * 9)


def test_a_replica_that_goes_answers_what_it_has():
    outcome = simulated(some_requests(0.5, 0.6, takes=5.0), Told(2, {1: 1}))
    assert outcome.waited_s.tolist() == [0, 0]
    # Of two as busy the younger leaves, when its request is done at 5.6.
    assert outcome.replica_s == pytest.approx(10 + 5.6)


def test_what_is_still_starting_is_the_first_to_go():
    outcome = simulated(some_requests(0.5), Told(1, {1: 2, 2: 1}))
    assert outcome.replica_s == pytest.approx(10 + 1)
    assert outcome.direction_changes == 1


def test_what_is_still_waiting_at_the_end_has_missed():
    outcome = simulated(some_requests(0.5, 0.6, takes=60.0), Static(1))
    assert outcome.miss_ratio(2.0) == 0.5


def test_the_autoscaler_is_told_what_gateways_can_count():
    told = Told(1)
    simulated(some_requests(0.25, 0.5, 1.5), told)
    assert told.seen[:2] == [
        Measured(
            now_s=1.0,
            window_s=1.0,
            arrived=2,
            ended=0,
            waited_s=0.5,
            busy_s=0.75,
            queued=1,
            in_flight=1,
            ready=1,
            starting_since_s=(),
        ),
        Measured(
            now_s=2.0,
            window_s=1.0,
            arrived=1,
            ended=1,
            waited_s=0.75,
            busy_s=1.0,
            queued=1,
            in_flight=1,
            ready=1,
            starting_since_s=(),
        ),
    ]


@given(
    st.lists(st.floats(0, 9.9), min_size=1, max_size=30).map(sorted),
    st.lists(st.integers(1, 5), min_size=10, max_size=10),
    st.integers(1, 3),
    st.floats(0.05, 3),
)
def test_no_request_is_lost_or_served_out_of_turn(arrivals, wanted, slots, takes):
    requests = some_requests(*arrivals, takes=takes, until_s=10.0)
    outcome = simulated(requests, Told(1, dict(enumerate(wanted, 1))), slots=slots)
    begun = np.array(arrivals) + outcome.waited_s
    served = begun[~np.isnan(begun)]
    assert (np.diff(served) >= -1e-9).all()
    assert not np.isnan(begun[: len(served)]).any()
    assert (outcome.waited_s[: len(served)] >= 0).all()
    # Never more at work than there are slots.
    for moment in served:
        assert ((served <= moment) & (moment < served + takes - 1e-9)).sum() <= slots * max(
            1, *wanted
        )


def a_measure(**more):
    whole = {
        "now_s": 60.0,
        "window_s": 2.0,
        "arrived": 0,
        "ended": 0,
        "waited_s": 0.0,
        "busy_s": 0.0,
        "queued": 0,
        "in_flight": 0,
        "ready": 4,
        "starting_since_s": (),
    }
    return Measured(**(whole | more))


def test_kpa_divides_concurrency_by_its_target_and_panics_at_twice_what_is_ready():
    kpa = Kpa(0.5, slots=2, initial=4)
    assert kpa.desired(a_measure(busy_s=12.0)) == 6
    assert kpa.desired(a_measure(now_s=62.0, busy_s=0.0)) == 3
    # Panic: 6 s at 12 in the system and 24 waiting is 3 windows.
    panicked = Kpa(0.5, slots=2, initial=4)
    assert panicked.desired(a_measure(busy_s=16.0, waited_s=48.0)) == 32
    assert panicked.desired(a_measure(now_s=64.0)) == 32
    later = [panicked.desired(a_measure(now_s=66.0 + 2 * at, ready=32)) for at in range(40)]
    assert later[20] == 32
    assert later[-1] == 16  # at most half at a time


def test_hpa_goes_by_utilisation_and_comes_down_after_five_minutes():
    hpa = Hpa(0.5, slots=2, initial=4)
    measure = {"window_s": 15.0, "ready": 4}
    assert hpa.desired(a_measure(now_s=15.0, busy_s=120.0, **measure)) == 8
    assert hpa.desired(a_measure(now_s=30.0, busy_s=63.0, **measure)) == 4  # within its tolerance
    down = {"window_s": 15.0, "ready": 8, "busy_s": 12.0}
    assert hpa.desired(a_measure(now_s=45.0, **down)) == 8
    assert hpa.desired(a_measure(now_s=400.0, **down)) == 1


def test_hpa_counts_what_is_starting_as_idle_when_it_scales_up():
    hpa = Hpa(0.5, slots=2, initial=4)
    starting = (1.0,) * 4
    measure = a_measure(window_s=15.0, busy_s=120.0, ready=4, starting_since_s=starting)
    assert hpa.desired(measure) == 8


def test_traffic_is_the_same_for_the_same_seed_and_has_the_rate_asked_for():
    counts = np.array([100.0] * 288 + [300.0] * 288)
    services = np.array([1.0, 2.0])
    one, same = (
        draw_traffic(counts, services, bin_s=300, days=(1, 2), mean_rate=2.0, seed=7)
        for _ in range(2)
    )
    assert np.array_equal(one.requests.arrived_s, same.requests.arrived_s)
    assert len(one.requests.arrived_s) == pytest.approx(2 * 86_400, rel=0.02)
    assert one.history.sum() == pytest.approx(2 * 86_400 / 3, rel=0.02)
    assert len(one.history) == 8_640
    assert one.begins_s == 86_400


def test_ours_misses_less_than_published_rules_for_less_on_rates_that_jump():
    jumps = np.random.default_rng(0).gamma(1.0, 300.0, 5 * 288)
    traffic = draw_traffic(jumps, np.array([2.0]), bin_s=300, days=(4.75, 5), seed=1)
    ours = Ours(traffic, certainty=0.95, cold_start_s=60.0, slots=2, initial=4)
    outcome = simulate_autoscale(traffic.requests, ours, cold_start_s=60.0, slots=2)
    assert ours.predictive > 0.9 * ours.decisions
    for rival in (Kpa(0.5, slots=2, initial=4), Hpa(0.5, slots=2, initial=4)):
        theirs = simulate_autoscale(traffic.requests, rival, cold_start_s=60.0, slots=2)
        assert outcome.cost_ratio < theirs.cost_ratio
        assert outcome.miss_ratio(2.0) < theirs.miss_ratio(2.0)
