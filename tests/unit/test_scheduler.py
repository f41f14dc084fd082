"""What the scheduler promises, by example."""

import pytest

from leptonai.core.scheduler import (
    ANY_PORT,
    OVERDUE_MS,
    Gang,
    Holder,
    Plan,
    Reason,
    Snapshot,
    Unmet,
    WaitCode,
    feasible,
    schedule,
)
from leptonai.testing.builders import a_gang, a_holding, a_node, a_snapshot, needs

OVERDUE = OVERDUE_MS + 1


def nodes_of(plan: Plan) -> dict[str, list[str]]:
    """By gang: the node of each worker."""
    return {place.gang: [to.node for to in place.assignments] for place in plan.places}


def codes_of(plan: Plan) -> dict[str, str]:
    return {wait.gang: wait.because.code.value for wait in plan.waits}


def why(snapshot: Snapshot, gang: str = "train") -> Reason:
    return {wait.gang: wait.because for wait in schedule(snapshot).waits}[gang]


# --- order ---------------------------------------------------------------------------------------


def test_the_larger_priority_goes_first():
    plan = schedule(
        a_snapshot(
            a_node(cpu=1), a_gang("low", priority=1000, waited_ms=9), a_gang("high", priority=9000)
        )
    )
    assert (nodes_of(plan), codes_of(plan)) == ({"high": ["node-1"]}, {"low": "capacity"})


def test_inside_a_priority_the_first_in_the_queue_goes_first_and_ties_go_by_id():
    plan = schedule(
        a_snapshot(a_node(cpu=2), a_gang("c"), a_gang("b"), a_gang("a"), a_gang("d", waited_ms=5))
    )
    assert list(nodes_of(plan)) == ["d", "a"]
    assert list(codes_of(plan)) == ["b", "c"]


def test_an_empty_queue_is_an_empty_plan():
    assert schedule(a_snapshot(a_node())) == Plan()


# --- gangs ---------------------------------------------------------------------------------------


def test_a_gang_waits_rather_than_start_with_some_of_its_workers():
    snapshot = a_snapshot(a_node(cpu=4), a_gang(workers=2, cpu=3))
    assert nodes_of(schedule(snapshot)) == {}


def test_a_gang_goes_to_one_node_where_that_holds_it():
    plan = schedule(
        a_snapshot(a_node("a", cpu=2), a_node("b", cpu=4), a_node("c", cpu=8), a_gang(workers=4))
    )
    assert nodes_of(plan) == {"train": ["b"] * 4}


def test_a_gang_that_no_node_holds_goes_to_as_few_as_possible():
    plan = schedule(
        a_snapshot(
            a_node("a", cpu=2), a_node("b", cpu=4), a_node("c", cpu=2.5), a_node("d", cpu=5),
            a_gang(workers=7),
        )
    )  # fmt: skip
    assert nodes_of(plan) == {"train": ["d"] * 5 + ["a"] * 2}


def test_unequal_workers_are_found_room_even_where_greed_alone_would_fail():
    # The roomiest node first would put the 4 on b's 6 and leave 3 + 3 nowhere together.
    sizes = [needs(cpu=3), needs(cpu=4), needs(cpu=3)]
    plan = schedule(a_snapshot(a_node("a", cpu=4), a_node("b", cpu=6), a_gang(sizes=sizes)))
    assert nodes_of(plan) == {"train": ["b", "a", "b"]}


def test_unequal_workers_share_a_node_where_one_holds_them_all():
    sizes = [needs(cpu=1), needs(cpu=3)]
    plan = schedule(a_snapshot(a_node("a", cpu=6), a_node("b", cpu=4), a_gang(sizes=sizes)))
    assert nodes_of(plan) == {"train": ["b", "b"]}


# --- GPUs ----------------------------------------------------------------------------------------


def test_a_share_of_a_gpu_goes_to_the_device_that_is_already_shared():
    plan = schedule(
        a_snapshot(
            a_node(gpus=3),
            a_holding(gpus=0.25, devices=(1,)),
            a_gang(gpus=0.5),
            a_gang("x", gpus=2),
        )
    )
    gpus = {place.gang: place.assignments[0].gpus for place in plan.places}
    assert gpus == {"train": (1,), "x": (0, 2)}


def test_a_gpu_of_the_wrong_type_does_not_do():
    snapshot = a_snapshot(a_node(gpus=8, gpu_type="A10"), a_gang(cpu=0, gpus=8, gpu_type="H100"))
    assert why(snapshot) == Reason(
        WaitCode.NO_NODE,
        "needs 8 H100 GPUs; no node has a GPU of that type: there are A10",
        {"resource": "gpu_type", "needed": "H100", "there_is": ["A10"]},
    )


def test_work_without_gpus_keeps_away_from_nodes_that_have_some():
    plan = schedule(a_snapshot(a_node("a", gpus=8, cpu=1), a_node("b", cpu=64), a_gang()))
    assert nodes_of(plan) == {"train": ["b"]}


# --- affinity ------------------------------------------------------------------------------------


def test_affinity_to_nodes_and_groups_holds():
    nodes = (a_node("a", group="x"), a_node("b", group="y"), a_node("c", group="y"))
    plan = schedule(a_snapshot(*nodes, a_gang("g", groups=["y"]), a_gang("n", nodes=["c"])))
    assert nodes_of(plan) == {"g": ["b"], "n": ["c"]}


def test_nothing_is_placed_on_a_node_that_takes_no_work():
    nodes = (a_node("a", schedulable=False), a_node("b"))
    assert nodes_of(schedule(a_snapshot(*nodes, a_gang()))) == {"train": ["b"]}


# --- ports ---------------------------------------------------------------------------------------


def test_a_worker_gets_the_port_it_wishes_for_or_else_the_lowest_free_one():
    plan = schedule(
        a_snapshot(
            a_node(ports=range(20_000, 20_010)),
            a_holding(ports=(20_000, 8080)),
            a_gang("a", ports=(8080, 9090)),
            a_gang("b", ports=(9090, 20_001), workers=2),
        )
    )
    ports = {to.replica: to.ports for place in plan.places for to in place.assignments}
    a = next(place.rendezvous_port for place in plan.places if place.gang == "a")
    low = [port for port in range(20_002, 20_010) if port != a]
    assert ports == {"a-0": (20_001, 9090), "b-0": (low[0], low[1]), "b-1": (low[2], low[3])}


def test_every_attempt_of_a_gang_meets_at_another_port():
    def port(now_ms: int) -> int:
        return schedule(a_snapshot(a_node(), a_gang(), now_ms=now_ms)).places[0].rendezvous_port

    assert len({port(now_ms) for now_ms in range(1000, 1020)}) >= 19


def test_a_worker_that_takes_any_port_gets_another_one_at_every_try():
    def port(now_ms: int) -> int:
        plan = schedule(a_snapshot(a_node(), a_gang(ports=(ANY_PORT,)), now_ms=now_ms))
        return plan.places[0].assignments[0].ports[0]

    ports = {port(now_ms) for now_ms in range(1000, 1020)}
    assert len(ports) >= 19
    assert all(20_000 <= port < 30_000 for port in ports)


def test_a_node_without_free_ports_is_full():
    snapshot = a_snapshot(
        a_node(ports=range(20_000, 20_002)), a_gang(ports=(1,)), a_gang("x", ports=(1,))
    )
    assert codes_of(schedule(snapshot)) == {"x": "capacity"}


# --- reasons -------------------------------------------------------------------------------------


def test_without_nodes_the_reason_says_so():
    assert why(a_snapshot(a_gang())) == Reason(
        WaitCode.NO_NODES, "there are no nodes", {"nodes": 0}
    )


def test_where_no_node_takes_work_the_reason_says_so():
    assert why(a_snapshot(a_node(schedulable=False), a_gang())) == Reason(
        WaitCode.NO_NODES, "the only node, node-1, takes no work now", {"nodes": 1}
    )


def test_what_no_node_could_ever_hold_is_told_how_large_the_largest_is():
    assert why(a_snapshot(a_node(gpus=4), a_gang(gpus=8))) == Reason(
        WaitCode.NO_NODE,
        "needs 8 GPUs on one node; the largest node has 4 GPUs",
        {"resource": "gpu_millis", "needed": 8000, "largest": 4000},
    )


def test_a_gang_too_large_for_all_nodes_together_is_told_so():
    assert why(a_snapshot(a_node("a"), a_node("b"), a_gang(workers=5, cpu=2))) == Reason(
        WaitCode.NO_NODE,
        "needs room for 5 workers with 2 CPUs each;"
        " the nodes it may use have room for 4 when empty",
        {"workers": 5, "room": 4},
    )


def test_what_only_an_absent_node_could_hold_is_told_which():
    snapshot = a_snapshot(a_node("big", cpu=8, schedulable=False), a_node("small"), a_gang(cpu=8))
    assert why(snapshot) == Reason(
        WaitCode.NO_NODE,
        "needs 8 CPUs on one node; the largest node has 4 CPUs;"
        " it would fit if big took work again",
        {"resource": "cpu_millis", "needed": 8000, "largest": 4000, "away": ["big"]},
    )


def test_affinity_that_no_node_meets_is_named():
    assert why(a_snapshot(a_node(), a_gang(groups=["gpu"]))) == Reason(
        WaitCode.NO_NODE, "there is no node it may use: only node groups gpu", {}
    )


def test_a_waiting_gang_is_told_what_it_is_short_of_and_who_holds_it():
    snapshot = a_snapshot(
        a_node(cpu=4, memory_gib=16),
        a_holding("web-0", cpu=1, memory_gib=13),
        a_holding("web-1", cpu=1),
        a_gang(workers=2, cpu=1, memory_gib=2),
    )
    assert why(snapshot) == Reason(
        WaitCode.CAPACITY,
        "needs room for 2 workers with 1 CPU, 2 GiB each; there is room for 1",
        {
            "workers": 2,
            "room": 1,
            "resource": "memory_bytes",
            "needed": 2 << 30,
            "holders": 1,
        },
        held_by=(Holder("web-0", 13 << 30),),
    )


def test_a_single_worker_is_told_the_most_that_is_free_on_one_node():
    snapshot = a_snapshot(
        a_node("a", cpu=4), a_node("b", cpu=2), a_holding(node="a", cpu=3), a_gang(cpu=4)
    )
    assert why(snapshot).text == (
        "needs 4 CPUs on one node; the most that is free on one is 2 CPUs"
    )


def test_unmet_demand_is_told_by_size():
    plan = schedule(a_snapshot(a_gang("a", workers=2), a_gang("b"), a_gang("c", cpu=0, gpus=0.5)))
    assert plan.unmet == (Unmet(needs(cpu=1), 3), Unmet(needs(gpus=0.5), 1))


@pytest.mark.parametrize(
    ("gang", "fits"),
    [
        (a_gang(cpu=4), True),
        (a_gang(cpu=4.001), False),
        (a_gang(workers=2, cpu=4), True),
        (a_gang(workers=3, cpu=4), False),
        (a_gang(sizes=[needs(cpu=4), needs(cpu=2), needs(cpu=2)]), True),
        (a_gang(sizes=[needs(cpu=4), needs(cpu=3), needs(cpu=2)]), False),
        (a_gang(memory_gib=17), False),
        (a_gang(nodes=["c"]), False),
    ],
)
def test_feasible_says_whether_the_empty_nodes_could_hold_it(gang: Gang, fits: bool):
    nodes = [a_node("a", schedulable=False), a_node("b")]
    assert (feasible(gang, nodes) is None) == fits


# --- nobody starves ------------------------------------------------------------------------------


def test_smaller_gangs_pass_one_that_waits_for_more_room_until_it_is_overdue():
    def plan(waited_ms: int) -> Plan:
        return schedule(
            a_snapshot(
                a_node(cpu=4), a_holding(cpu=2),
                a_gang("big", cpu=4, waited_ms=waited_ms), a_gang("small"),
            )
        )  # fmt: skip

    assert nodes_of(plan(OVERDUE - 2)) == {"small": ["node-1"]}
    assert codes_of(plan(OVERDUE)) == {"big": "capacity", "small": "behind"}
    assert plan(OVERDUE).waits[1].because == Reason(
        WaitCode.BEHIND,
        "waits behind another that goes first and needs the same room",
        behind="big",
    )


def test_an_overdue_gang_keeps_only_room_that_it_could_use():
    plan = schedule(
        a_snapshot(
            a_node("gpu", cpu=8, gpus=4),
            a_node("cpu", cpu=1),
            a_holding(node="gpu", gpus=1, devices=(0,)),
            a_gang("big", cpu=2, gpus=4, waited_ms=OVERDUE),
            a_gang("elsewhere", cpu=1),
            a_gang("spare", cpu=6),
            a_gang("too-much", cpu=2),
            a_gang("gpu-too", cpu=0, gpus=1),
        )
    )
    assert nodes_of(plan) == {"elsewhere": ["cpu"], "spare": ["gpu"]}
    assert codes_of(plan) == {"big": "capacity", "gpu-too": "behind", "too-much": "behind"}


def test_nobody_waits_behind_a_gang_for_which_only_a_server_has_no_end():
    plan = schedule(
        a_snapshot(
            a_node(cpu=2),
            a_holding(cpu=1, lasting=True),
            a_gang("big", cpu=2, waited_ms=OVERDUE),
            a_gang("small"),
        )
    )
    assert (nodes_of(plan), codes_of(plan)) == ({"small": ["node-1"]}, {"big": "capacity"})


def test_an_overdue_gang_starts_when_its_room_is_free():
    plan = schedule(a_snapshot(a_node(), a_gang("big", cpu=4, waited_ms=OVERDUE), a_gang("small")))
    assert (nodes_of(plan), codes_of(plan)) == ({"big": ["node-1"]}, {"small": "capacity"})


def test_a_node_that_shrank_under_its_servers_keeps_no_room_for_anybody():
    plan = schedule(
        a_snapshot(
            a_node("a", memory_gib=1),
            a_node("b"),
            a_holding("s", node="a", memory_gib=2, lasting=True),
            a_holding("j", node="b", cpu=1),
            a_gang("big", cpu=4, waited_ms=OVERDUE),
            a_gang("small"),
        )
    )
    assert codes_of(plan) == {"big": "capacity", "small": "behind"}
