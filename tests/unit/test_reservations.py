"""Which nodes a reservation keeps, when, and for whom."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.records import Node, NodeState, Reservation
from leptonai.core.reservations import NOWHERE, Affinity, free_nodes, phase_of, reserved_at
from leptonai.core.resources import Capacity
from leptonai.spec.containers import ReservationConfig
from leptonai.spec.reservations import ReservationPhase, ReservationSpec, TimeRule


def a_node(id: str, group: str = "g", **fields: Any) -> Node:
    return Node(
        workspace="w",
        id=id,
        name=id,
        created_at_ms=0,
        group=group,
        capacity=Capacity(cpu_millis=1, memory_bytes=1, disk_bytes=1),
        **fields,
    )


def a_reservation(id: str = "r", *nodes: str, start: int = 0, end: int = 0, **fields: Any):
    rule = TimeRule(start_timestamp=start or None, end_timestamp=end or None)
    spec = ReservationSpec(users=fields.pop("users", ["ada"]), time_rule=rule)
    fields = {"decided": "approved" if nodes else "", "owner": "ada"} | fields
    return Reservation(
        workspace="w", id=id, name=id, created_at_ms=0, group="g", spec=spec, nodes=nodes, **fields
    )


@pytest.mark.parametrize(
    ("reservation", "now_s", "strangers", "phase"),
    [
        (a_reservation(), 5, (), ReservationPhase.PENDING_APPROVAL),
        (a_reservation(decided="rejected"), 5, (), ReservationPhase.REJECTED),
        (a_reservation("r", "n", start=9), 5, (), ReservationPhase.WAITING_EFFECTIVE),
        (a_reservation("r", "n", end=9), 5, ("n",), ReservationPhase.RESERVING),
        (a_reservation("r", "n", end=9), 5, ("m",), ReservationPhase.RESERVED),
        (a_reservation("r", "n", end=9), 9, (), ReservationPhase.EXPIRED),
        (a_reservation(end=9), 9, (), ReservationPhase.EXPIRED),
    ],
)
def test_its_phase(reservation, now_s, strangers, phase):
    assert phase_of(reservation, 1000 * now_s, strangers) is phase


def test_the_least_used_free_nodes_of_its_group_are_chosen_first():
    nodes = [
        a_node("busy"),
        a_node("idle"),
        a_node("taken"),
        a_node("later"),
        a_node("other", group="h"),
        a_node("lost", state=NodeState.UNREACHABLE),
        a_node("closed", unschedulable=True),
    ]
    mine = a_reservation("mine", start=10, end=20)
    others = [
        a_reservation("a", "taken", start=19),
        a_reservation("b", "later", start=20, end=30),
        a_reservation("c", "idle", decided="rejected"),
        a_reservation("mine", "idle"),
    ]
    assert free_nodes(mine, nodes, others, {"busy": 2}) == ["idle", "later", "busy"]


MINE = ReservationConfig(reservation_id="r")
BURST = ReservationConfig(reservation_id="r", allow_burst_to_other_reservations=True)


@pytest.mark.parametrize(
    ("config", "user", "allowed", "affinity"),
    [
        (None, "ada", (), Affinity(avoided=frozenset({"n1", "n2", "n3"}))),
        (MINE, "ada", (), Affinity(frozenset({"n1", "n2"}))),
        (MINE, "ada", ("n2", "n9"), Affinity(frozenset({"n2"}))),
        (MINE, "ada", ("n9",), Affinity(NOWHERE)),
        (MINE, "eve", (), Affinity(NOWHERE)),
        (BURST, "ada", (), Affinity(frozenset({"n1", "n2", "n3"}))),
        (ReservationConfig(reservation_id="gone"), "ada", (), Affinity(NOWHERE)),
    ],
)
def test_where_a_workload_may_go(config, user, allowed, affinity):
    kept = reserved_at([a_reservation("r", "n1", "n2"), a_reservation("s", "n3")], 5)
    assert kept.affinity(config, "w", user, frozenset(allowed)) == affinity


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5), st.integers(0, 20_000)
)
def test_what_is_reserved_stays_the_same_until_the_time_that_it_names(spans, now_ms):
    every = [a_reservation(f"r{n}", "n", start=s, end=e) for n, (s, e) in enumerate(spans)]
    kept = reserved_at(every, now_ms)
    last = 21_000 if kept.until_ms is None else kept.until_ms - 1
    assert now_ms <= last
    for at_ms in (now_ms, (now_ms + last) // 2, last):
        assert reserved_at(every, at_ms) == kept
    if kept.until_ms is not None:
        assert kept.until_ms > now_ms
