"""What is promised about deadlines, and that promises are kept."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.scheduler import (
    QUEUE_POLICIES,
    Assignment,
    Deadline,
    Gang,
    NodeView,
    Reason,
    Running,
    Snapshot,
    WaitCode,
    Worker,
)
from leptonai.core.scheduler.deadlines import (
    Admitted,
    Refused,
    admit,
    can_be_met,
    due,
    due_from_ms,
    leaves_promises,
    next_due_ms,
    renew,
)
from leptonai.core.scheduler.promises import DAY_MS, Promises, Slot
from leptonai.testing.builders import a_node, needs
from leptonai.testing.simulator import Cluster, Job, simulate_queue


def a_job(
    id="train",
    *,
    gpus=1,
    lasts,
    by,
    least=0,
    speedup=(),
    hard=False,
    value=1.0,
    preemptible=True,
    nodes=(),
):
    """Of one-GPU workers; it lasts so long with all of them."""
    return Gang(
        id=id,
        name=id,
        workers=tuple(Worker(replica=f"{id}-{at}", needs=needs(gpus=1)) for at in range(gpus)),
        min_workers=least,
        preemptible=preemptible,
        allowed_nodes=frozenset(nodes),
        deadline=Deadline(at_ms=by, hard=hard, value=value),
        remaining_ms=lasts,
        speedup=speedup,
    )


def running(gang, *, since=0, workers=None, node="a"):
    held = gang.workers[: workers or len(gang.workers)]
    return Running(
        gang=gang,
        held=tuple((worker, Assignment(worker.replica, node)) for worker in held),
        started_at_ms=since,
    )


def a_cluster(*gangs, now=0, a=8, **nodes):
    """Nodes of so many GPUs each, with these gangs running or waiting."""
    sizes = {"a": a, **nodes}
    return Snapshot(
        now_ms=now,
        nodes=tuple(a_node(id, gpus=gpus) for id, gpus in sizes.items()),
        running=tuple(gang for gang in gangs if isinstance(gang, Running)),
        queue=tuple(gang for gang in gangs if isinstance(gang, Gang)),
    )


def promised(*gangs, **nodes):
    """What is promised to these, one after the other, none of which has been seen before."""
    promises = Promises()
    for at, gang in enumerate(gangs):
        answer = admit(a_cluster(*gangs[:at], **nodes), gang, promises)
        assert isinstance(answer, Admitted), answer
        promises = replace(answer.promises, arrivals=Promises().arrivals)
    return promises


# --- admission -----------------------------------------------------------------------------------


def test_room_is_set_aside_as_late_as_the_deadline_allows():
    assert promised(a_job("a", gpus=8, lasts=100, by=1_000)).slots == {"a": (Slot(900, 1_000, 8),)}


def test_a_preemptible_gang_is_promised_room_in_parts_around_what_others_have():
    first, second = a_job("a", gpus=8, lasts=100, by=500), a_job("b", gpus=4, lasts=550, by=700)
    assert promised(first, second).slots["b"] == (Slot(50, 400, 4), Slot(500, 700, 4))


def test_a_gang_that_nothing_may_interrupt_is_promised_one_piece():
    first = a_job("a", gpus=8, lasts=100, by=500)
    second = a_job("b", gpus=4, lasts=250, by=700, preemptible=False)
    assert promised(first, second).slots["b"] == (Slot(150, 400, 4),)


def test_a_refusal_says_by_when_it_could_be_done_and_that_deadline_is_then_promised():
    others = a_job("a", gpus=8, lasts=500, by=500)
    late = a_job("b", gpus=8, lasts=200, by=600)
    cluster, promises = a_cluster(others), promised(others)
    answer = admit(cluster, late, promises)
    assert (answer.earliest_ms, answer.because) == (
        700,
        Reason(
            WaitCode.DEADLINE,
            "until its deadline the room is promised to 1 others, or is left for smaller ones"
            " that are to come",
            {"deadline_ms": 600, "takes_ms": 200, "promised_to": ["a"], "earliest_ms": 700},
        ),
    )
    later = replace(late, deadline=Deadline(at_ms=700))
    assert isinstance(admit(cluster, later, promises), Admitted)


def test_a_deadline_that_cannot_be_met_even_at_once_is_refused():
    answer = admit(a_cluster(), a_job(lasts=1_000, by=999), Promises())
    assert isinstance(answer, Refused)
    assert answer.because.text == (
        "it takes longer than until its deadline, even if it starts at once"
    )
    assert answer.earliest_ms == 1_000


def test_a_deadline_without_an_estimate_is_refused():
    answer = admit(a_cluster(), replace(a_job(lasts=1, by=9), remaining_ms=None), Promises())
    assert isinstance(answer, Refused)
    assert (answer.earliest_ms, answer.because.code) == (None, WaitCode.DEADLINE)


def test_a_gang_larger_than_the_nodes_it_may_use_is_never_promised_anything():
    answer = admit(a_cluster(a=8, b=2), a_job(gpus=4, lasts=1, by=99, nodes=["b"]), Promises())
    assert isinstance(answer, Refused) and answer.earliest_ms is None


def test_room_of_a_gang_that_ends_nobody_knows_when_is_not_promised():
    server = replace(
        running(replace(a_job("s", gpus=4, lasts=1, by=1), deadline=None, remaining_ms=None)),
        lasting=True,
    )
    asked = a_job(gpus=5, lasts=1, by=10**9)
    assert isinstance(admit(a_cluster(server), asked, Promises()), Refused)
    assert isinstance(
        admit(a_cluster(server), replace(asked, workers=asked.workers[:4]), Promises()), Admitted
    )


def test_two_promises_never_rely_on_the_same_node():
    bound = a_job("bound", gpus=8, lasts=500, by=500, nodes=["b"])
    anywhere = a_job("anywhere", gpus=9, lasts=100, by=500)
    promises = promised(bound, b=8)
    assert isinstance(admit(a_cluster(bound, b=8), anywhere, promises), Refused)


def test_a_large_gang_leaves_room_for_the_smaller_ones_that_will_come():
    """Half of the GPUs went to small gangs all day; a large one may be promised the others."""
    promises, cluster = Promises(), a_cluster()
    for hour in range(24):
        small = a_job(f"small-{hour}", gpus=4, lasts=3_600_000, by=(hour + 2) * 3_600_000)
        snapshot = replace(cluster, now_ms=hour * 3_600_000)
        answer = admit(snapshot, small, promises)
        promises = replace(answer.promises, slots={})
    tomorrow = replace(cluster, now_ms=DAY_MS)
    half = a_job("half", gpus=4, lasts=DAY_MS, by=2 * DAY_MS)
    more = a_job("more", gpus=5, lasts=DAY_MS, by=2 * DAY_MS)
    valued = replace(more, deadline=replace(more.deadline, value=100.0))
    assert isinstance(admit(tomorrow, half, promises), Admitted)
    assert isinstance(admit(tomorrow, more, promises), Refused)
    assert isinstance(admit(tomorrow, valued, promises), Admitted)


def test_an_elastic_gang_is_promised_the_fewest_workers_that_suffice():
    gang = a_job(gpus=8, least=1, lasts=100_000, by=600_000)
    assert promised(gang).slots["train"] == (Slot(0, 399_960, 1), Slot(399_960, 600_000, 2))


def test_where_promises_stand_in_the_way_all_are_made_anew():
    """First the short one lies where the long one could only be: then it moves up."""
    short, long = a_job("s", gpus=8, lasts=100, by=1_000), a_job("l", gpus=8, lasts=600, by=700)
    other = a_job("o", gpus=8, lasts=250, by=960)
    assert promised(short, long, other).slots["l"][-1].to_ms <= 700


# --- keeping promises ----------------------------------------------------------------------------


def test_work_that_is_done_gives_its_room_back_from_the_front():
    gang = a_job(gpus=8, lasts=100, by=1_000)
    promises = promised(gang)
    after = renew(a_cluster(running(gang), now=40), promises)
    assert after.slots["train"][0].from_ms in range(935, 941)
    assert renew(a_cluster(now=100), after).slots == {}


def test_a_gang_is_due_from_the_last_instant_on_at_which_it_can_start():
    promises = promised(a_job(gpus=8, lasts=100, by=1_000))
    assert due_from_ms(promises, "train") == 900
    assert next_due_ms(promises, 0, {}) == 900
    assert next_due_ms(promises, 0, {"train": 8}) is None
    assert (due(promises, 899), due(promises, 900)) == ({}, {"train": Slot(900, 1_000, 8)})


def test_promises_that_were_lost_are_made_again_for_hard_deadlines():
    gang = a_job(gpus=8, lasts=100, by=1_000, hard=True)
    assert renew(a_cluster(gang), Promises()).slots == {"train": (Slot(900, 1_000, 8),)}


def test_room_that_becomes_free_goes_to_a_gang_that_was_refused():
    first, second = a_job("a", gpus=8, lasts=500, by=500), a_job("b", gpus=8, lasts=100, by=550)
    promises = promised(first)
    answer = admit(a_cluster(first), second, promises)
    assert isinstance(answer, Refused)
    assert renew(a_cluster(second, now=10), answer.promises).slots.keys() == {"b"}


def test_when_machines_go_room_is_found_for_as_many_as_possible():
    first = a_job("a", gpus=8, lasts=100, by=500, hard=True)
    second = a_job("b", gpus=8, lasts=100, by=500, hard=True)
    both = a_job("both", gpus=16, lasts=100, by=500, hard=True)
    promises = promised(first, second, both, b=8)
    after = renew(a_cluster(first, second, both), promises)
    assert after.slots.keys() == {"a", "b"}


def test_who_does_not_yield_starts_only_beside_what_is_promised():
    promises = promised(a_job("p", gpus=8, lasts=100, by=1_000))
    cluster = a_cluster(a_job("p", gpus=8, lasts=100, by=1_000))
    quick = a_job("q", gpus=1, lasts=900, by=10_000, preemptible=False)
    assert leaves_promises(cluster, quick, promises)
    assert not leaves_promises(cluster, replace(quick, remaining_ms=901), promises)
    assert not leaves_promises(cluster, replace(quick, remaining_ms=None), promises)


def test_a_deadline_can_be_met_as_long_as_the_fastest_run_ends_before_it():
    elastic = a_job(gpus=4, least=1, lasts=100, by=80, speedup=(1.0, 2.0, 2.5, 2.0))
    assert [can_be_met(elastic, now) for now in (0, 1)] == [True, False]
    assert can_be_met(elastic, 20, ran_ms=25)


jobs = st.lists(
    st.tuples(
        st.integers(0, 60),  # submitted
        st.integers(1, 40),  # duration
        st.integers(1, 8),  # GPUs
        st.integers(0, 60),  # slack
    ),
    min_size=1,
    max_size=14,
)


@given(jobs)
@settings(max_examples=150, deadline=None)
def test_whoever_is_admitted_meets_the_deadline_whatever_comes_after(rows):
    """In the whole walk: every decision is the platform's own."""
    told = [
        Job(
            id=str(at),
            submitted_ms=submitted * 1_000,
            duration_ms=lasts * 1_000,
            gpus=gpus,
            deadline_ms=(submitted + lasts + slack) * 1_000,
        )
        for at, (submitted, lasts, gpus, slack) in enumerate(rows)
    ]
    outcome = simulate_queue(told, Cluster(gpus=8), QUEUE_POLICIES["promise"])
    late_ms = (outcome.ended_s - outcome.deadline_s)[outcome.admitted]
    assert (late_ms <= 0).all(), (rows, outcome.ended_s)


@given(jobs, st.integers(0, 3_000))
@settings(max_examples=100, deadline=None)
def test_promised_room_is_never_more_than_there_is_and_always_suffices(rows, restart_ms):
    cluster, promises, admitted = a_cluster(), Promises(), {}
    for at, (_, lasts, gpus, slack) in enumerate(rows):
        gang = a_job(
            str(at),
            gpus=gpus,
            lasts=lasts * 1_000,
            by=(lasts + slack) * 1_000,
            least=at % 2,
            preemptible=at % 3 != 0,
        )
        answer = admit(cluster, gang, promises, restart_ms=restart_ms)
        promises = answer.promises
        if isinstance(answer, Admitted):
            admitted[gang.id] = gang
        elif answer.earliest_ms is not None:
            assert answer.earliest_ms > gang.deadline.at_ms
        cluster = replace(cluster, queue=(*cluster.queue, gang))
    assert promises.slots.keys() == admitted.keys()
    edges = {at for slots in promises.slots.values() for s in slots for at in (s.from_ms, s.to_ms)}
    for at in edges:
        now = [s.workers for slots in promises.slots.values() for s in slots if _in(s, at)]
        assert sum(now) <= 8
    for id, slots in promises.slots.items():
        gang = admitted[id]
        speeds = [slot.workers / len(gang.workers) for slot in slots]
        done = sum((s.to_ms - s.from_ms) * v for s, v in zip(slots, speeds, strict=True))
        assert done >= gang.remaining_ms * (1 - 1e-9)
        assert slots[-1].to_ms <= gang.deadline.at_ms
        assert all(gang.min_workers <= slot.workers <= len(gang.workers) for slot in slots)
        assert gang.preemptible or len(slots) == 1


def _in(slot, at):
    return slot.from_ms <= at < slot.to_ms


def test_a_node_that_takes_no_work_promises_nothing():
    cluster = replace(a_cluster(), nodes=(NodeView(id="a", capacity=a_node(gpus=8).capacity),))
    away = replace(cluster, nodes=(replace(cluster.nodes[0], schedulable=False),))
    gang = a_job(gpus=8, lasts=100, by=1_000)
    assert isinstance(admit(cluster, gang, Promises()), Admitted)
    assert isinstance(admit(away, gang, Promises()), Refused)


@pytest.mark.parametrize("policy", ["srtf", "edf"])
def test_other_orders_miss_what_promises_meet(policy):
    """A long gang is submitted with just enough time; short ones keep coming, and may wait."""
    long = Job(id="long", submitted_ms=0, duration_ms=100_000, gpus=8, deadline_ms=120_000)
    short = [
        Job(
            id=f"short-{at}",
            submitted_ms=at * 1_000,
            duration_ms=15_000,
            gpus=8,
            deadline_ms=at * 1_000 + (16_000 if policy == "edf" else 900_000),
        )
        for at in range(1, 60, 20)
    ]
    met = {
        name: simulate_queue([long, *short], Cluster(gpus=8), QUEUE_POLICIES[name]).ended_s[0]
        <= 120
        for name in (policy, "promise")
    }
    assert met == {policy: False, "promise": True}


def test_the_example_of_the_handbook_prints_what_the_page_says(capsys):
    page = Path(__file__).parents[2] / "docs" / "howto" / "deadlines.md"
    example, printed = re.search(
        r"```python\n(.*?)```\n\nprints\n\n```text\n(.*?)```", page.read_text(), re.DOTALL
    ).groups()
    exec(example, {})
    assert capsys.readouterr().out == printed
