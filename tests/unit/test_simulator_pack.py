"""Pods that arrive and stay, on made-up clusters: what is allocated when, and what is read."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.resources import MIB
from leptonai.core.scheduler import Choice
from leptonai.errors import InvalidRequest
from leptonai.testing.builders import a_node, needs
from leptonai.testing.simulator import Packed, Pod, read_nodes, read_pods, simulate_pack
from leptonai.testing.simulator.pack import arrivals, power_of

NODES = """\
sn,cpu_milli,memory_mib,gpu,model
a,64000,262144,2,P100
b,96000,393216,8,G2
"""
PODS = """\
name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec
whole,12000,16384,1,1000,
share,6000,12288,1,460,V100M16|P100
eight,64000,65536,8,1000,
none,8000,30517,0,0,
"""


def a_pod(name="pod", **size):
    return Pod(name, needs(**size))


def nodes_of(table):
    return read_nodes(table.splitlines(keepends=True), source="nodes.csv")


def pods_of(table):
    return read_pods(table.splitlines(keepends=True), source="pods.csv")


def test_what_is_read_of_nodes_and_pods():
    a, b = nodes_of(NODES)
    assert (a.id, a.capacity.memory_bytes, a.capacity.gpu_type) == ("a", 262144 * MIB, "P100")
    assert (b.power.gpu_busy, b.power.cpu_millis_per_socket) == (150.0, 32_000)
    gib = 1024
    assert [pod.needs for pod in pods_of(PODS)] == [
        needs(cpu=12, memory_gib=16384 / gib, gpus=1),
        needs(cpu=6, memory_gib=12288 / gib, gpus=0.46, gpu_type="V100M16|P100"),
        needs(cpu=64, memory_gib=65536 / gib, gpus=8),
        needs(cpu=8, memory_gib=30517 / gib),
    ]


def test_pods_come_once_each_and_then_again_up_to_the_share_that_arrives():
    pods = [a_pod(f"p{at}", gpus=1) for at in range(6)]
    order = arrivals(pods, gpu_millis=10_000, arrival=1.0, seed=7)
    assert Counter(order[:6]) == Counter(pods)
    assert len(order) == 10
    assert order == arrivals(pods[::-1], gpu_millis=10_000, arrival=1.0, seed=7)
    assert len(arrivals(pods, gpu_millis=10_000, arrival=0.35, seed=7)) == 3


def test_what_fits_is_allocated_and_the_rest_is_skipped_for_good():
    packed = simulate_pack([a_node("a", cpu=64, gpus=4)], [a_pod(gpus=1)], arrival=1.5, seed=1)
    assert replace(packed, decisions_per_s=0.0) == Packed(
        choice=Choice.OURS,
        seed=1,
        allocated={f"{step / 10:.1f}": min(step / 10 // 0.25 * 0.25, 1.0) for step in range(1, 16)},
        watts=None,
        arrived=6,
        skipped=2,
        never_fit=0,
        gpus_left=0.0,
        decisions_per_s=0.0,
    )


def test_a_pod_that_fits_no_node_is_skipped_and_counted():
    pods = [a_pod("small", gpus=1), a_pod("large", gpus=4)]
    packed = simulate_pack([a_node(f"n{at}", gpus=2) for at in range(4)], pods, arrival=1.0)
    assert packed.never_fit >= 1
    assert packed.skipped >= packed.never_fit


def test_power_is_told_where_it_is_known_of_every_node():
    nodes = nodes_of(NODES)
    packed = simulate_pack(nodes, [a_pod(cpu=1, gpus=1)], Choice.ENERGY, arrival=0.1)
    idle = 2 * 15 + 2 * 25 + 3 * 15 + 8 * 30
    assert packed.watts == {"0.1": idle + 105.0 + 120.0}  # the G2, which takes less than the P100
    assert power_of(replace_type(nodes[0], "X1")) is None


def replace_type(node, gpu_type):
    import msgspec

    return msgspec.structs.replace(node.capacity, gpu_type=gpu_type)


@pytest.mark.parametrize("choice", Choice)
def test_equal_arguments_give_equal_outcomes(choice):
    nodes = [a_node(f"n{at}", cpu=16, gpus=2) for at in range(8)]
    pods = [a_pod("half", cpu=2, gpus=0.5), a_pod("whole", cpu=6, gpus=1), a_pod("cpu", cpu=4)]
    first, again = (
        replace(simulate_pack(nodes, pods, choice, arrival=1.2, seed=3), decisions_per_s=0.0)
        for _ in range(2)
    )
    assert first == again
    assert 0.5 < first.allocated["1.2"] <= 1.0


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(Choice),
    st.lists(st.tuples(st.integers(1, 32), st.integers(1, 4)), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 16), st.sampled_from([0.2, 0.5, 0.7, 1, 2, 4])),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 99),
)
def test_nothing_is_given_beyond_what_there_is(choice, capacities, sizes, seed):
    nodes = [a_node(f"n{at}", cpu=cpu, gpus=gpus) for at, (cpu, gpus) in enumerate(capacities)]
    pods = [a_pod(f"p{at}", cpu=cpu, gpus=gpus) for at, (cpu, gpus) in enumerate(sizes)]
    packed = simulate_pack(nodes, pods, choice, arrival=1.3, seed=seed)
    shares = list(packed.allocated.values())
    assert shares == sorted(shares)
    assert all(
        share <= min(1.0, float(arrived) + 1e-9) for arrived, share in packed.allocated.items()
    )


@pytest.mark.parametrize(
    ("table", "wrong", "expected"),
    [
        ("", "nodes.csv:1: the file is empty", "expected a header with sn or name, cpu_milli,"),
        ("sn,cpu_milli,gpu\n", "nodes.csv:1: there is no column memory_mib", "expected a header"),
        (NODES + "c,-1,1,1,T4\n", "nodes.csv:4: cpu_milli is -1", "expected a number, 0 or above"),
        (NODES + "c,nan,1,1,T4\n", "nodes.csv:4: cpu_milli is nan", "expected a number"),
        (NODES + "c,1,1,x,T4\n", "nodes.csv:4: gpu is 'x'", "expected a number, 0 or above"),
        (NODES + "c,1,1,99,T4\n", "nodes.csv:4: gpu is '99'", "expected at most 64"),
        (
            NODES + "a,1,1,1,T4\n",
            "nodes.csv:4: sn 'a' is there twice",
            "another one than in line 2",
        ),
        ("sn,cpu_milli,memory_mib,gpu\na,1,1,0\n", "nodes.csv: no node has a GPU", "expected gpu"),
    ],
)
def test_a_wrong_table_of_nodes_is_told_by_line_and_what_was_expected(table, wrong, expected):
    with pytest.raises(InvalidRequest) as told:
        nodes_of(table)
    assert wrong in str(told.value)
    assert expected in told.value.hint


@pytest.mark.parametrize(
    ("table", "wrong", "expected"),
    [
        (PODS + "p,1,1,1,0,\n", "pods.csv:6: gpu_milli is 0", "expected a number above 0"),
        (PODS + "p,1,1,1,1001,\n", "pods.csv:6: gpu_milli is '1001'", "at most 1000"),
        (PODS + "p,1,1,0.5,1000,\n", "pods.csv:6: num_gpu is 0.5", "expected a whole number"),
        (PODS + "none,1,1,0,0,\n", "pods.csv:6: name 'none' is there twice", "than in line 5"),
        (PODS + ",1,1,0,0,\n", "pods.csv:6: name is empty", "expected a name"),
        (PODS[: PODS.index("\n") + 1], "pods.csv:1: there is no row", "expected at least one"),
    ],
)
def test_a_wrong_table_of_pods_is_told_by_line_and_what_was_expected(table, wrong, expected):
    with pytest.raises(InvalidRequest) as told:
        pods_of(table)
    assert wrong in str(told.value)
    assert expected in told.value.hint


def test_pods_without_gpus_never_fill_a_share_of_gpus():
    with pytest.raises(InvalidRequest, match="no pod asks for a GPU"):
        pods_of("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,0,0\n")
