"""Which node a worker goes to, by each choice: scores of nodes, smaller is better."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.scheduler import Choice, NodeView, Power
from leptonai.core.scheduler.copies import WorkerSize
from leptonai.core.scheduler.nodes import Hold, Nodes
from leptonai.core.scheduler.scoring import Typical, drawn_watts, score_of
from leptonai.testing.builders import a_node, needs

HALF, WHOLE = needs(cpu=4, gpus=0.5), needs(cpu=4, gpus=1)
SOCKET = Power(cpu_idle=10, cpu_busy=100, cpu_millis_per_socket=32_000, gpu_idle=20, gpu_busy=200)


def scores(choice, worker, *nodes, demand=None, seed=0, taken=()):
    """By node, of a worker that was asked for once or of a given demand."""
    columns = Nodes(nodes, score_of(choice, demand or {worker: 1.0}, seed))
    for node, held, devices in taken:
        columns.take(columns.machines.at[node], Hold("held", held, devices))
    row = columns.row(WorkerSize(worker, 0))
    return dict(zip((view.id for view in columns.machines.views), row.score.tolist(), strict=True))


def best(choice, worker, *nodes, **given):
    by_node = scores(choice, worker, *nodes, **given)
    return min(by_node, key=lambda node: (by_node[node], node))


def two(cpu=32, gpus=2):
    return a_node("a", cpu=cpu, gpus=gpus), a_node("b", cpu=cpu, gpus=gpus)


def test_a_share_goes_beside_a_share_so_that_whole_gpus_stay_whole():
    for choice in (Choice.OURS, Choice.FGD, Choice.PACKING, Choice.CLUSTERING, Choice.BEST_FIT):
        demand = {HALF: 1.0, WHOLE: 1.0}
        assert best(choice, HALF, *two(), demand=demand, taken=[("b", HALF, (0,))]) == "b", choice


def test_a_worker_that_would_strand_gpus_for_want_of_cpu_goes_elsewhere():
    hungry = needs(cpu=28, gpus=1)
    tight, roomy = a_node("a", cpu=32, gpus=8), a_node("b", cpu=128, gpus=8)
    demand = {hungry: 1.0, WHOLE: 9.0}
    assert best(Choice.OURS, hungry, tight, roomy, demand=demand) == "b"


def test_cpu_that_runs_short_is_seen_before_it_has_run_out():
    """One more typical worker fits on either node after this one, so that FGD sees no loss."""
    tight, roomy = a_node("a", cpu=32, gpus=8), a_node("b", cpu=64, gpus=8)
    demand = {WHOLE: 1.0}
    by_fgd = scores(Choice.FGD, needs(cpu=8), tight, roomy, demand=demand)
    by_ours = scores(Choice.OURS, needs(cpu=8), tight, roomy, demand=demand)
    assert by_fgd["a"] == by_fgd["b"] == 0.0
    assert by_ours["b"] < by_ours["a"]


def test_work_without_gpus_keeps_away_from_nodes_with_gpus():
    with_gpus, without = a_node("a", cpu=32, gpus=8), a_node("b", cpu=32)
    for demand in ({}, {WHOLE: 1.0}):
        assert best(Choice.OURS, needs(cpu=16), with_gpus, without, demand=demand) == "b"


def test_where_a_worker_does_not_fit_is_no_place():
    full, other = two(gpus=1)
    for choice in Choice:
        by_node = scores(choice, WHOLE, full, other, taken=[("a", WHOLE, (0,))])
        assert by_node["a"] == np.inf, choice
        assert by_node["b"] < np.inf, choice


def test_a_gpu_is_useful_only_to_those_that_take_its_type():
    """A whole A100 is broken up rather than the T4 that the half of all workers ask for."""
    demand = {needs(cpu=1, gpus=1, gpu_type="T4"): 1.0, needs(cpu=1, gpus=1, gpu_type="V100"): 1.0}
    nodes = a_node("a", gpus=1, gpu_type="T4"), a_node("b", gpus=1, gpu_type="A100")
    assert best(Choice.OURS, needs(cpu=1, gpus=0.5), *nodes, demand=demand) == "b"


def test_several_types_may_do():
    worker = needs(cpu=1, gpus=1, gpu_type="V100M16|V100M32")
    nodes = [a_node(kind, gpus=1, gpu_type=kind) for kind in ("P100", "V100", "V100M16", "V100M32")]
    by_node = scores(Choice.OURS, worker, *nodes)
    assert {node for node, score in by_node.items() if score < np.inf} == {"V100M16", "V100M32"}


def test_energy_wakes_up_no_socket_and_no_gpu_without_need():
    nodes = [
        NodeView(id=node.id, capacity=node.capacity, power=SOCKET) for node in two(cpu=64, gpus=2)
    ]
    taken = [("b", HALF, (1,))]
    assert best(Choice.ENERGY, HALF, *nodes, demand={HALF: 1.0}, taken=taken) == "b"
    columns = Nodes(nodes, score_of(Choice.ENERGY, {}, 0))
    assert drawn_watts(columns.columns()).tolist() == [60.0, 60.0]
    columns.take(1, Hold("held", HALF, (1,)))
    assert drawn_watts(columns.columns()).tolist() == [60.0, 60.0 + 90.0 + 180.0]


def test_random_draws_another_order_for_each_seed_and_the_same_for_the_same():
    nodes = [a_node(f"n{at}") for at in range(20)]
    first, again = (scores(Choice.RANDOM, needs(cpu=1), *nodes, seed=1) for _ in range(2))
    assert first == again != scores(Choice.RANDOM, needs(cpu=1), *nodes, seed=2)
    assert all(0 <= draw < 1 for draw in first.values())


def test_without_gpus_in_demand_nothing_is_typical():
    assert not Typical.of({needs(cpu=1): 5.0, WHOLE: 0.0})


sizes = st.builds(
    needs,
    cpu=st.integers(0, 16),
    memory_gib=st.integers(0, 16),
    gpus=st.sampled_from([0, 0.25, 0.5, 0.8, 1, 2]),
)


@given(
    st.sampled_from([choice for choice in Choice if choice is not Choice.RANDOM]),
    st.dictionaries(sizes, st.floats(1, 100), min_size=1, max_size=8),
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(0, 4)), min_size=1, max_size=6
    ),
    st.randoms(use_true_random=False),
)
def test_names_of_nodes_say_nothing_about_them(choice, demand, capacities, random):
    def named(names):
        return [
            a_node(name, cpu=cpu, memory_gib=memory, gpus=gpus)
            for name, (cpu, memory, gpus) in zip(names, capacities, strict=True)
        ]

    names = [f"n{at}" for at in range(len(capacities))]
    others = random.sample(names, len(names))
    for worker in demand:
        before = scores(choice, worker, *named(names), demand=demand)
        after = scores(choice, worker, *named(others), demand=demand)
        assert [before[name] for name in names] == [after[name] for name in others]


@given(st.dictionaries(sizes, st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 3))
def test_what_is_looked_up_is_what_counting_each_size_gives(demand, devices_left):
    """FGD's own definition, size by size, on a node of four GPUs."""
    taken = [("a", needs(cpu=3, gpus=0.5), (device,)) for device in range(4 - devices_left)]
    demand = {worker: count for worker, count in demand.items() if worker.gpus}
    same_memory = {needs_with(worker): count for worker, count in demand.items()}
    worker = needs(cpu=2, gpus=1)
    node = a_node("a", cpu=20, memory_gib=1_000, gpus=4)
    gpu = [500] * (4 - devices_left) + [1000] * devices_left
    cpu = 20_000 - 3_000 * (4 - devices_left)
    expected = np.inf
    if 1000 in gpu and same_memory:
        before = _counted(same_memory, cpu, gpu)
        gpu[gpu.index(1000)] = 0
        expected = (before - _counted(same_memory, cpu - 2_000, gpu) - 1000) / 1000
    if same_memory:
        score = scores(Choice.FGD, worker, node, demand=same_memory, taken=taken)["a"]
        assert score == expected or np.isclose(score, expected)


def needs_with(worker):
    return needs(cpu=worker.cpu_millis / 1000, gpus=worker.gpus * worker.gpu_millis / 1000)


def _counted(demand, cpu, gpu):
    total = sum(demand.values())
    usable = 0.0
    for worker, count in demand.items():
        fitting = [left for left in gpu if left >= worker.gpu_millis]
        if len(fitting) >= worker.gpus and worker.cpu_millis <= cpu:
            usable += count / total * sum(fitting)
    return usable
