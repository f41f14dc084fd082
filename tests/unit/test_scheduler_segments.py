"""Segments of a gang: so many of its workers, in their order, within one domain."""

from collections import defaultdict
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.scheduler import (
    DEFAULT,
    OVERDUE_MS,
    Gang,
    Index,
    NodeView,
    Passing,
    Plan,
    Reason,
    Snapshot,
    WaitCode,
    feasible,
    schedule,
)
from leptonai.core.scheduler.alternatives import Alternative, AlternativeKind, alternatives
from leptonai.testing.builders import A_MOMENT_MS, a_gang, a_holding, a_node, a_snapshot

OVERDUE = OVERDUE_MS + 1
MINUTE_MS = 60_000


def nodes_of(plan: Plan, gang: str = "train") -> list[str]:
    """The node of each worker; none where the gang waits."""
    return [to.node for place in plan.places if place.gang == gang for to in place.assignments]


def why(snapshot: Snapshot, gang: str = "train") -> Reason:
    return {wait.gang: wait.because for wait in schedule(snapshot).waits}[gang]


def test_all_workers_of_a_segment_are_behind_one_switch():
    plan = schedule(
        a_snapshot(
            a_node("a", switch="x", cpu=3), a_node("b", switch="y", cpu=2),
            a_node("c", switch="x", cpu=1), a_node("d", switch="y", cpu=3),
            a_gang(workers=8, segment=4),
        )
    )  # fmt: skip
    assert nodes_of(plan) == ["a", "a", "a", "c", "d", "d", "d", "b"]


def test_segments_go_to_as_few_switches_as_possible_and_to_the_tightest_of_those():
    racks = [
        a_node(f"{rack}{at}", switch=rack, cpu=2)
        for rack, size in (("x", 3), ("y", 2), ("z", 1))
        for at in range(size)
    ]
    nodes = nodes_of(schedule(a_snapshot(*racks, a_gang(workers=4, segment=2))))
    assert sorted(set(nodes)) == ["y0", "y1"]


def test_where_no_switch_is_known_a_segment_is_on_one_node():
    nodes = [a_node("a", cpu=3), a_node("b", cpu=3), a_node("c", cpu=2)]
    assert nodes_of(schedule(a_snapshot(*nodes, a_gang(workers=6, segment=2)))) == [
        "a", "a", "b", "b", "c", "c",
    ]  # fmt: skip


def test_a_gang_waits_though_there_is_room_where_no_segment_of_it_fits():
    snapshot = a_snapshot(
        a_node("a", switch="x", cpu=4), a_node("b", switch="y", cpu=4),
        a_holding("server-0", node="a", cpu=1), a_holding("server-1", node="b", cpu=1),
        a_gang(workers=4, segment=4),
    )  # fmt: skip
    because = why(snapshot)
    assert because.text == (
        "needs room for 1 segment of 4 workers with 1 CPU each, a segment behind one switch;"
        " there is room for 0"
    )
    assert (because.code, because.data["resource"]) == (WaitCode.CAPACITY, "cpu_millis")
    assert [holder.gang for holder in because.held_by] == ["server-0", "server-1"]


def test_a_segment_that_no_switch_could_ever_hold_is_told_at_once():
    nodes = [a_node("a", switch="x", cpu=2), a_node("b", switch="x", cpu=2), a_node("c", cpu=3)]
    assert feasible(a_gang(workers=4, segment=4), nodes) is None
    assert feasible(a_gang(workers=5, segment=5), nodes) == Reason(
        WaitCode.NO_NODE,
        "needs room for 1 segment of 5 workers with 1 CPU each, a segment behind one switch;"
        " the nodes it may use have room for 0 when empty",
        {"segments": 1, "workers": 5, "room": 0},
    )
    assert feasible(a_gang(workers=5), nodes) is None


def test_only_nodes_that_it_may_use_count_for_a_segment():
    nodes = [a_node("a", switch="x", cpu=2), a_node("b", switch="x", cpu=2)]
    because = feasible(a_gang(workers=4, segment=4, nodes=["a"]), nodes)
    assert because is not None and because.data["room"] == 0
    assert nodes_of(schedule(a_snapshot(*nodes, a_gang(workers=4, segment=4, nodes=["a"])))) == []


def test_others_yield_where_that_makes_room_for_a_whole_segment():
    snapshot = a_snapshot(
        a_node("a", switch="x", cpu=4), a_node("b", switch="y", cpu=4),
        a_holding("low-a", node="a", cpu=2, priority=1000, preemptible=True, ran_ms=90 * MINUTE_MS),
        a_holding("server", node="b", cpu=2),
        a_gang(workers=4, segment=4, priority=9000),
    )  # fmt: skip
    plan = schedule(snapshot)
    assert ([each.gang for each in plan.preempts], nodes_of(plan)) == (["low-a"], ["a"] * 4)


def test_room_is_kept_for_an_overdue_gang_behind_one_switch():
    snapshot = a_snapshot(
        a_node("a", switch="x", cpu=2), a_node("b", switch="y", cpu=2),
        a_node("c", switch="y", cpu=2),
        a_holding("old", node="b", cpu=1, ran_ms=9 * MINUTE_MS),
        a_holding("young", node="a", cpu=1, ran_ms=MINUTE_MS),
        a_gang(workers=4, segment=4, waited_ms=OVERDUE),
        a_gang("next"),
    )  # fmt: skip
    plan = schedule(snapshot)
    assert (nodes_of(plan), nodes_of(plan, "next")) == ([], ["a"])


def test_what_passes_the_head_of_the_queue_leaves_its_segment_alone():
    policy = replace(DEFAULT, passing=Passing.RESERVED)
    ending = a_holding("ends", node="b", cpu=2, ran_ms=MINUTE_MS)
    ending = replace(ending, gang=replace(ending.gang, remaining_ms=2 * MINUTE_MS))
    snapshot = a_snapshot(
        a_node("a", switch="x", cpu=1), a_node("b", switch="y", cpu=2),
        a_node("c", switch="y", cpu=2),
        ending,
        a_gang(workers=4, segment=4, waited_ms=5),
        replace(a_gang("long", waited_ms=2), remaining_ms=60 * MINUTE_MS),
        replace(a_gang("longer", waited_ms=1), remaining_ms=60 * MINUTE_MS),
    )  # fmt: skip
    plan = schedule(snapshot, policy)
    assert nodes_of(plan) == []
    assert nodes_of(plan, "long") + nodes_of(plan, "longer") == ["a"]


def test_it_is_told_what_would_start_it_now():
    nodes = (a_node("a", switch="x", cpu=3), a_node("b", switch="y", cpu=3))
    found = what_would_start(a_gang(workers=4, segment=4), *nodes)
    assert found[AlternativeKind.SEGMENTS].gang.segment == 0
    found = what_would_start(a_gang(workers=8, segment=2), *nodes)
    assert len(found[AlternativeKind.WORKERS].gang.workers) == 4  # whole segments


def what_would_start(gang: Gang, *nodes: NodeView) -> dict[AlternativeKind, Alternative]:
    index = Index.of(a_snapshot(*nodes, gang))
    return {each.kind: each for each in alternatives(index, gang, A_MOMENT_MS)}


@given(
    st.lists(st.tuples(st.sampled_from(["x", "y", ""]), st.integers(1, 6)), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_segments_are_placed_whole_exactly_where_they_fit(nodes, segment, segments):
    views = [a_node(f"n{at}", switch=switch, cpu=cpu) for at, (switch, cpu) in enumerate(nodes)]
    gang = a_gang(workers=segment * segments, segment=segment)
    domain = {view.id: view.domain for view in views}
    room: dict[tuple[str, str], int] = defaultdict(int)
    for view in views:
        room[view.domain] += view.capacity.cpu_millis // 1000
    placed = nodes_of(schedule(a_snapshot(*views, gang)))
    assert bool(placed) == (sum(cpu // segment for cpu in room.values()) >= segments)
    assert (feasible(gang, views) is None) == bool(placed)
    for first in range(0, len(placed), segment):
        assert len({domain[node] for node in placed[first : first + segment]}) == 1
    assert all(placed.count(view.id) <= view.capacity.cpu_millis // 1000 for view in views)
