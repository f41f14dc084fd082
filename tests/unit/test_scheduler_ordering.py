"""Who goes first: every order is a number for each gang, smaller first."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.scheduler import (
    DEFAULT,
    QUEUE_POLICIES,
    Change,
    Experience,
    Gang,
    Index,
    Order,
    Policy,
    Snapshot,
    advance,
    decide,
    schedule,
)
from leptonai.core.scheduler.ordering import rank, rank_changes_after_ms, urgent_at_ms
from leptonai.testing.builders import A_MOMENT_MS, a_gang, a_holding, a_node, a_snapshot

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CLUSTER_GPUS = 16
OURS = QUEUE_POLICIES["ours"]


def a_job(
    id: str = "job",
    *,
    gpus: int = 1,
    left_h: float | None = None,
    ran_h: float = 0,
    waited_h: float = 0,
) -> Gang:
    gang = a_gang(id, cpu=0, gpus=gpus, waited_ms=round(waited_h * HOUR_MS))
    return replace(
        gang,
        preemptible=True,
        attained_ms=round(ran_h * HOUR_MS),
        remaining_ms=None if left_h is None else round(left_h * HOUR_MS),
    )


def in_order(policy: Policy, *gangs: Gang) -> str:
    """The ids, as the policy orders them while they wait."""
    turns = sorted((rank(g, 0, policy, CLUSTER_GPUS), g.queued_at_ms, g.id) for g in gangs)
    return " ".join(id for _, _, id in turns)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("fifo", "wide old short new"),
        ("sjf", "short wide new old"),
        ("srsf", "short new old wide"),
        ("las", "old new wide short"),
        ("mlfq", "new old wide short"),
    ],
)
def test_each_known_order_puts_its_own_first(name, order):
    gangs = (
        a_job("old", left_h=5, ran_h=1, waited_h=4),
        a_job("wide", gpus=16, left_h=2, ran_h=1, waited_h=5),
        a_job("short", left_h=1, ran_h=9, waited_h=3),
        a_job("new", left_h=3, ran_h=0.1, waited_h=1),
    )
    assert in_order(QUEUE_POLICIES[name], *gangs) == order


def test_of_gangs_queued_at_one_instant_the_longest_goes_first_by_arrival():
    gangs = (a_job("a", left_h=1), a_job("b", left_h=2), a_job("c"))
    assert in_order(QUEUE_POLICIES["easy"], *gangs) == "b a c"


def test_the_adaptive_order_puts_less_work_first_by_estimates_and_without_any():
    by_estimate = (a_job("a", gpus=8, left_h=1), a_job("b", gpus=4, left_h=1.5))
    by_attained = (a_job("a", gpus=8, ran_h=1), a_job("b", gpus=4, ran_h=0.1))
    assert in_order(OURS, *by_estimate) == "b a"
    assert in_order(OURS, *by_attained) == "b a"


def test_an_estimate_that_was_too_short_is_doubled_and_the_gang_goes_further_back():
    gang = a_job(left_h=1)
    ranks = [rank(gang, round(h * HOUR_MS), OURS, CLUSTER_GPUS) for h in (0.999, 1, 2, 4)]
    assert ranks == sorted(set(ranks))
    after = [rank_changes_after_ms(gang, round(h * HOUR_MS), OURS) for h in (0, 1, 1.5, 3)]
    assert after == [HOUR_MS, HOUR_MS, HOUR_MS // 2, HOUR_MS]


jobs = st.builds(
    a_job,
    gpus=st.integers(1, 64),
    left_h=st.none() | st.floats(0, 10_000),
    ran_h=st.floats(0, 10_000),
    waited_h=st.floats(0, 10_000),
)


@given(jobs, jobs, st.integers(0, 10 * DAY_MS), st.sampled_from([8, 96, 10_000]))
def test_nobody_goes_before_one_that_came_earlier_by_more_than_the_patience(
    old, new, ran_ms, cluster_gpus
):
    new = replace(new, queued_at_ms=old.queued_at_ms + OURS.patience_ms + 1)
    assert rank(old, ran_ms, OURS, cluster_gpus) < rank(new, 0, OURS, cluster_gpus)


@given(jobs, st.integers(0, 10 * DAY_MS), st.sampled_from(sorted(QUEUE_POLICIES)))
def test_a_rank_gets_worse_at_no_other_time_than_was_foretold(gang, ran_ms, name):
    policy = QUEUE_POLICIES[name]
    after_ms = rank_changes_after_ms(gang, ran_ms, policy)
    if policy.order in (Order.SHORTEST, Order.LEAST_WORK):
        return  # half of what it ran already: grows all the time, slowly
    now = rank(gang, ran_ms, policy, CLUSTER_GPUS)
    until_ms = ran_ms + (after_ms or 100 * DAY_MS)
    assert rank(gang, until_ms - 1, policy, CLUSTER_GPUS) <= now
    if after_ms is not None:
        assert after_ms > 0
        before = rank(gang, until_ms - 1, policy, CLUSTER_GPUS)
        assert rank(gang, until_ms, policy, CLUSTER_GPUS) >= before


def test_baselines_know_no_urgency_and_the_default_counts_only_the_wait():
    gang = a_job(ran_h=1)
    assert urgent_at_ms(gang, 0, QUEUE_POLICIES["srtf"]) > 1 << 60
    assert urgent_at_ms(gang, HOUR_MS, DEFAULT) == A_MOMENT_MS + 2 * HOUR_MS + 600_000


def test_an_old_wide_gang_makes_those_that_came_long_after_it_yield():
    running = [
        a_holding(f"small-{at}", cpu=0, gpus=1, devices=(at,), preemptible=True, ran_ms=HOUR_MS)
        for at in range(8)
    ]
    node = a_node(cpu=0, gpus=8)
    young = a_job("wide", gpus=8, ran_h=100, waited_h=101)
    old = replace(young, queued_at_ms=A_MOMENT_MS - OURS.patience_ms - 10 * DAY_MS)
    assert schedule(a_snapshot(node, *running, young), OURS).places == ()
    plan = schedule(a_snapshot(node, *running, old), OURS)
    assert [place.gang for place in plan.places] == ["wide"]
    assert {preempt.gang for preempt in plan.preempts} == {f"small-{at}" for at in range(8)}


def test_ranks_by_the_size_of_the_cluster_follow_when_nodes_come_and_go():
    """A day of 8 GPUs is held back for all the patience on 16 GPUs, but not on 1,600."""
    large, small = a_job("large", gpus=8, left_h=24, waited_h=500), a_job("small", left_h=1)
    few = [a_node("node-0000", cpu=0, gpus=8)]
    many = [a_node(f"node-{at:04}", cpu=0, gpus=8) for at in range(1, 200)]
    busy = a_holding("busy", node="node-0000", gpus=8, devices=tuple(range(8)))
    snapshot = Snapshot(now_ms=A_MOMENT_MS, nodes=(*few,), running=(busy,), queue=(large, small))
    index = Index.of(snapshot, OURS)
    ((first, *_),) = [[entry[0] for entry in lane.by_rank[""]] for lane in index.lanes.values()][:1]
    index = advance(index, Change(nodes=tuple(many)))
    ranks = {entry[-1]: entry[0] for lane in index.lanes.values() for entry in lane.by_rank[""]}
    assert ranks["large"] < first
    assert {place.gang for place in decide(index, A_MOMENT_MS).places} == {"large", "small"}


# --- room that is kept ahead ----------------------------------------------------------------------


def a_running_job(id: str, *, gpus: int, first: int = 0, left_h: float):
    devices = tuple(range(first, first + gpus))
    holding = a_holding(id, cpu=0, gpus=gpus, devices=devices, ran_ms=0)
    left_ms = round(left_h * HOUR_MS)
    return replace(holding, gang=replace(holding.gang, remaining_ms=left_ms))


def test_room_is_kept_ahead_for_who_is_overdue_first_and_lent_until_then():
    policy = QUEUE_POLICIES["ours_uninterrupted"]
    days = policy.overdue_after_ms // DAY_MS
    wide = a_job("wide", gpus=8, left_h=500, waited_h=24 * (days - 1))  # overdue in a day
    node, running = a_node(cpu=0, gpus=8), a_running_job("busy", gpus=4, left_h=2)
    until_then, longer = a_job("until-then", gpus=4, left_h=24), a_job("longer", gpus=4, left_h=25)
    assert [
        [place.gang for place in schedule(a_snapshot(node, running, wide, other), policy).places]
        for other in (until_then, longer)
    ] == [["until-then"], []]


def test_who_is_overdue_starts_as_soon_as_it_fits():
    policy = QUEUE_POLICIES["ours_uninterrupted"]
    wide = replace(
        a_job("wide", gpus=8, left_h=500), queued_at_ms=A_MOMENT_MS - policy.overdue_after_ms
    )
    plan = schedule(a_snapshot(a_node(cpu=0, gpus=8), wide, a_job("short", left_h=1)), policy)
    assert [place.gang for place in plan.places] == ["wide"]


# --- experience -----------------------------------------------------------------------------------


def taught(*jobs: tuple[int, int, int]) -> Experience:
    experience = Experience()
    for gpus, estimate_ms, duration_ms in jobs:
        experience = experience.add(gpus, estimate_ms, duration_ms)
    return experience


def test_estimates_stand_until_enough_jobs_have_ended():
    assert taught(*[(1, 1_000, 9_000)] * 9).corrected_ms(1, 500) == 500


def test_a_bias_that_all_estimates_have_goes_away():
    experience = taught(*[(1, 1_000 * n, 3_000 * n) for n in range(1, 30)])
    assert experience.corrected_ms(1, 5_000) == pytest.approx(15_000, abs=1)


def test_exact_estimates_stand():
    experience = taught(*[(n, 1_000 * n, 1_000 * n) for n in range(1, 30)])
    assert [experience.corrected_ms(4, ms) for ms in (1, 10_000_001)] == [1, 10_000_001]


def test_where_estimates_are_guesses_the_truth_is_what_jobs_of_that_size_use_to_take():
    guesses = [(8, estimate, 1_000_000) for estimate in (1_000, 1_000_000_000) * 10]
    others = [(1, estimate, 1_000) for estimate in (1, 1_000_000) * 10]
    experience = taught(*guesses, *others)
    assert experience.corrected_ms(8, 10) == pytest.approx(1_000_000, rel=0.01)
    assert experience.corrected_ms(1, 10) == pytest.approx(1_000, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 64), st.none() | st.integers(1), st.integers(0))))
def test_a_correction_is_a_duration(jobs):
    experience = taught(*jobs)
    assert 0 <= experience.corrected_ms(2, 1_000) < 1 << 42
