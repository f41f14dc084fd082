"""The checks themselves, on values: near pairs, copies, drift, columns, boxes, times, classes."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.data.manifest import Field
from leptonai.data.quality import near
from leptonai.data.quality.boxes import box_checks
from leptonai.data.quality.classes import balance
from leptonai.data.quality.columns import Counts, Fence, column_checks, fence_of, schema_checks
from leptonai.data.quality.copies import (
    Samples,
    duplicates,
    label_conflicts,
    leakage,
    near_duplicates,
    near_leakage,
)
from leptonai.data.quality.drift import Profile, binned, drift, js_distance, ks, psi, psi_by_chance
from leptonai.data.quality.report import Example, Skipped
from leptonai.data.quality.texts import near_texts, signature
from leptonai.data.quality.times import time_checks

SECOND_US = 1_000_000


def samples(content, labels=None, splits=None):
    names = ("train", "test", "")
    return Samples(
        np.array(content, np.uint64),
        lambda at: f"#{at}",
        None if labels is None else np.array(labels),
        ("cat", "dog"),
        None if splits is None else np.array([names.index(each) for each in splits], np.uint8),
        () if splits is None else names,
    )


def numbers(found):
    return {(each.gate, each.where): each.number for each in found}


# --- near pairs ----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.sets(st.integers(0, 63), max_size=6)), max_size=20),
)
def test_every_pair_of_hashes_that_is_near_is_found_and_no_other(drawn, changed):
    for at, bits in changed:
        drawn.append(drawn[at % len(drawn)] ^ sum(1 << bit for bit in bits))
    hashes = np.array(drawn, np.uint64)
    pairs, complete = near.near_pairs(
        near.hamming_keys(hashes, 4), lambda a, b: near.bits_between(hashes[a], hashes[b]) <= 4
    )
    expected = [
        [a, b]
        for a, b in combinations(range(len(drawn)), 2)
        if (drawn[a] ^ drawn[b]).bit_count() <= 4
    ]
    assert complete and pairs.tolist() == expected


def test_many_things_alike_cost_no_more_than_their_neighbours_and_it_says_so():
    compared = []

    def same(one, other):
        compared.append(len(one))
        return np.zeros(len(one), bool)

    pairs, complete = near.near_pairs([np.zeros(10_000, np.uint64)], same)
    assert (pairs.shape, complete) == ((0, 2), False)
    assert sum(compared) <= 10_000 * near.MAX_NEIGHBOURS


def test_texts_are_near_whatever_their_case_and_spaces_and_for_a_word_at_their_end():
    words = [f"{n * n * 2_654_435_761 % 1_000_003:x}" for n in range(80)]
    other = [f"{n * n * n * 40_503 % 999_983:x}" for n in range(80)]
    texts = [" ".join(words), " ".join(words).upper() + "  !", " ".join(other), "", "", "a"]
    signed = np.array([signature(text) for text in texts])
    pairs, complete = near_texts(signed, np.array([1, 2, 3, 4, 4, 5], np.uint64))
    assert (pairs.tolist(), complete) == ([[0, 1]], True)


@given(st.text(max_size=200), st.text(max_size=200))
def test_signatures_depend_on_the_text_alone(one, other):
    assert signature(one).shape == (64,)
    assert (signature(one) == signature(one)).all()
    if one.casefold().split() == other.casefold().split():
        assert (signature(one) == signature(other)).all()


# --- copies --------------------------------------------------------------------------------------


def test_copies_have_equal_contents_and_labels_and_with_another_label_they_are_conflicts():
    given = samples([7, 8, 7, 7, 9], labels=[0, 0, 0, 1, 1])
    (copy,), (conflict,) = duplicates(given), label_conflicts(given)
    assert (copy.number, copy.examples) == (0.2, (Example("#2", "as #0"),))
    assert conflict.number == 0.6
    assert conflict.examples == (Example("#3", "dog, but #0 is cat"),)


def test_leaks_are_counted_in_the_later_split():
    given = samples([1, 2, 3, 1, 9, 1], splits=["train", "train", "train", "test", "test", ""])
    (leak,) = leakage(given)
    assert (leak.where, leak.number, leak.examples) == ("test", 0.5, (Example("#3", "as #0"),))


def test_near_ones_leak_too_and_whole_groups_with_them():
    given = samples([1, 2, 3, 4, 4], splits=["train", "train", "test", "test", "test"])
    pairs = np.array([[1, 3]])
    (near_one,), (leak,) = near_duplicates(given, pairs, "look like"), near_leakage(given, pairs)
    assert (near_one.number, near_one.examples) == (0.2, (Example("#3", "as #1"),))
    assert (leak.number, leak.examples) == (
        2 / 3, (Example("#3", "as #1"), Example("#4", "as #1")),
    )  # fmt: skip


def test_without_splits_nothing_leaks_and_the_reason_is_said():
    assert leakage(samples([1, 1])) == [Skipped("leakage", "the data has no splits")]
    one = samples([1, 1], splits=["test", "test"])
    assert leakage(one) == [Skipped("leakage", "all samples are in test")]
    assert label_conflicts(samples([1])) == [Skipped("label-conflicts", "there are no labels")]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.sampled_from(["train", "test"])))
)
def test_copies_are_as_many_as_counting_them_one_by_one_says(rows):
    if not rows:
        return
    content, labels, splits = map(list, zip(*rows, strict=True))
    given = samples(content, labels, splits)
    distinct = len({row[:2] for row in rows})
    assert duplicates(given)[0].number == pytest.approx(1 - distinct / len(rows))
    taught = {c for c, _, split in rows if split == "train"}
    tested = [c for c, _, split in rows if split == "test"]
    if taught and tested:
        leaked = sum(c in taught for c in tested) / len(tested)
        assert numbers(leakage(given)) == {("leakage", "test"): pytest.approx(leaked)}


# --- drift ---------------------------------------------------------------------------------------


def test_distances_are_those_of_the_textbooks():
    assert psi([50, 50], [50, 50]) == 0
    assert psi([5e8, 5e8], [4e8, 6e8]) == pytest.approx(0.1 * np.log(6 / 4), rel=1e-6)
    assert ks(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 0
    assert ks(np.array([1.0, 2]), np.array([3.0, 4])) == 1
    assert js_distance([1, 0], [0, 1]) == pytest.approx(1)
    assert js_distance([1, 3], [2, 6]) == pytest.approx(0, abs=1e-7)


def test_ks_and_the_chance_of_psi_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=300), rng.normal(0.3, size=200)
    assert ks(one, other) == pytest.approx(stats.ks_2samp(one, other).statistic)
    expected = stats.chi2.ppf(0.999, 9) * (1 / 300 + 1 / 200)
    assert psi_by_chance(10, 300, 200) == pytest.approx(expected, rel=0.01)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
)
def test_every_value_is_in_one_bin(before, now):
    edges, was, come = binned(np.array(before), np.array(now))
    assert (was.sum(), come.sum(), len(edges)) == (len(before), len(now), len(was) + 1)
    assert edges == sorted(edges)


def drifted(before, now):
    found, drawn = drift(before, now)
    return numbers(found), [each.name for each in drawn]


def test_a_constant_that_moves_has_drifted_whichever_way():
    flat = Profile({"x": np.full(1000, 5.0)}, rows=1000)
    for value in (4.0, 6.0):
        found, _ = drifted(flat, Profile({"x": np.full(1000, value)}, rows=1000))
        assert found["drift", "x"] > 5
    assert drifted(flat, flat)[0]["drift", "x"] == pytest.approx(0)


def test_values_that_go_missing_have_drifted():
    values = np.arange(1000.0)
    before = Profile({"x": values}, missing={"x": 0.0}, rows=1000)
    now = Profile({"x": values[::2]}, missing={"x": 0.5}, rows=1000)
    assert drifted(before, now)[0]["drift", "x"] > 0.25
    gone = Profile({"x": values[:0]}, missing={"x": 1.0}, rows=1000)
    assert drifted(before, gone)[0]["drift", "x"] > 0.25


def test_categories_that_are_new_are_named():
    before = Profile(counts={"city": {"a": 500, "b": 500}}, rows=1000)
    now = Profile(counts={"city": {"a": 500, "c": 500}}, rows=1000)
    (found,), _ = drift(before, now)
    assert found.what.endswith("Jensen-Shannon distance 0.707, new: c, gone: b")


def test_small_samples_of_one_distribution_do_not_count_as_drift():
    rng = np.random.default_rng(1)
    alike = [
        drift(
            Profile({"x": rng.normal(size=80)}, rows=80),
            Profile({"x": rng.normal(size=80)}, rows=80),
        )[0][0]
        for _ in range(100)
    ]
    assert sum(each.number > 0.25 for each in alike) > 0  # the usual rule would say so
    assert sum(each.number > max(0.25, each.chance) for each in alike) == 0


def test_without_a_column_in_common_there_is_nothing_to_compare():
    assert drift(Profile(), Profile()) == (
        [Skipped("drift", "the two have no column in common")],
        [],
    )


# --- columns, classes, boxes, times --------------------------------------------------------------


def test_a_column_is_asked_what_its_type_can_have():
    counts = {"x": Counts(10, missing=2, infinite=1), "t": Counts(10, lost=5), "gone": Counts(4, 4)}
    found = column_checks(counts, {"x": "number", "t": "text", "gone": "integer"})
    assert numbers(found) == {
        ("missing", "x"): 0.2, ("types", "x"): 0, ("infinite", "x"): 0.1,
        ("missing", "t"): 0, ("types", "t"): 0, ("encoding", "t"): 0.5,
        ("missing", "gone"): 1, ("types", "gone"): 0,
    }  # fmt: skip
    hint = next(each.hint for each in found if (each.gate, each.where) == ("missing", "gone"))
    assert hint == "drop the column: it holds nothing"


def test_far_out_is_three_quartile_ranges_away_or_many_deviations_where_most_are_one_value():
    assert fence_of(np.array([0.0, 1, 2, 3, 4])) == Fence(-5, 9)
    assert fence_of(np.array([7.0] * 9)) is None
    assert fence_of(np.array([1.0, 2, 3])) is None
    fence = fence_of(np.array([0.0] * 99 + [100.0]))
    assert fence is not None and fence.high < 100


def test_what_differs_of_a_schema_is_told_one_by_one():
    was = (Field("a", "integer"), Field("b", "text"), Field("c", "number"))
    now = (Field("c", "number"), Field("a", "text"), Field("d", "text"))
    found = schema_checks(was, now, ("cat", "dog"), ("cat", "cow"))
    assert [each.what for each in found] == [
        "b has gone: it was text", "d is new: text", "a is text, and was integer",
        "the class cow is new", "the class dog has gone", "the columns come in another order",
    ]  # fmt: skip
    assert {each.number for each in found} == {6}
    assert [each.number for each in schema_checks(was, was)] == [0]


def test_one_class_alone_is_as_unbalanced_as_can_be():
    found = balance({"cat": 40})
    assert numbers(found) == {("few-samples", "cat"): 40, ("balance", "cat"): 40}
    assert "there is nothing to tell" in found[-1].what
    assert numbers(balance({"cat": 40, "dog": 0}))["balance", "dog"] == 40
    assert numbers(balance({"cat": 40, "dog": 10}))["balance", "dog"] == 4
    assert [type(each) for each in balance({})] == [Skipped, Skipped]


def test_boxes_are_empty_outside_or_no_numbers():
    boxes = np.array(
        [[0, 0, 10, 10], [5, 5, 0, 3], [95, 0, 10, 5], [-3, 0, 5, 5], [99.5, 0, 1, 1],
         [np.nan, 0, 1, 1], [50, 50, 9, 9]], np.float32,
    )  # fmt: skip
    sizes = np.array([[100, 100], [0, 0]])
    sample_of = np.array([0, 0, 0, 0, 0, 0, 1])  # the size of the second image is not known
    empty, outside, strange = box_checks(boxes, sample_of, sizes, lambda at: f"#{at}")
    assert (empty.number, outside.number, strange.number) == (1 / 7, 2 / 7, 1 / 7)
    assert outside.examples[0] == Example("#0", "[95, 0, 10, 5] of 100x100")


def times(*seconds, series=None):
    found = time_checks(
        np.array(seconds, np.int64) * SECOND_US,
        np.array(series or [0] * len(seconds), np.uint64),
        np.arange(len(seconds)),
        lambda row: f"#{row}",
    )
    return [(each.gate, getattr(each, "number", None)) for each in found], found


def test_times_in_order_at_even_steps_are_fine():
    assert times(0, 60, 120, 180)[0] == [("timestamps", 0), ("timestamps", 0), ("gaps", 0)]


def test_times_out_of_order_twice_and_far_apart_are_told_with_their_rows():
    told, found = times(0, 60, 180, 120, 240, 240, 600, 660, 720)
    assert told == [("timestamps", 1 / 9), ("timestamps", 1 / 9), ("gaps", 1 / 7)]
    assert [each.examples[0] for each in found] == [
        Example("#3", "1970-01-01T00:02:00"),
        Example("#5", "1970-01-01T00:04:00"),
        Example("#6", "6min before 1970-01-01T00:10:00"),
    ]


def test_series_side_by_side_do_not_disturb_each_other():
    told, _ = times(0, 0, 60, 60, 120, 120, series=[1, 2, 1, 2, 1, 2])
    assert told == [("timestamps", 0), ("timestamps", 0), ("gaps", 0)]


def test_months_are_even_and_less_than_two_times_are_no_series():
    days = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31]) * 86_400
    assert times(*days.tolist())[0][-1] == ("gaps", 0)
    assert times(5)[0] == [("timestamps", None), ("gaps", None)]
