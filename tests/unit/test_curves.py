"""Curves: packed, joined and reduced."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.curves import Points, from_columns, lttb, minmax, pack, unpack, visible
from leptonai.core.points import CHUNK_POINTS, merges
from leptonai.errors import Internal

numbers = st.one_of(st.floats(), st.floats(width=32), st.integers(-5, 5).map(float))
steps = st.integers(-(1 << 53) + 1, (1 << 53) - 1)


def points(steps, values=None, times=None):
    steps = np.array(steps, np.int64)
    values = np.zeros(len(steps)) if values is None else np.array(values, np.float64)
    times = 7 * np.arange(len(steps)) if times is None else np.array(times, np.int64)
    return Points(steps, values, times)


def wave(count):
    x = np.arange(count)
    return points(x, np.sin(x / 50) + np.where(x % 997 == 0, 5.0, 0.0))


@settings(deadline=None)
@given(st.lists(st.tuples(steps, numbers, steps), min_size=1, max_size=50))
def test_what_is_unpacked_is_what_was_packed(some):
    s, v, t = zip(*some, strict=True)
    before = points(s, v, t)
    after = unpack(pack(before))
    assert after.steps.tolist() == before.steps.tolist()
    assert after.times.tolist() == before.times.tolist()
    assert after.values.tobytes() == before.values.tobytes() or np.array_equal(
        after.values, before.values, equal_nan=True
    )


def test_a_steady_curve_takes_few_bytes():
    values = np.random.default_rng(1).random(10_000, dtype=np.float32)
    assert len(pack(points(range(10_000), values))) < 5 * 10_000


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_damage_is_told(raw):
    try:
        assert len(unpack(raw)) >= 0
    except Internal as damaged:
        assert "damaged" in damaged.message


def test_a_cut_chunk_is_damage():
    packed = pack(wave(100))
    for cut in range(len(packed) - 1):
        with pytest.raises(Internal):
            unpack(packed[:cut])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), numbers), min_size=1))
def test_of_one_step_the_last_counts(some):
    s, v = (np.array(column) for column in zip(*some, strict=True))
    found = visible([(0, 1, None, from_columns(*(c.tobytes() for c in (s, v, s))))])
    assert repr(dict(zip(found.steps.tolist(), found.values.tolist(), strict=True))) == repr(
        dict(sorted(dict(some).items()))
    )


@pytest.mark.parametrize("reduce", [minmax, lttb])
@settings(deadline=None)
@given(count=st.integers(0, 400), most=st.integers(2, 60))
def test_a_reduced_curve_is_a_part_of_it_with_both_its_ends(reduce, count, most):
    whole = wave(count)
    few = reduce(whole, most)
    assert len(few) <= most
    assert set(few.steps.tolist()) <= set(whole.steps.tolist())
    assert np.all(np.diff(few.steps) > 0)
    if count:
        assert (few.steps[0], few.steps[-1]) == (0, count - 1)
    if count <= most:
        assert len(few) == count


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=500), st.integers(4, 60))
def test_minmax_loses_no_peak(values, most):
    few = minmax(points(range(len(values)), values), most)
    known = [value for value in values if value == value]
    seen = [value for value in few.values.tolist() if value == value]
    assert bool(known) == bool(seen)
    if known:
        assert (min(seen), max(seen)) == (min(known), max(known))


def test_lttb_keeps_the_spikes_of_a_wave():
    few = lttb(wave(10_000), 200)
    assert sum(1 for value in few.values if value > 3) >= 8


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=400))
def test_merging_keeps_chunks_few_and_rewrites_a_point_seldom(arrivals):
    chunks, rewritten = [], 0
    for new in arrivals:
        merged = merges(chunks, new)
        rewritten += sum(chunks[len(chunks) - merged :])
        chunks[len(chunks) - merged :] = [new + sum(chunks[len(chunks) - merged :])]
    total = sum(arrivals)
    assert sum(chunks) == total
    assert len(chunks) <= math.log2(total) + total / (CHUNK_POINTS / 2) + 2
    assert rewritten <= total * (math.log2(total) + 1)
