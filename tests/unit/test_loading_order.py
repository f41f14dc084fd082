"""Which sample comes when: every epoch a permutation, every rank its own part of it."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.data.loader.order import Order, Share, steps


def sequence(samples: int, seed: int = 0, epoch: int = 0) -> list[int]:
    return Order(samples, seed, epoch, shuffle=True).at(np.arange(samples)).tolist()


@given(st.integers(1, 3_000), st.integers(0, 2**64 - 1), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_an_epoch_reads_every_sample_once(samples, seed, epoch):
    assert sorted(sequence(samples, seed, epoch)) == list(range(samples))


def test_the_order_is_the_same_in_every_version():
    """A run that is resumed after an upgrade must find the order that it began with."""
    assert sequence(10, seed=7, epoch=3) == [6, 3, 8, 2, 9, 1, 7, 5, 4, 0]


def test_without_shuffling_samples_come_as_they_are():
    assert Order(5, 7, 3, shuffle=False).at(np.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_another_seed_or_epoch_is_another_order():
    orders = {tuple(sequence(1_000, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_all_orders_of_a_few_samples_are_about_equally_frequent():
    counts = Counter(tuple(sequence(4, seed)) for seed in range(24 * 100))
    assert len(counts) == math.factorial(4)
    assert chi_square(list(counts.values())) < 60  # 23 degrees of freedom: 1 in 30,000


def test_every_sample_is_about_equally_frequent_in_every_place():
    places = np.zeros((50, 50), np.int64)
    for seed in range(5_000):
        places[np.arange(50), sequence(50, seed)] += 1
    assert chi_square(places.ravel().tolist()) < 2_750  # 2,401 degrees of freedom, five sigma


def test_neighbours_are_as_far_apart_as_chance_would_have_them():
    order = np.array(sequence(100_000))
    assert abs(np.abs(np.diff(order)).mean() / 100_000 - 1 / 3) < 0.01


def test_a_hundred_billion_samples_take_no_memory():
    order = Order(10**11, 0, 0, shuffle=True)
    found = order.at(np.arange(10**11 - 1_000, 10**11))
    assert len({*found.tolist()}) == 1_000 and found.min() >= 0 and found.max() < 10**11


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


@given(
    samples=st.integers(0, 200),
    batch_size=st.integers(1, 17),
    world_size=st.integers(1, 9),
    drop_last=st.booleans(),
    start=st.integers(0, 210),
)
@settings(deadline=None)
def test_ranks_read_disjoint_parts_that_together_are_the_sequence(
    samples, batch_size, world_size, drop_last, start
):
    order = Order(samples, 3, 1, shuffle=False)
    shares = [
        Share(batch_size * world_size, drop_last, rank, world_size) for rank in range(world_size)
    ]
    ranks = [list(steps(order, share, start)) for share in shares]
    assert [len(rank) for rank in ranks] == [share.batches(samples, start) for share in shares]
    left = max(0, samples - start)
    read = left - left % (batch_size * world_size) if drop_last else left
    found = [sample for rank in ranks for step in rank for sample in step.samples.tolist()]
    assert sorted(found) == list(range(start, start + read))
    # Each step is a stretch of the global sequence, dealt out one by one.
    for rank, mine in enumerate(ranks):
        position = start
        for step in mine:
            end = min(position + batch_size * world_size, samples)
            assert (step.position, step.end) == (position, end)
            assert step.samples.tolist() == list(range(position + rank, end, world_size))
            position = end


@pytest.mark.parametrize(
    ("samples", "drop_last", "sizes"),
    [
        (16, False, [[4, 4], [4, 4]]),
        (19, True, [[4, 4], [4, 4]]),
        (19, False, [[4, 4, 2], [4, 4, 1]]),
        (17, False, [[4, 4, 1], [4, 4]]),
    ],
)
def test_the_rest_is_dropped_or_dealt_out(samples, drop_last, sizes):
    order = Order(samples, 0, 0, shuffle=True)
    found = [
        [len(step.samples) for step in steps(order, Share(8, drop_last, rank, 2), 0)]
        for rank in range(2)
    ]
    assert found == sizes
