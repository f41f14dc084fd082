"""What holds after any history of events, and however the scheduler came to know of it.

LEPTON_SCHEDULER_EVENTS=100000 makes it a hunt.
"""

import os
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

import pytest

from leptonai.core.resources import Capacity, Free, Needs
from leptonai.core.scheduler import (
    Change,
    Gang,
    Index,
    NodeView,
    Order,
    Passing,
    Plan,
    Policy,
    Quota,
    Running,
    Snapshot,
    Worker,
    Yielding,
    advance,
    decide,
    schedule,
)

EVENTS = int(os.environ.get("LEPTON_SCHEDULER_EVENTS", "1200"))
MINUTE_MS = 60_000
QUOTAS = (Quota(user="ann", gpus=4), Quota(project="vision", gpus=6, borrow=False))
POLICIES = {
    "default": Policy(),
    "fair": Policy(fair=True, min_run_ms=2 * MINUTE_MS),
    "shared": Policy(
        order=Order.FEEDBACK, passing=Passing.ALWAYS, yielding=Yielding.ORDER, min_run_ms=MINUTE_MS
    ),
    "shortest": Policy(order=Order.SHORTEST, yielding=Yielding.ORDER),
    "easy": Policy(order=Order.ARRIVAL, passing=Passing.RESERVED, yielding=Yielding.NEVER),
    "strict": Policy(order=Order.ARRIVAL, passing=Passing.NEVER, yielding=Yielding.NEVER),
}


class World:
    """A small cluster to which random things happen; it does what the plans say."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.random = Random(seed)
        self.policy = policy
        self.now_ms = 1_000 * MINUTE_MS
        self.nodes = {id: self.a_node(id) for id in ("a", "b", "c", "d")}
        self.running: dict[str, Running] = {}
        self.queue: dict[str, Gang] = {}
        self.made = 0
        self.index = Index.of(self.snapshot(), policy)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            now_ms=self.now_ms,
            nodes=tuple(self.nodes.values()),
            running=tuple(self.running.values()),
            queue=tuple(self.queue.values()),
            quotas=QUOTAS,
            weights={"bob": 2.0},
        )

    def a_node(self, id: str) -> NodeView:
        return NodeView(
            id=id,
            switch=self.random.choice("xy"),
            capacity=Capacity(
                cpu_millis=self.random.choice([4_000, 8_000]),
                memory_bytes=64,
                gpus=self.random.choice([0, 2, 4]),
                gpu_type=self.random.choice(["A10", "H100"]),
            ),
            schedulable=self.random.random() < 0.9,
        )

    def a_gang(self) -> Gang:
        self.made += 1
        id = f"g{self.made:05}"
        random = self.random
        needs = Needs(
            cpu_millis=random.choice([500, 1000, 2000]),
            memory_bytes=random.choice([0, 16]),
            gpus=random.choice([0, 0, 1, 1, 2]),
            gpu_type=random.choice(["", "", "A10", "A10|H100"]),
        )
        if needs.gpus == 1 and random.random() < 0.3:
            needs = Needs(cpu_millis=500, gpus=1, gpu_millis=random.choice([250, 500]))
        workers = random.choice([1, 1, 1, 2, 3, 4])
        least = random.choice([0, 0, 1])
        segment = 2 if least == 0 and workers % 2 == 0 and random.random() < 0.5 else 0
        equal = random.choice([(), (0,)])
        return Gang(
            id=id,
            name=id,
            workers=tuple(
                Worker(
                    replica=f"{id}-{at}",
                    needs=needs,
                    ports=equal if segment else random.choice([(), (0,), (8080,)]),
                )
                for at in range(workers)
            ),
            min_workers=least,
            segment=segment,
            apart=random.random() < 0.1,
            priority=random.choice([1000, 5000, 5000, 9000]),
            queued_at_ms=self.now_ms,
            user=random.choice(["ann", "bob", "cat"]),
            project=random.choice(["", "vision"]),
            preemptible=random.random() < 0.5,
            may_preempt=random.random() < 0.8,
            allowed_nodes=random.choice([frozenset(), frozenset(), frozenset("ab")]),
            remaining_ms=random.choice([None, 5 * MINUTE_MS, 60 * MINUTE_MS]),
        )

    def happens(self) -> Change:
        """One event, and the time that has passed before it."""
        self.now_ms += self.random.choice([0, 1, MINUTE_MS, 7 * MINUTE_MS])
        kind = self.random.random()
        if kind < 0.45:
            gang = self.a_gang()
            self.queue[gang.id] = gang
            return Change(queued=(gang,))
        if kind < 0.85 and self.running:
            id = self.random.choice(sorted(self.running))
            del self.running[id]
            return Change(gone=(id,))
        if kind < 0.9 and self.queue:
            id = self.random.choice(sorted(self.queue))
            del self.queue[id]
            return Change(gone=(id,))
        if kind < 0.93 and self.running:
            id = self.random.choice(sorted(self.running))
            saved = replace(self.running[id], saved_at_ms=self.now_ms)
            self.running[id] = saved
            return Change(running=(saved,))
        if kind < 0.97:
            return Change()
        node = self.a_node(self.random.choice("abcd"))
        self.nodes[node.id] = node
        return Change(nodes=(node,))

    def do(self, plan: Plan) -> Change:
        changed: dict[str, Gang | Running] = {}
        for preempt in plan.preempts:
            running = self.running.pop(preempt.gang)
            ran_ms = self.now_ms - (running.started_at_ms or self.now_ms)
            gang = replace(running.gang, attained_ms=running.gang.attained_ms + ran_ms)
            self.queue[gang.id] = changed[gang.id] = gang
        for resize in plan.resizes:
            running = self.running[resize.gang]
            workers = {worker.replica: worker for worker in running.gang.workers}
            held = tuple((workers[to.replica], to) for to in resize.assignments)
            self.running[resize.gang] = changed[resize.gang] = replace(running, held=held)
        for place in plan.places:
            gang = self.queue.pop(place.gang)
            self.running[gang.id] = changed[gang.id] = Running(
                gang=gang,
                held=tuple(zip(gang.workers, place.assignments, strict=False)),
                rendezvous_port=place.rendezvous_port,
                started_at_ms=self.now_ms,
            )
        return Change(
            queued=tuple(gang for gang in changed.values() if isinstance(gang, Gang)),
            running=tuple(gang for gang in changed.values() if isinstance(gang, Running)),
        )


def left(world: World) -> dict[str, Free]:
    """What is left of each node, from scratch."""
    left = {id: Free.all_of(node.capacity) for id, node in world.nodes.items()}
    for running in world.running.values():
        for worker, to in running.held:
            left[to.node] = left[to.node].take(worker.needs, to.gpus)
    return left


def overfull(world: World) -> set[str]:
    return {
        id
        for id, free in left(world).items()
        if min(free.cpu_millis, free.memory_bytes, free.disk_bytes, *free.gpu_millis, 0) < 0
    }


def held_gpus(world: World) -> Counter[str]:
    held: Counter[str] = Counter()
    for running in world.running.values():
        for worker, _ in running.held:
            millis = worker.needs.gpus * worker.needs.gpu_millis
            held[f"user:{running.gang.user}"] += millis
            held[f"project:{running.gang.project}"] += millis
    return held


@pytest.mark.parametrize("name", POLICIES)
def test_after_any_events_the_index_decides_as_from_scratch_and_nothing_is_given_twice(name: str):
    for seed in range(4):
        world = World(POLICIES[name], seed)
        for _ in range(EVENTS // 24):
            world.index = advance(world.index, world.happens())
            before_overfull, before_gpus = overfull(world), held_gpus(world)
            queue, running = dict(world.queue), dict(world.running)
            plan = decide(world.index, world.now_ms)
            assert plan == decide(world.index, world.now_ms)  # which left the index as it was
            afresh = schedule(world.snapshot(), world.policy)
            assert (plan.places, plan.preempts, plan.resizes) == (
                afresh.places,
                afresh.preempts,
                afresh.resizes,
            ), (seed, world.now_ms)
            told = [wait.gang for wait in afresh.waits]
            placed = [place.gang for place in plan.places]
            assert sorted(told + [id for id in placed if id in queue]) == sorted(queue)
            check_yielding(plan, queue, running, world)
            domains = {node.id: node.domain for node in world.nodes.values()}
            world.index = advance(world.index, world.do(plan))
            # A node that shrank may be too full for a while, but nothing new is put there.
            assert overfull(world) <= before_overfull
            check_gangs(plan, queue, running, domains)
            if held_gpus(world)["project:vision"] > 6_000:
                assert held_gpus(world)["project:vision"] <= before_gpus["project:vision"]


def check_gangs(
    plan: Plan,
    queue: dict[str, Gang],
    running: dict[str, Running],
    domains: dict[str, tuple[str, str]],
) -> None:
    ports: dict[str, list[int]] = defaultdict(list)
    for place in plan.places:
        gang = queue[place.gang] if place.gang in queue else running[place.gang].gang
        replicas = [worker.replica for worker in gang.workers]
        got = [to.replica for to in place.assignments]
        assert got == replicas[: len(got)]
        assert len(got) >= (gang.min_workers or len(replicas))
        if gang.apart:
            assert len({to.node for to in place.assignments}) == len(got)
        for first in range(0, len(got), gang.segment or len(got)):
            segment = place.assignments[first : first + gang.segment]
            assert len({domains[to.node] for to in segment}) <= 1
        for to in place.assignments:
            ports[to.node] += to.ports
        ports[place.assignments[0].node].append(place.rendezvous_port)
    assert all(len(set(given)) == len(given) for given in ports.values())


def check_yielding(
    plan: Plan, queue: dict[str, Gang], running: dict[str, Running], world: World
) -> None:
    """Whoever yields does so to one that starts by that, and may be asked to."""
    starts = {place.gang for place in plan.places}
    for preempt in plan.preempts:
        victim = running[preempt.gang]
        assert victim.gang.preemptible
        assert preempt.by in starts
        assert world.policy.yielding is not Yielding.NEVER
        ran_ms = world.now_ms - (victim.started_at_ms or world.now_ms)
        assert ran_ms >= world.policy.min_run_ms
        by = queue[preempt.by] if preempt.by in queue else running[preempt.by].gang
        assert by.may_preempt
        assert by.priority >= victim.gang.priority
        if world.policy.yielding is Yielding.PRIORITY and not by.priority > victim.gang.priority:
            assert victim.gang.user == "ann"  # who had borrowed
    for resize in plan.resizes:
        gang = running[resize.gang].gang
        assert gang.min_workers <= len(resize.assignments) <= len(gang.workers)
        had = [to for _, to in running[resize.gang].held]
        kept = [to for to in had if to in resize.assignments]
        if resize.by:  # it shrinks
            assert kept == list(resize.assignments)
            assert resize.by in starts
        else:
            assert kept == had
            assert len(resize.assignments) > len(had)
