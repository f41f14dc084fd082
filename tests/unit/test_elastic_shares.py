"""How many workers each elastic gang gets."""

import time

from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.resources import Needs
from leptonai.core.scheduler import Gang, Worker
from leptonai.core.scheduler.elastic import Claim, Curve, allot

MINUTE_MS = 60_000


def a_curve(most=8, *, least=1, speedup=()):
    workers = tuple(Worker(replica=str(at), needs=Needs(gpus=1)) for at in range(most))
    gang = Gang(id="g", name="g", workers=workers, min_workers=least, speedup=speedup)
    return Curve.of(gang)


def a_claim(id, *, curve=None, left_ms=60 * MINUTE_MS, **more):
    return Claim(id=id, curve=curve or a_curve(), size=1.0, left_ms=left_ms, **more)


def test_only_numbers_of_workers_that_make_it_faster_are_worth_having():
    curve = a_curve(5, speedup=(1.0, 2.0, 2.0, 3.0, 2.5))
    assert (curve.workers, curve.speeds) == ((1, 2, 4), (0.4, 0.8, 1.2))
    assert [curve.speed(many) for many in (0, 1, 3, 5)] == [0.0, 0.4, 0.8, 1.2]


def test_a_gang_grows_into_all_that_is_free():
    assert allot([a_claim("a")], 100) == {"a": 8}


def test_one_that_does_not_scale_does_not_take_what_it_cannot_use():
    flat = a_curve(speedup=(1.0, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1))
    assert allot([a_claim("a", curve=flat), a_claim("b")], 9) == {"a": 1, "b": 8}


def test_everybody_starts_before_anybody_grows():
    assert allot([a_claim("a"), a_claim("b"), a_claim("c")], 4) == {"a": 2, "b": 1, "c": 1}


def test_a_running_gang_shrinks_to_its_least_so_that_another_starts():
    claims = [a_claim("a", has=8), a_claim("b", curve=a_curve(8, least=6))]
    assert allot(claims, 8) == {"a": 2, "b": 6}


def test_where_not_all_can_start_the_shorter_ones_do():
    claims = [a_claim("long", left_ms=10 * MINUTE_MS), a_claim("short", left_ms=MINUTE_MS)]
    assert allot(claims, 1) == {"short": 1}


def test_what_runs_goes_on_unless_another_is_much_better():
    long = a_claim("runs", left_ms=10 * MINUTE_MS, has=1)
    assert allot([long, a_claim("new", left_ms=6 * MINUTE_MS)], 1) == {"runs": 1}
    assert allot([long, a_claim("new", left_ms=4 * MINUTE_MS)], 1) == {"new": 1}


def test_what_is_promised_comes_before_all():
    claims = [a_claim("late", left_ms=1e9, promised=3, turn=9), a_claim("short", left_ms=1)]
    assert allot(claims, 3) == {"late": 3}


def test_nothing_of_a_later_turn_costs_an_earlier_one_a_worker():
    claims = [a_claim("first", left_ms=1e9), a_claim("second", left_ms=1, turn=1)]
    assert allot(claims, 9) == {"first": 8, "second": 1}
    assert allot(claims, 1) == {"first": 1}


def test_a_gang_grows_only_if_that_pays_for_the_restart():
    nearly_done = a_claim("a", left_ms=MINUTE_MS, has=4)  # saves a minute by four workers more
    assert allot([nearly_done], 8, restart_ms=MINUTE_MS / 2) == {"a": 8}
    assert allot([nearly_done], 8, restart_ms=MINUTE_MS) == {"a": 4}


curves = st.builds(
    lambda steps, least: a_curve(
        len(steps),
        least=min(least, len(steps)),
        speedup=tuple(sum(steps[: many + 1]) for many in range(len(steps))),
    ),
    st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0]), min_size=1, max_size=9),
    st.integers(1, 9),
)
claims = st.lists(
    st.builds(
        lambda curve, size, left_ms, has, promised, turn: (
            curve,
            size,
            left_ms,
            curve.workers[has % len(curve.workers)] if has else 0,
            curve.workers[promised % len(curve.workers)] if promised else 0,
            turn,
        ),
        curves,
        st.sampled_from([0.5, 1.0, 2.0]),
        st.floats(1, 1e9),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 2),
    ),
    max_size=9,
).map(
    lambda rows: [
        Claim(id=str(at), curve=c, size=z, left_ms=left, has=h, promised=p, turn=turn)
        for at, (c, z, left, h, p, turn) in enumerate(rows)
    ]
)


@given(claims, st.integers(0, 40), st.sampled_from([0.0, 1e3, 1e6]))
def test_shares_stay_within_the_room_and_between_least_and_most(claims, gpus, restart_ms):
    having = allot(claims, gpus, restart_ms=restart_ms)
    by_id = {claim.id: claim for claim in claims}
    assert sum(many * by_id[id].size for id, many in having.items()) <= gpus + 1e-6
    for id, many in having.items():
        assert by_id[id].curve.workers[0] <= many <= by_id[id].curve.workers[-1]


@given(claims, st.integers(0, 40))
def test_promises_that_fit_together_are_all_kept(claims, gpus):
    if sum(claim.promised * claim.size for claim in claims) <= gpus:
        having = allot(claims, gpus)
        assert all(having.get(claim.id, 0) >= claim.promised for claim in claims)


@given(claims, st.integers(0, 40))
def test_nobody_stands_still_while_another_of_the_same_turn_could_shrink_for_it(claims, gpus):
    claims = [Claim(id=c.id, curve=c.curve, size=c.size, left_ms=c.left_ms) for c in claims]
    having = allot(claims, gpus)
    spare = gpus - sum(having.get(c.id, 0) * c.size for c in claims)
    spare += sum((having[c.id] - c.curve.workers[0]) * c.size for c in claims if c.id in having)
    for claim in claims:
        if claim.id not in having:
            assert claim.curve.workers[0] * claim.size > spare


def test_a_thousand_gangs_are_served_at_once():
    curve = a_curve(16, speedup=tuple(many**0.8 for many in range(1, 17)))
    claims = [
        a_claim(str(at), curve=curve, left_ms=MINUTE_MS * (1 + at % 97)) for at in range(1_000)
    ]
    began = time.process_time()
    having = allot(claims, 4_000)
    assert time.process_time() - began < 0.5  # some 0.02 s on a quiet machine
    assert sum(having.values()) == 4_000
