"""A run that is killed and resumed reads on where it was, whatever works for it; and what works for
it holds no more than a few batches, and ends when it does."""

import json
import multiprocessing
import time
import weakref
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines_of_processes import fail_at_13, fail_unsendably

from leptonai.data import DataLoader
from leptonai.data.folder import LocalFolder
from leptonai.data.loader.batches import Made
from leptonai.data.loader.working import READY_BATCHES
from leptonai.errors import InvalidRequest

PATIENCE = 10_000  # milliseconds


def ids(batch: dict[str, Any]) -> list[int]:
    return batch["id"].tolist()


def a_loader(samples: int, batch_size: int = 4, **options: Any) -> DataLoader:
    return DataLoader({"id": np.arange(samples)}, batch_size, True, **options)


def sequence(samples: int, epoch: int) -> list[int]:
    """One rank's reading of all of an epoch."""
    loader = a_loader(samples)
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch})
    return [one for batch in loader for one in ids(batch)]


def dealt_back(parts: list[list[int]]) -> list[int]:
    """The global batch that was dealt out to the ranks one by one."""
    longest = range(max(map(len, parts)))
    return [part[row] for row in longest for part in parts if row < len(part)]


# --- resumed -------------------------------------------------------------------------------------

stretch = st.tuples(
    st.integers(1, 5),  # batch size
    st.integers(1, 4),  # ranks
    st.integers(0, 3),  # threads of each
    st.integers(0, 12),  # steps until it is killed
    st.integers(0, 3),  # whose state is kept
)


@given(st.integers(0, 40), st.lists(stretch, min_size=1, max_size=6))
@settings(deadline=None, max_examples=100)
def test_with_drop_last_every_epoch_is_a_beginning_of_its_sequence_less_than_a_step_short(
    samples, stretches
):
    """Whichever rank's state is kept: they go in lockstep, so all have the same."""
    read: dict[int, list[int]] = {0: []}
    step_at_end: dict[int, int] = {}
    state = None
    for batch_size, world_size, workers, killed_after, saver in stretches:
        ranks = [
            a_loader(
                samples,
                batch_size,
                drop_last=True,
                rank=rank,
                world_size=world_size,
                num_workers=workers,
            )
            for rank in range(world_size)
        ]
        for rank in ranks:
            if state:
                rank.load_state_dict(json.loads(state))
        running = [iter(rank) for rank in ranks]
        for _ in range(killed_after):
            parts = [next(each, None) for each in running]
            epoch = ranks[0].epoch
            if parts[0] is None:
                assert parts == [None] * world_size
                step_at_end[epoch - 1] = batch_size * world_size
                read.setdefault(epoch, [])
                running = [iter(rank) for rank in ranks]
            else:
                read[epoch] += dealt_back([ids(part) for part in parts])
        states = [json.dumps(rank.state_dict()) for rank in ranks]
        state = states[saver % world_size]
        assert states == [state] * world_size
        for each in running:
            each.close()
    for epoch, found in read.items():
        whole = sequence(samples, epoch)
        assert found == whole[: len(found)]
        if epoch in step_at_end:
            assert 0 <= len(whole) - len(found) < step_at_end[epoch]


@pytest.mark.parametrize(("before", "after"), [(0, 8), (1, 1), (5, 0)])
def test_the_last_batch_of_an_epoch_is_not_read_again(before, after):
    """Saved within the loop, at the last batch: what is left of the epoch is nothing."""
    first, second = (a_loader(10, 5, num_workers=workers) for workers in (before, after))
    running = iter(first)
    next(running), next(running)
    second.load_state_dict(first.state_dict())
    assert (second.epoch, [*second], second.epoch) == (0, [], 1)
    assert [one for batch in second for one in ids(batch)] == sequence(10, epoch=1)


def test_threads_read_on_what_processes_began_and_the_other_way_round():
    expected = sequence(18, epoch=0)
    others = {"processes": True, "num_workers": 1}
    for began, goes_on in (({"num_workers": 2}, others), (others, {"num_workers": 2})):
        first, second = a_loader(18, 4, **began), a_loader(18, 3, **goes_on)
        running = iter(first)
        read = [one for _ in range(3) for one in ids(next(running))]
        state = first.state_dict()
        running.close()
        second.load_state_dict(state)
        assert read + [one for batch in second for one in ids(batch)] == expected


# --- bounded -------------------------------------------------------------------------------------


class Counting:
    """Makes batches, and counts those that somebody still holds."""

    digest = None
    decodes = True

    def __init__(self, batches: int) -> None:
        self.batches, self.begun, self.held = batches, 0, 0

    def __len__(self) -> int:
        return self.batches

    def make(self, at_B: np.ndarray) -> Made:
        self.begun += 1
        self.held += 1
        made = np.array(at_B)
        weakref.finalize(made, self._let_go)
        return Made(made)

    def _let_go(self) -> None:
        self.held -= 1


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_more_batches_are_held_than_are_made_ahead_and_used(workers):
    """Whoever consumes them slowly: memory is bounded, in batches."""
    source = Counting(50)
    most_ahead = most_held = 0
    ready = workers + READY_BATCHES if workers else 0
    for used, _ in enumerate(DataLoader(source, 1, num_workers=workers), 1):
        for _ in range(PATIENCE):  # so slow that all that may be made has been made
            if source.begun >= min(used + ready - 1, 50):
                break
            time.sleep(0.001)
        most_ahead = max(most_ahead, source.begun - used)
        most_held = max(most_held, source.held)
    assert most_ahead == max(0, ready - 1)  # one takes its turn only when the next is asked for
    assert most_held <= ready + 1


# --- ended ---------------------------------------------------------------------------------------


def test_no_process_is_left_when_a_loop_is_left():
    for _batch in a_loader(1_000, 4, processes=True, num_workers=1):
        assert multiprocessing.active_children()
        break
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("options", [{}, {"processes": True}], ids=["threads", "processes"])
def test_what_a_worker_raises_arrives_once_and_after_it_there_is_nothing(options):
    loader = a_loader(40, 4, num_workers=1, pipeline=fail_at_13, **options)
    running = iter(loader)
    read = []
    with pytest.raises(KeyError, match="no such thing") as failure:
        for batch in running:
            read += ids(batch)
    assert read == sequence(40, 0)[: len(read)] and 13 in sequence(40, 0)[len(read) :][:4]
    assert len(failure.value.__notes__) == 1 and "13" in failure.value.__notes__[0]
    assert list(running) == []
    assert loader.state_dict()["position"] == len(read)  # resumed, it comes to the same batch


@pytest.mark.parametrize("options", [{}, {"processes": True}], ids=["threads", "processes"])
def test_a_damaged_image_is_named_wherever_it_is_decoded(tmp_path, options):
    whole = simplejpeg.encode_jpeg(np.zeros((20, 20, 3), np.uint8))
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(whole)
    (tmp_path / "c.jpg").write_bytes(whole[:300])
    running = iter(DataLoader(LocalFolder(tmp_path), 1, num_workers=1, **options))
    assert [len(next(running)), len(next(running))] == [1, 1]
    with pytest.raises(InvalidRequest, match=r"^sample 2 \(c\.jpg\) is not an image") as failure:
        next(running)
    assert failure.value.hint == 'take it out, or load with on_corrupt="skip"'


def test_an_exception_that_does_not_survive_the_way_is_told_in_words():
    loader = a_loader(8, 4, num_workers=1, processes=True, pipeline=fail_unsendably)
    with pytest.raises(RuntimeError, match=r"Unsendable: 1 is not 2\nwhile the pipeline worked on"):
        list(loader)
