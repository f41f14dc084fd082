"""Short gangs first, except those that the end waits for."""

from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.scheduler.draining import CRITICAL, critical_from, drain_rank

works = st.lists(
    st.tuples(st.integers(1, 10_000), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=20
)


def order(gangs, gpus):
    critical = critical_from(gangs.values(), gpus)
    return sorted(gangs, key=lambda name: drain_rank(*gangs[name], critical))


def test_the_longest_goes_first_where_it_is_what_the_end_waits_for():
    gangs = {"short": (10, 1), "long": (100, 1), "middling": (50, 1)}
    assert order(gangs, gpus=2) == ["long", "short", "middling"]


def test_the_shortest_goes_first_where_there_is_work_enough_for_all_to_the_end():
    gangs = {f"{left}": (left, 1) for left in (60, 50, 40, 30, 20)}
    assert order(gangs, gpus=1) == ["20", "30", "40", "50", "60"]


def test_a_gang_that_waits_becomes_critical_as_the_others_work_is_done():
    many = {"long": (60, 1), **{f"short-{number}": (20, 1) for number in range(8)}}
    assert order(many, gpus=2)[-1] == "long"
    fewer = {name: many[name] for name in ("long", "short-0", "short-1", "short-2")}
    assert order(fewer, gpus=2)[0] == "long"


def test_a_wide_critical_gang_goes_before_a_narrow_one():
    assert order({"narrow": (100, 1), "wide": (90, 4)}, gpus=8) == ["wide", "narrow"]


@given(works, st.integers(8, 64))
def test_only_what_needs_nearly_as_long_as_everything_is_critical(work, gpus):
    critical = critical_from(work, gpus)
    bound = max(max(left for left, _ in work), sum(left * width for left, width in work) / gpus)
    assert critical == CRITICAL * bound


@given(works, st.integers(8, 64))
def test_critical_gangs_come_before_all_others_and_the_others_shortest_first(work, gpus):
    critical = critical_from(work, gpus)
    ranked = sorted(work, key=lambda gang: drain_rank(*gang, critical))
    urgent = [gang for gang in ranked if gang[0] >= critical]
    assert ranked[: len(urgent)] == urgent
    rest = [left for left, _ in ranked[len(urgent) :]]
    assert rest == sorted(rest)
