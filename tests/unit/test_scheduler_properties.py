"""What holds for every cluster and every queue."""

from collections import defaultdict
from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.resources import Free, Needs
from leptonai.core.scheduler import (
    OVERDUE_MS,
    Assignment,
    Gang,
    Plan,
    Running,
    Snapshot,
    WaitCode,
    feasible,
    schedule,
)
from leptonai.testing.builders import a_gang, a_holding, a_node, a_snapshot, needs

NODES = ("a", "b", "c")
sizes = st.builds(
    needs,
    cpu=st.sampled_from([0.5, 1, 2, 3]),
    memory_gib=st.integers(0, 3),
    gpus=st.sampled_from([0, 0, 0.25, 0.5, 1, 2]),
    gpu_type=st.sampled_from(["", "", "A10"]),
)
nodes = st.lists(
    st.builds(
        a_node,
        st.sampled_from(NODES),
        cpu=st.integers(0, 6),
        memory_gib=st.integers(1, 6),
        gpus=st.integers(0, 3),
        gpu_type=st.sampled_from(["A10", "H100"]),
        group=st.sampled_from(["x", "y"]),
        schedulable=st.booleans() | st.just(True),
    ),
    max_size=3,
    unique_by=lambda node: node.id,
)
unequal = st.lists(sizes, min_size=1, max_size=3)
equal = st.builds(lambda many, size: [size] * many, st.integers(1, 4), sizes)
gangs = st.builds(
    a_gang,
    st.uuids().map(lambda uuid: uuid.hex[:6]),
    sizes=unequal | equal,
    ports=st.lists(st.sampled_from([0, 8080, 20_000, 20_001]), max_size=2).map(tuple),
    priority=st.sampled_from([1000, 5000, 9000]),
    waited_ms=st.integers(0, 2 * OVERDUE_MS),
    nodes=st.sampled_from([(), (), ("a",), ("b", "c")]),
    groups=st.sampled_from([(), (), ("y",)]),
)  # fmt: skip
holdings = st.lists(
    st.builds(
        a_holding,
        st.sampled_from(["s0", "s1", "s2"]),
        node=st.sampled_from(NODES),
        cpu=st.integers(0, 3),
        memory_gib=st.integers(0, 2),
        ports=st.lists(st.sampled_from([8080, 20_000]), max_size=2, unique=True).map(tuple),
        lasting=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda holding: holding.gang.id,
)
snapshots = st.builds(
    lambda nodes, holdings, gangs: a_snapshot(*nodes, *holdings, *gangs),
    nodes,
    holdings,
    st.lists(gangs, max_size=5, unique_by=lambda gang: gang.id),
)


def workers_needs(snapshot: Snapshot) -> dict[str, Needs]:
    return {worker.replica: worker.needs for gang in snapshot.queue for worker in gang.workers}


def assignments(plan: Plan) -> list[Assignment]:
    return [to for place in plan.places for to in place.assignments]


def left_after(snapshot: Snapshot, placed: list[Assignment]) -> dict[str, Free]:
    """What usable nodes have left, where that is recomputed from scratch."""
    of = workers_needs(snapshot)
    left = {node.id: Free.all_of(node.capacity) for node in snapshot.nodes if node.schedulable}
    for running in snapshot.running:
        for worker, to in running.held:
            if to.node in left:
                left[to.node] = left[to.node].take(worker.needs, to.gpus)
    for to in placed:
        left[to.node] = left[to.node].take(of[to.replica], to.gpus)
    return left


def fits_somehow(gang: Gang, left: dict[str, Free], snapshot: Snapshot) -> bool:
    """By trying everything."""
    usable = [node.id for node in snapshot.nodes if node.schedulable and gang.admits(node)]
    for choice in product(usable, repeat=len(gang.workers)):
        trial = dict(left)
        for worker, node in zip(gang.workers, choice, strict=True):
            gpus = trial[node].choose_gpus(worker.needs)
            if not trial[node].fits(worker.needs) or gpus is None:
                break
            trial[node] = trial[node].take(worker.needs, gpus)
        else:
            return True
    return False


@settings(deadline=None)
@given(snapshots)
def test_every_gang_is_placed_whole_or_told_why_it_waits(snapshot: Snapshot):
    plan = schedule(snapshot)
    decided = [place.gang for place in plan.places] + [wait.gang for wait in plan.waits]
    assert sorted(decided) == sorted(gang.id for gang in snapshot.queue)
    workers = {gang.id: [w.replica for w in gang.workers] for gang in snapshot.queue}
    assert all([to.replica for to in p.assignments] == workers[p.gang] for p in plan.places)
    assert all(wait.because.text for wait in plan.waits)


@settings(deadline=None)
@given(snapshots)
def test_no_node_is_ever_given_more_than_it_has_free(snapshot: Snapshot):
    placed = assignments(schedule(snapshot))
    before, after = left_after(snapshot, []), left_after(snapshot, placed)
    for node in {to.node for to in placed}:
        left = after[node]
        assert min(left.cpu_millis, left.memory_bytes, left.disk_bytes, *left.gpu_millis, 0) == 0, (
            before[node],
            left,
        )
    of = workers_needs(snapshot)
    for to in placed:
        wanted = of[to.replica]
        assert len(set(to.gpus)) == wanted.gpus
        assert not wanted.gpus or wanted.gpu_type in ("", after[to.node].gpu_type)


@settings(deadline=None)
@given(snapshots)
def test_nobody_is_placed_where_its_affinity_or_the_node_forbids_it(snapshot: Snapshot):
    nodes = {node.id: node for node in snapshot.nodes}
    gangs = {gang.id: gang for gang in snapshot.queue}
    for place in schedule(snapshot).places:
        on = [nodes[to.node] for to in place.assignments]
        assert all(node.schedulable and gangs[place.gang].admits(node) for node in on)


@settings(deadline=None)
@given(snapshots)
def test_a_port_of_a_node_is_given_once(snapshot: Snapshot):
    given_ports: dict[str, list[int]] = defaultdict(list)
    held: dict[str, set[int]] = defaultdict(set)
    for running in snapshot.running:
        for _, to in running.held:
            held[to.node] |= set(to.ports)
    wishes = {w.replica: w.ports for gang in snapshot.queue for w in gang.workers}
    for place in schedule(snapshot).places:
        for to in place.assignments:
            assert len(to.ports) == len(wishes[to.replica])
            given_ports[to.node] += to.ports
        given_ports[place.assignments[0].node].append(place.rendezvous_port)
    for node, ports in given_ports.items():
        assert len(set(ports)) == len(ports)
        assert not set(ports) & held[node]


@settings(deadline=None)
@given(snapshots, st.randoms(use_true_random=False))
def test_equal_snapshots_give_equal_plans_in_whatever_order_they_are_told(snapshot, random):
    def shuffled(parts: tuple) -> tuple:
        return tuple(random.sample(parts, len(parts)))

    other = replace(
        snapshot,
        nodes=shuffled(snapshot.nodes),
        running=shuffled(snapshot.running),
        queue=shuffled(snapshot.queue),
    )
    assert schedule(other) == schedule(snapshot) == schedule(snapshot)


@settings(max_examples=300, deadline=None)
@given(snapshots)
def test_no_gang_waits_for_capacity_that_is_there(snapshot: Snapshot):
    """Not even for what only those behind it took: nothing less urgent went before it."""
    plan = schedule(snapshot)
    rank = {gang.id: (-gang.priority, gang.queued_at_ms, gang.id) for gang in snapshot.queue}
    for wait in plan.waits:
        if wait.because.code is not WaitCode.CAPACITY:
            continue
        gang = next(gang for gang in snapshot.queue if gang.id == wait.gang)
        before = [p for p in plan.places if rank[p.gang] < rank[gang.id]]
        left = left_after(snapshot, [to for place in before for to in place.assignments])
        assert not fits_somehow(gang, left, snapshot)


@settings(deadline=None)
@given(snapshots)
def test_what_is_told_to_be_impossible_does_not_fit_on_empty_nodes_and_the_rest_does(snapshot):
    empty = replace(snapshot, running=())
    usable = tuple(node for node in snapshot.nodes if node.schedulable)
    room = left_after(empty, [])
    impossible = {
        wait.gang for wait in schedule(snapshot).waits
        if wait.because.code in (WaitCode.NO_NODE, WaitCode.NO_NODES)
    }  # fmt: skip
    for gang in snapshot.queue:
        if len({worker.needs for worker in gang.workers}) == 1:
            assert (feasible(gang, usable) is None) == fits_somehow(gang, room, empty)
        if gang.id in impossible:
            assert not fits_somehow(gang, room, empty)


@settings(deadline=None)
@given(snapshots)
def test_a_gang_waits_behind_another_only_when_that_one_is_overdue(snapshot: Snapshot):
    gangs = {gang.id: gang for gang in snapshot.queue}
    waits = {wait.gang: wait.because for wait in schedule(snapshot).waits}
    for gang, because in waits.items():
        if because.code is WaitCode.BEHIND:
            first = gangs[str(because.data["behind"])]
            assert snapshot.now_ms - first.queued_at_ms >= OVERDUE_MS
            assert first.id in waits
            assert (-first.priority, first.queued_at_ms) <= (
                -gangs[gang].priority,
                gangs[gang].queued_at_ms,
            )


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(2, 4))
def test_a_steady_stream_of_small_jobs_does_not_starve_a_large_one(runs: list[int], cpu: int):
    """Each minute a small job comes that runs some minutes; the large one still starts in time."""
    minute, now_ms = 60_000, 0
    bound_ms = OVERDUE_MS + (max(runs) + 1) * minute
    large = replace(a_gang("large", cpu=cpu), queued_at_ms=0)
    running: list[tuple[int, Running]] = [(max(runs) * minute, a_holding("first", cpu=1))]
    queue = [large]
    while large in queue:
        assert now_ms <= bound_ms
        running = [(end, holding) for end, holding in running if end > now_ms]
        for at in range(2):
            small = a_gang(f"small-{now_ms}-{at}", cpu=1)
            queue.append(replace(small, queued_at_ms=now_ms))
        held = [holding for _, holding in running]
        plan = schedule(a_snapshot(a_node(cpu=cpu), *held, *queue, now_ms=now_ms))
        placed = {place.gang for place in plan.places}
        queue = [gang for gang in queue if gang.id not in placed]
        for at, gang in enumerate(sorted(placed)):
            length = runs[(now_ms // minute + at) % len(runs)] * minute
            running.append((now_ms + length, a_holding(gang, cpu=1)))
        now_ms += minute
