"""Room that is given before it is free: what leaves, what shrinks, what yields."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.resources import Free
from leptonai.core.scheduler import (
    Assignment,
    Change,
    Gang,
    Index,
    Plan,
    Policy,
    Preempt,
    Quota,
    Resize,
    Running,
    Snapshot,
    WaitCode,
    Worker,
    advance,
    decide,
    schedule,
)
from leptonai.core.scheduler.demand import HALF_LIFE_MS, Demand
from leptonai.testing.builders import A_MOMENT_MS, a_gang, a_holding, a_node, a_snapshot, needs

HOUR_MS = 3_600_000


def leaving(running: Running) -> Running:
    return replace(running, leaving=frozenset(worker.replica for worker, _ in running.held))


def after_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {place.gang: place.after for place in plan.places}


def test_a_preemptor_comes_after_its_victim_and_nobody_else_gets_the_room():
    plan = schedule(
        a_snapshot(
            a_node(cpu=4),
            a_holding("victim", cpu=3, priority=1000, preemptible=True, ran_ms=HOUR_MS),
            a_gang("urgent", cpu=3, priority=9000),
            a_gang("small", cpu=1, priority=1000),
            a_gang("other", cpu=1, priority=1000),
        )
    )
    assert plan.preempts == (Preempt("victim", "urgent", lost_ms=HOUR_MS),)
    assert after_of(plan) == {"urgent": ("victim",), "other": ()}


def test_while_the_victim_stops_nobody_else_is_preempted_and_its_room_is_kept():
    snapshot = a_snapshot(
        a_node("a", cpu=4),
        a_node("b", cpu=4),
        leaving(a_holding("first", node="a", cpu=4, priority=1000, preemptible=True)),
        a_holding("second", node="b", cpu=4, priority=1000, preemptible=True, ran_ms=HOUR_MS),
        a_gang("urgent", cpu=4, priority=9000),
        a_gang("behind", cpu=1, priority=8000),
    )
    plan = schedule(snapshot)
    assert plan.preempts == (Preempt("second", "behind", lost_ms=HOUR_MS),)
    assert after_of(plan)["urgent"] == ("first",)
    ended = replace(snapshot, running=snapshot.running[1:])
    assert after_of(schedule(ended))["urgent"] == ()


def test_who_may_not_preempt_still_gets_the_room_of_what_ends_anyway():
    plan = schedule(
        a_snapshot(
            a_node(cpu=4),
            leaving(a_holding("stopped", cpu=3, devices=(), priority=9000)),
            replace(a_gang("patient", cpu=4), may_preempt=False),
        )
    )
    assert (after_of(plan), plan.waits) == ({"patient": ("stopped",)}, ())


def test_what_is_free_now_goes_to_whoever_needs_no_more_than_that():
    plan = schedule(
        a_snapshot(
            a_node(cpu=4),
            leaving(a_holding("stopped", cpu=2)),
            a_gang("large", cpu=3, waited_ms=2),
            a_gang("small", cpu=1, waited_ms=1),
        )
    )
    assert after_of(plan) == {"large": ("stopped",), "small": ()}


def an_elastic_job(*, node: str = "node-1", priority: int = 5000) -> Running:
    workers = tuple(Worker(replica=f"el-{i}", needs=needs(cpu=1)) for i in range(4))
    gang = replace(a_gang("el", priority=priority), workers=workers, min_workers=2)
    held = tuple((worker, Assignment(worker.replica, node)) for worker in workers)
    return Running(gang=gang, held=held, started_at_ms=A_MOMENT_MS)


def test_an_elastic_job_shrinks_before_anybody_is_preempted():
    running = an_elastic_job()
    victim = a_holding("victim", cpu=2, priority=1000, preemptible=True, ran_ms=HOUR_MS)
    plan = schedule(a_snapshot(a_node(cpu=6), running, victim, a_gang("new", cpu=1)))
    kept = tuple(to for _, to in running.held[:3])
    assert (plan.resizes, plan.preempts) == ((Resize("el", kept, "new"),), ())
    assert after_of(plan) == {"new": ("el",)}


def test_the_room_of_an_elastic_job_that_is_preempted_is_counted_once():
    running = an_elastic_job(priority=1000)
    running = replace(
        running,
        gang=replace(running.gang, preemptible=True),
        started_at_ms=A_MOMENT_MS - HOUR_MS,
    )
    cluster = (a_node(cpu=4), running)
    assert schedule(a_snapshot(*cluster, a_gang("new", cpu=5, priority=9000))).places == ()
    plan = schedule(a_snapshot(*cluster, a_gang("new", cpu=4, priority=9000)))
    assert (plan.preempts, plan.resizes) == ((Preempt("el", "new", HOUR_MS),), ())


def test_quotas_that_change_hold_from_the_next_decision_on():
    mine = replace(a_gang("mine", gpus=2), user="ann")
    index = Index.of(a_snapshot(a_node(gpus=2), mine))
    index = advance(index, Change(quotas=(Quota(user="ann", gpus=1),)))
    plan = decide(index, A_MOMENT_MS, explain=True)
    assert [wait.because.code for wait in plan.waits] == [WaitCode.QUOTA]
    index = advance(index, Change(quotas=(Quota(user="bob", gpus=1),)))
    assert after_of(decide(index, A_MOMENT_MS)) == {"mine": ()}


def test_weights_that_change_turn_who_goes_first():
    def gangs(user: str) -> list[Gang]:
        return [replace(a_gang(f"{user}-{i}", cpu=1), user=user) for i in range(4)]

    fair = Policy(fair=True)
    index = Index.of(a_snapshot(a_node(cpu=4), *gangs("ann"), *gangs("bob")), fair)

    def placed(index: Index) -> list[str]:
        return sorted(after_of(decide(index, A_MOMENT_MS)))

    assert placed(index) == ["ann-0", "ann-1", "bob-0", "bob-1"]
    index = advance(index, Change(weights={"ann": 3.0}))
    assert placed(index) == ["ann-0", "ann-1", "ann-2", "bob-0"]


def test_demand_counts_what_was_asked_of_late_and_tells_of_it_when_it_changed():
    small, large = needs(cpu=1), needs(gpus=8)
    demand = Demand()
    demand.ask(small, A_MOMENT_MS)
    demand.ask(large, A_MOMENT_MS + HALF_LIFE_MS)
    assert demand.news() == {small: 1 / 3, large: 2 / 3}
    assert demand.news() is None
    for _ in range(3):
        demand.ask(large, A_MOMENT_MS + 1000 * HALF_LIFE_MS)
    news = demand.news()
    assert news is not None
    assert round(news[large], 6) == 1.0


nodes = st.lists(
    st.builds(a_node, st.sampled_from("abc"), cpu=st.integers(1, 6), gpus=st.integers(0, 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda node: node.id,
)


@st.composite
def clusters(draw: st.DrawFn) -> Snapshot:
    """Full of what leaves, yields, or could do with less; and of gangs that wait."""
    there = draw(nodes)
    left = {node.id: Free.all_of(node.capacity) for node in there}
    running = []
    for number in range(draw(st.integers(0, 6))):
        workers, held = [], []
        size = needs(cpu=draw(st.integers(1, 2)), gpus=draw(st.sampled_from([0, 0, 0.5, 1])))
        for index in range(draw(st.integers(1, 3))):
            node = draw(st.sampled_from(sorted(left)))
            if not left[node].fits(size):
                break
            worker = Worker(replica=f"r{number}-{index}", needs=size)
            gpus = left[node].choose_gpus(size) or ()
            left[node] = left[node].take(size, gpus)
            workers.append(worker)
            held.append((worker, Assignment(worker.replica, node, gpus)))
        if not workers:
            continue
        gang = replace(
            a_gang(f"r{number}", priority=draw(st.sampled_from([1000, 5000]))),
            workers=tuple(workers),
            min_workers=draw(st.integers(0, len(workers))),
            preemptible=draw(st.booleans()),
        )
        ends = draw(st.sets(st.sampled_from([w.replica for w in workers])) | st.just(set()))
        started = A_MOMENT_MS - draw(st.sampled_from([0, HOUR_MS]))
        running.append(
            Running(gang=gang, held=tuple(held), started_at_ms=started, leaving=frozenset(ends))
        )
    queue = draw(
        st.lists(
            st.builds(
                a_gang,
                st.uuids().map(lambda uuid: uuid.hex[:6]),
                workers=st.integers(1, 3),
                cpu=st.integers(1, 3),
                gpus=st.sampled_from([0, 0, 0.5, 1, 2]),
                priority=st.sampled_from([1000, 5000, 9000]),
            ),
            max_size=5,
            unique_by=lambda gang: gang.id,
        )
    )
    return a_snapshot(*there, *running, *queue)


def overdrawn(snapshot: Snapshot, plan: Plan, *, now: bool) -> list[str]:
    """Nodes that hold more than they have: now, with the places that come after nobody; or when all
    who yield and leave have done so."""
    of = {worker.replica: worker.needs for gang in snapshot.queue for worker in gang.workers}
    left = {node.id: Free.all_of(node.capacity) for node in snapshot.nodes}
    evicted = {preempt.gang for preempt in plan.preempts}
    shrunk = {resize.gang: {to.replica for to in resize.assignments} for resize in plan.resizes}
    queued = {gang.id for gang in snapshot.queue}
    for running in snapshot.running:
        for worker, to in running.held:
            of[worker.replica] = worker.needs
            id = running.gang.id
            gone = worker.replica in running.leaving or id in evicted
            if now or not (gone or worker.replica not in shrunk.get(id, {worker.replica})):
                left[to.node] = left[to.node].take(worker.needs, to.gpus)
    for place in plan.places:
        if now and (place.after or place.gang not in queued):
            continue
        for to in place.assignments:
            left[to.node] = left[to.node].take(of[to.replica], to.gpus)
    return [
        node
        for node, free in left.items()
        if min(free.cpu_millis, free.memory_bytes, free.disk_bytes, *free.gpu_millis, 0) < 0
    ]


@settings(deadline=None, max_examples=200)
@given(clusters())
def test_no_room_is_given_twice_neither_now_nor_when_all_who_yield_have_left(snapshot: Snapshot):
    plan = schedule(snapshot)
    assert overdrawn(snapshot, plan, now=True) == []
    assert overdrawn(snapshot, plan, now=False) == []


@settings(deadline=None, max_examples=200)
@given(clusters())
def test_nobody_yields_but_to_one_that_starts_by_it(snapshot: Snapshot):
    plan = schedule(snapshot)
    after = after_of(plan)
    for yields in (*plan.preempts, *plan.resizes):
        assert yields.gang in after[yields.by]
    stopping = {running.gang.id for running in snapshot.running if running.leaving}
    assert stopping.isdisjoint(yields.gang for yields in (*plan.preempts, *plan.resizes))


def test_who_waits_for_some_to_leave_does_not_wait_longer_because_of_those_behind_it():
    cluster = (
        a_node(cpu=4),
        leaving(a_holding("first", cpu=2)),
        replace(leaving(a_holding("later", cpu=1)), leaving_since_ms=A_MOMENT_MS),
    )
    plan = schedule(a_snapshot(*cluster, a_gang("a", cpu=3, waited_ms=1), a_gang("b", cpu=1)))
    assert after_of(plan) == {"a": ("first",), "b": ("first", "later")}
