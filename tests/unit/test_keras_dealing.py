"""Which samples each worker takes: together exactly those that one worker alone would take."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leptonai.training.keras.dealing import Dealing, part_of, steps_of, taken

dealt = st.fixed_dictionaries(
    {
        "size": st.integers(1, 60),
        "batch_size": st.integers(1, 20),
        "steps": st.integers(1, 12),
        "seed": st.none() | st.integers(0, 5),
    }
)


@given(dealt, st.integers(1, 7), st.integers(0, 3), st.data())
def test_the_workers_of_a_step_share_out_the_batch_of_one(how, workers, epoch, data):
    step = data.draw(st.integers(0, how["steps"] - 1))
    alone = Dealing(**how).hand(epoch, step)
    hands = [
        Dealing(**how, rank=rank, workers=workers).hand(epoch, step) for rank in range(workers)
    ]
    counting = [hand for hand in hands if hand.share]
    assert np.concatenate([hand.samples for hand in counting]).tolist() == alone.samples.tolist()
    assert sum(hand.share for hand in hands) == 1 or abs(sum(h.share for h in hands) - 1) < 1e-9
    assert all(hand.share == len(hand.samples) / len(alone.samples) for hand in counting)
    assert all(len(hand.samples) == 1 for hand in hands if not hand.share)


@given(dealt, st.integers(0, 3))
def test_a_pass_over_the_data_takes_every_sample_once(how, number):
    how |= {"steps": steps_of(how["size"], how["batch_size"])}
    dealing = Dealing(**how)
    seen = [dealing.hand(number, step).samples for step in range(how["steps"])]
    assert sorted(np.concatenate(seen).tolist()) == [*range(how["size"])]


def test_epochs_that_are_shorter_than_the_data_go_on_where_the_one_before_ended():
    whole = Dealing(size=10, batch_size=2, steps=5, seed=1)
    short = Dealing(size=10, batch_size=2, steps=2, seed=1)
    assert [short.hand(epoch, step).samples.tolist() for epoch in (0, 1) for step in (0, 1)] == [
        whole.hand(0, step).samples.tolist() for step in range(4)
    ]
    assert short.hand(3, 0).samples.tolist() == whole.hand(1, 1).samples.tolist()


def test_each_pass_has_an_order_of_its_own_and_without_a_seed_that_of_the_data():
    shuffled = Dealing(size=50, batch_size=50, steps=1, seed=1)
    first, second = (shuffled.hand(epoch, 0).samples.tolist() for epoch in (0, 1))
    assert first != second
    assert first == Dealing(size=50, batch_size=50, steps=1, seed=1).hand(0, 0).samples.tolist()
    plain = Dealing(size=50, batch_size=50, steps=1)
    assert plain.hand(3, 0).samples.tolist() == [*range(50)]


@given(st.integers(0, 40), st.integers(1, 9))
def test_what_is_gone_through_once_is_cut_into_stretches(size, workers):
    parts = [part_of(size, rank, workers) for rank in range(workers)]
    assert [at for part in parts for at in range(part.start, part.stop)] == [*range(size)]


def test_samples_are_taken_of_all_arrays_however_they_are_nested():
    nest = ({"a": np.arange(4), "b": [np.arange(4, 8), None]},)
    found = taken(nest, np.array([2, 0]))
    assert (found[0]["a"].tolist(), found[0]["b"][0].tolist(), found[0]["b"][1]) == (
        *([2, 0], [6, 4]),
        None,
    )
    assert taken(nest, slice(1, 3))[0]["a"].tolist() == [1, 2]
    assert taken(nest, np.array([1, 2]))[0]["a"].tolist() == [1, 2]
