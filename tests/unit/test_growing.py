"""Elastic gangs take what is left, and give it back."""

from dataclasses import replace

from leptonai.core.scheduler import Gang, Plan, Policy, Running, Worker, schedule
from leptonai.core.scheduler.values import Assignment, Resize
from leptonai.testing.builders import A_MOMENT_MS, a_gang, a_node, a_snapshot, needs

MINUTE_MS = 60_000
POLICY = Policy(restart_ms=MINUTE_MS, min_run_ms=MINUTE_MS)


def an_elastic_gang(id="wide", *, most=4, least=1, lasts_ms=600 * MINUTE_MS, speedup=()):
    workers = tuple(Worker(replica=f"{id}-{at}", needs=needs(gpus=1)) for at in range(most))
    return Gang(
        id=id,
        name=id,
        workers=workers,
        min_workers=least,
        preemptible=True,
        remaining_ms=lasts_ms,
        speedup=speedup,
    )


def running_with(gang, *devices, node="a", ran_ms=10 * MINUTE_MS):
    """A worker for each of these devices."""
    held = [
        (w, Assignment(w.replica, node, (d,))) for w, d in zip(gang.workers, devices, strict=False)
    ]
    return Running(gang=gang, held=tuple(held), started_at_ms=A_MOMENT_MS - ran_ms)


def resized(plan: Plan):
    return {
        resize.gang: [(to.replica, to.node, to.gpus) for to in resize.assignments]
        for resize in plan.resizes
    }


def decided(*parts, policy=POLICY):
    return schedule(a_snapshot(*parts), policy)


def test_a_gang_grows_into_what_is_free_and_keeps_what_it_has():
    plan = decided(a_node("a", gpus=2), a_node("b", gpus=8), running_with(an_elastic_gang(), 1))
    assert resized(plan)["wide"][0] == ("wide-0", "a", (1,))
    assert len(resized(plan)["wide"]) == 4


def test_what_waits_is_served_before_anything_grows():
    waiting = a_gang("new", gpus=3)
    plan = decided(a_node("a", gpus=4), running_with(an_elastic_gang(), 0), waiting)
    assert ([place.gang for place in plan.places], plan.resizes) == (["new"], ())


def test_a_gang_that_has_grown_gives_it_back_to_what_comes():
    plan = decided(
        a_node("a", gpus=4), running_with(an_elastic_gang(), 0, 1, 2, 3), a_gang("new", gpus=3)
    )
    assert [place.gang for place in plan.places] == ["new"]
    assert plan.resizes == (Resize("wide", (Assignment("wide-0", "a", (0,)),), "new"),)
    assert plan.preempts == ()


def test_what_has_just_started_or_is_about_to_end_does_not_grow():
    node = a_node("a", gpus=4)
    assert decided(node, running_with(an_elastic_gang(), 0, ran_ms=1)).resizes == ()
    nearly = an_elastic_gang(lasts_ms=11 * MINUTE_MS)
    assert decided(node, running_with(nearly, 0, 1, 2, ran_ms=10 * MINUTE_MS)).resizes == ()


def test_a_gang_does_not_grow_to_where_it_is_no_faster():
    gang = an_elastic_gang(speedup=(1.0, 1.8, 1.8, 1.7))
    plan = decided(a_node("a", gpus=4), running_with(gang, 0))
    assert len(resized(plan)["wide"]) == 2


def test_two_gangs_share_what_is_left():
    parts = [a_node("a", gpus=6), running_with(an_elastic_gang("x"), 0)]
    plan = decided(*parts, running_with(an_elastic_gang("y"), 1))
    assert {id: len(to) for id, to in resized(plan).items()} in ({"x": 4, "y": 2}, {"x": 3, "y": 3})


def test_a_gang_that_cannot_be_asked_to_move_keeps_its_size_where_nothing_is_free():
    plan = decided(a_node("a", gpus=1), running_with(replace(an_elastic_gang(), user="u"), 0))
    assert plan.resizes == ()
