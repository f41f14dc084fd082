"""Batches: in one order whatever makes them, resumed at any sample, and no thread left behind."""

import io
import os
import signal
import threading
import time

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pipelines_of_processes import Noisy, end_of_the_process, plus_pid

from leptonai.data import DataLoader, decoding
from leptonai.data.dataset import Dataset
from leptonai.data.folder import LocalFolder
from leptonai.errors import InvalidRequest, Unavailable


def ids(batches) -> list[int]:
    return [int(one) for batch in batches for one in batch["id"]]


def numbers(samples: int) -> dict[str, np.ndarray]:
    return {"id": np.arange(samples)}


def loader_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "leptonai-loader" in each.name]


# --- order and resuming --------------------------------------------------------------------------


def test_each_epoch_reads_everything_in_another_order():
    loader = DataLoader(numbers(10), batch_size=4, shuffle=True)
    epochs = [ids(loader) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs == [ids(again) for again in [DataLoader(numbers(10), 4, True)] for _ in range(3)]


def test_an_iteration_that_was_left_is_followed_by_the_next_epoch():
    loader, uninterrupted = (DataLoader(numbers(10), 4, True) for _ in range(2))
    next(iter(loader))
    first, second = ids(uninterrupted), ids(uninterrupted)
    assert first != second and ids(loader) == second


stretch = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(0, 9))


@given(
    samples=st.integers(1, 60),
    seed=st.integers(0, 2**64 - 1),
    stretches=st.lists(stretch, min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=150)
def test_a_run_that_is_killed_and_resumed_reads_what_an_uninterrupted_one_reads(
    samples, seed, stretches
):
    """Wherever it is killed, and with other batch sizes, workers and ranks each time."""
    uninterrupted = DataLoader(numbers(samples), shuffle=True, seed=seed)
    expected = ids(uninterrupted) + ids(uninterrupted)
    state, read = None, []

    def ranks(batch_size, world_size, workers):
        for rank in range(world_size):
            loader = DataLoader(
                numbers(samples),
                batch_size,
                True,
                seed=seed,
                num_workers=workers,
                rank=rank,
                world_size=world_size,
            )
            if state:
                loader.load_state_dict(state)
            yield loader

    def interleaved(steps):
        """A step's global batch was dealt out one by one."""
        for parts in steps:
            columns = [part["id"].tolist() if part else [] for part in parts]
            for row in range(len(columns[0])):
                read.extend(column[row] for column in columns if row < len(column))

    for batch_size, world_size, workers, killed_after in stretches:
        loaders = list(ranks(batch_size, world_size, workers))
        running = [iter(loader) for loader in loaders]
        for _ in range(killed_after):
            if not (parts := [next(each, None) for each in running])[0]:
                break
            interleaved([parts])
        state = loaders[0].state_dict()  # what was made ahead and not handed out does not count
        for each in running:
            each.close()
    last = DataLoader(numbers(samples), batch_size=3, shuffle=True, num_workers=2)
    last.load_state_dict(state)
    while last.epoch < 2:
        read += ids(last)
    assert read[: len(expected)] == expected


def test_the_state_says_where_the_last_batch_ended_not_what_was_made_ahead():
    loader = DataLoader(numbers(100), 10, num_workers=3, rank=1, world_size=2, seed=5)
    running = iter(loader)
    next(running), next(running)
    assert loader.state_dict() == {
        "version": 1,
        "seed": 5,
        "shuffle": False,
        "epoch": 0,
        "position": 40,
        "samples": 100,
        "digest": None,
    }
    list(running)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 9}, "the state is one of other data"),
        ({"position": 11}, "position is a number from 0 to 10, not 11"),
        ({"version": 2}, "a DataLoader's state of version 2; this reads 1"),
        ({"epoch": "x"}, "not the state of a DataLoader"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message):
    loader = DataLoader(numbers(10))
    with pytest.raises(InvalidRequest, match=message):
        loader.load_state_dict(loader.state_dict() | change)


def test_augmentation_draws_the_same_in_a_resumed_run():
    def noisy(batch, rng):
        return batch | {"noise": rng.integers(0, 10**9, len(batch["id"]))}

    def loader(workers):
        return DataLoader(numbers(30), 4, True, num_workers=workers, pipeline=noisy)

    whole = [batch["noise"].tolist() for batch in loader(0)]
    first, second = loader(3), loader(2)
    begun = iter(first)
    read = [next(begun)["noise"].tolist() for _ in range(3)]
    second.load_state_dict(first.state_dict())
    assert read + [batch["noise"].tolist() for batch in second] == whole


def noise(batches) -> dict[int, float]:
    """What was drawn for each sample."""
    return {
        int(sample): float(drawn)
        for batch in batches
        for sample, drawn in zip(batch["id"], batch["noise"], strict=True)
    }


@given(
    batch_size=st.integers(1, 12),
    world_size=st.integers(1, 5),
    workers=st.integers(0, 3),
    killed_after=st.integers(0, 4),
    epoch=st.integers(0, 1),
)
@settings(deadline=None, max_examples=30)
def test_what_chance_gives_a_sample_depends_on_seed_epoch_and_sample_alone(
    batch_size, world_size, workers, killed_after, epoch
):
    """Whatever the batches, workers and ranks, and wherever a run is resumed."""
    simplest = DataLoader(numbers(25), 1, True, seed=3, num_workers=0, pipeline=Noisy())
    expected = [noise(simplest) for _ in range(epoch + 1)][-1]
    drawn = {}
    for rank in range(world_size):
        first, second = (
            DataLoader(
                numbers(25),
                batch_size,
                True,
                seed=3,
                num_workers=workers,
                rank=rank,
                world_size=world_size,
                pipeline=Noisy(),
            )
            for _ in range(2)
        )
        for _ in range(epoch):
            list(first)
        running = iter(first)
        drawn |= noise(batch for _, batch in zip(range(killed_after), running, strict=False))
        second.load_state_dict(first.state_dict())
        if second.epoch == epoch:
            drawn |= noise(second)
    assert drawn == expected and len(set(expected.values())) == 25


def test_chance_gives_the_same_in_processes():
    here, there = (
        noise(DataLoader(numbers(20), 6, True, seed=3, pipeline=Noisy(), **where))
        for where in ({}, {"num_workers": 2, "processes": True})
    )
    assert here == there


def test_other_seeds_and_epochs_give_other_chances():
    loader = DataLoader(numbers(9), 4, True, seed=1, pipeline=Noisy())
    other = DataLoader(numbers(9), 4, True, seed=2, pipeline=Noisy())
    assert len({value for each in (loader, loader, other) for value in noise(each).values()}) == 27


@pytest.mark.parametrize(
    ("arguments", "augments"),
    [
        ({"shuffle": True}, True),
        ({"shuffle": False}, False),
        ({"shuffle": True, "augment": False}, False),
        ({"shuffle": False, "augment": True}, True),
    ],
)
def test_what_is_read_in_order_is_not_augmented_unless_asked_for(arguments, augments):
    drawn = noise(DataLoader(numbers(9), 4, pipeline=Noisy(), **arguments))
    assert all((value > 0) == augments for value in drawn.values())


def test_a_function_may_take_chance_too():
    def noisy(batch, *, chance):
        return batch | {"noise": chance.uniform(1, 2)[:, 0]}

    function, thing = (
        noise(DataLoader(numbers(9), 4, True, pipeline=each)) for each in (noisy, Noisy())
    )
    assert function == thing


# --- workers -------------------------------------------------------------------------------------


class Slow:
    """Samples that take unequal time; counts how many were begun."""

    def __init__(self, samples: int) -> None:
        self.samples, self.begun = samples, 0

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> dict[str, int]:
        self.begun += 1
        time.sleep(0.002 * (number % 3 == 0))
        return {"id": number}


def test_batches_come_in_order_whatever_the_threads_do():
    assert ids(DataLoader(Slow(60), 2, num_workers=4)) == list(range(60))


def test_a_consumer_that_stops_stops_the_making_of_batches():
    slow = Slow(1_000)
    running = iter(DataLoader(slow, 1, num_workers=2))
    next(running)
    time.sleep(0.05)
    assert slow.begun <= 1 + 2 + 2  # handed out, being made, ready
    running.close()


def test_no_thread_is_left_when_a_loop_is_left():
    for number, _ in enumerate(DataLoader(Slow(1_000), 4, num_workers=3)):
        if number == 2:
            break
    assert loader_threads() == []


class Failing(Slow):
    def __getitem__(self, number: int) -> dict[str, int]:
        if number == 13:
            raise KeyError("no such thing")
        return super().__getitem__(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_data_set_raises_names_the_sample_and_comes_in_its_turn(workers):
    read = []
    with pytest.raises(KeyError) as failure:
        for batch in DataLoader(Failing(40), 4, num_workers=workers):
            read += ids([batch])
    assert read == list(range(12)) and failure.value.__notes__ == ["while reading sample 13"]
    assert loader_threads() == []


def test_what_a_pipeline_raises_names_the_samples_of_its_batch():
    def divide(batch):
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as failure:
        list(DataLoader(numbers(40), 10, num_workers=2, pipeline=divide))
    note = "while the pipeline worked on the samples 0, 1, 2, 3, 4, 5, 6, 7, …"
    assert failure.value.__notes__ == [note]


class Interrupting(Slow):
    def __getitem__(self, number: int) -> dict[str, int]:
        if number == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.01)
        return super().__getitem__(number)


def test_control_c_ends_the_loop_and_its_threads():
    with pytest.raises(KeyboardInterrupt):
        list(DataLoader(Interrupting(1_000), 1, num_workers=2))
    assert loader_threads() == []


def test_a_second_iteration_ends_the_first():
    loader = DataLoader(numbers(10), 2)
    first, second = iter(loader), iter(loader)
    next(first), next(second)
    with pytest.raises(RuntimeError, match="another iteration over the same DataLoader has begun"):
        next(first)


def test_processes_make_the_same_batches_elsewhere():
    loader = DataLoader(
        numbers(20), 4, True, num_workers=2, processes=True, pipeline=plus_pid, seed=3
    )
    batches = list(loader)
    assert ids(batches) == ids(DataLoader(numbers(20), 4, True, seed=3))
    assert os.getpid() not in {int(pid) for batch in batches for pid in batch["pid"]}


def test_a_process_that_dies_is_said_to_have_died():
    loader = DataLoader(numbers(8), 4, num_workers=1, processes=True, pipeline=end_of_the_process)
    with pytest.raises(Unavailable, match="has ended before its time"):
        list(loader)


def test_what_cannot_be_sent_to_another_process_is_refused():
    loader = DataLoader(numbers(8), 4, num_workers=1, processes=True, pipeline=lambda batch: batch)
    with pytest.raises(InvalidRequest, match="cannot be sent to another process"):
        list(loader)


# --- columns and samples -------------------------------------------------------------------------


def test_a_tuple_of_arrays_gives_tuples_of_tensors():
    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6)
    loader = DataLoader((x, torch.from_numpy(y)), 4)
    assert [(a.tolist(), b.tolist()) for a, b in loader] == [
        (x[:4].tolist(), [0, 1, 2, 3]),
        (x[4:].tolist(), [4, 5]),
    ]
    assert all(torch.is_tensor(part) for batch in loader for part in batch)


def test_texts_stay_texts():
    (batch,) = DataLoader({"text": np.array(["a", "bc"]), "id": [1, 2]}, 2)
    assert batch["text"] == ["a", "bc"] and batch["id"].tolist() == [1, 2]


def test_texts_of_a_folder_come_with_their_labels(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"{name}ly: é")
    ((texts, labels),) = DataLoader(Dataset.from_local(tmp_path), 2)
    assert (texts, labels.tolist()) == (["badly: é", "goodly: é"], [0, 1])


def test_samples_of_any_form_are_stacked():
    samples = [
        ((number, np.full(2, number)), {"name": str(number), "x": torch.tensor(0.5)})
        for number in range(2)
    ]
    (batch,) = DataLoader(samples, 2)
    (count, array), named = batch
    assert (count.tolist(), array.tolist()) == ([0, 1], [[0, 0], [1, 1]])
    assert named["name"] == ["0", "1"] and named["x"].tolist() == [0.5, 0.5]


def test_samples_that_differ_in_shape_are_named():
    with pytest.raises(InvalidRequest, match=r"sample 1 has the form \(3,\), but sample 0 has"):
        list(DataLoader([np.zeros(2), np.zeros(3)], 2))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InvalidRequest, match=r"different lengths: {'a': 1, 'b': 2}"):
        DataLoader({"a": [1], "b": [1, 2]})


def test_an_empty_data_set_has_no_batches():
    loader = DataLoader({"id": np.zeros(0)}, shuffle=True)
    assert (len(loader), list(loader)) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"rank": 2, "world_size": 2},
        {"world_size": 0},
        {"seed": -1},
        {"num_workers": -1},
        {"num_workers": 1_000},
        {"image_size": (0, 1)},
        {"on_corrupt": "ignore"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InvalidRequest):
        DataLoader(numbers(4), **arguments)


def test_what_is_no_data_set_is_refused():
    with pytest.raises(InvalidRequest, match="a int is no pipeline"):
        DataLoader(np.arange(4), 2, pipeline=5)
    with pytest.raises(InvalidRequest, match="a int is not a data set"):
        DataLoader(5)


# --- images --------------------------------------------------------------------------------------


def gradient(height: int, width: int, *, red: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = red
    image[..., 1] = np.linspace(0, 255, width, dtype=np.uint8)
    return image


@pytest.fixture
def folder(tmp_path):
    """Five images of two classes, of several formats and sizes."""
    for name, size in (("a", (40, 60)), ("b", (300, 200)), ("c", (32, 32))):
        (tmp_path / "cat").mkdir(exist_ok=True)
        data = simplejpeg.encode_jpeg(gradient(*size, red=200), colorsubsampling="444")
        (tmp_path / "cat" / f"{name}.jpg").write_bytes(data)
    (tmp_path / "dog").mkdir()
    for name in ("d.png", "e.webp"):
        buffer = io.BytesIO()
        Image.fromarray(gradient(100, 100, red=50)).save(buffer, name[2:], quality=95)
        (tmp_path / "dog" / name).write_bytes(buffer.getvalue())
    return tmp_path


def test_images_of_any_size_and_format_become_one_array(folder):
    ((images, labels),) = DataLoader(LocalFolder(folder), 8, image_size=(32, 48))
    assert (images.shape, images.dtype) == ((5, 32, 48, 3), torch.uint8)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    expected = [gradient(32, 48, red=red) for red in (200, 200, 200, 50, 50)]
    difference = images.numpy().astype(int) - np.stack(expected)
    assert np.abs(difference).max() <= 8


def test_threads_decode_the_same_pixels_as_one(folder):
    one, many = (
        [images.tolist() for images, _ in DataLoader(LocalFolder(folder), 2, num_workers=workers)]
        for workers in (0, 3)
    )
    assert one == many


def test_processes_decode_the_same_pixels(folder):
    here, elsewhere = (
        [images.tolist() for images, _ in DataLoader(LocalFolder(folder), 5, **arguments)]
        for arguments in ({}, {"processes": True, "num_workers": 1})
    )
    assert here == elsewhere


def test_large_images_are_averaged_not_thinned_out(tmp_path):
    """Stripes of one pixel become grey, whatever decodes and halves them."""
    stripes = np.zeros((256, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    (tmp_path / "a.jpg").write_bytes(simplejpeg.encode_jpeg(stripes, 100))
    Image.fromarray(stripes).save(tmp_path / "b.png")
    (images,) = DataLoader(LocalFolder(tmp_path), 2, image_size=(64, 64))
    assert (images.float() - 127.5).abs().max() <= 4


@pytest.mark.parametrize("path", ["cat/a.jpg", "dog/d.png"])
def test_an_image_of_too_many_pixels_is_not_decoded(folder, monkeypatch, path):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 40 * 60 - 1)
    records = LocalFolder(folder)
    number = next(number for number in range(5) if records.path_of(number) == path)
    with pytest.raises(InvalidRequest, match=rf"{path}\) is an image of \d+ x \d+ pixels; 2399 "):
        list(DataLoader(Dataset(records).only([number]), 1))


@pytest.fixture
def damaged(folder):
    whole = (folder / "cat" / "a.jpg").read_bytes()
    (folder / "cat" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "d.png").write_bytes(b"no image")
    (folder / "dog" / "e.webp").write_bytes(b"RIFF")
    return LocalFolder(folder)


def test_a_damaged_image_is_named(damaged):
    with pytest.raises(InvalidRequest, match=r"sample 1 \(cat/b.jpg\) is not an image that can be"):
        list(DataLoader(damaged, 2))


def test_damaged_images_are_skipped_and_counted_when_asked(damaged):
    loader = DataLoader(damaged, 5, on_corrupt="skip", num_workers=1)
    ((images, labels),) = loader
    assert (len(images), labels.tolist(), loader.skipped) == (2, [0, 0], 3)


def test_chance_belongs_to_the_images_that_were_not_skipped(damaged):
    class Drawing:
        def transform(self, batch, chance):
            return chance.uniform(0, 1)[:, 0], batch[1]

    def drawn(dataset, **arguments):
        return {
            int(label): float(value)
            for values, labels in DataLoader(
                dataset, 5, shuffle=True, pipeline=Drawing(), **arguments
            )
            for value, label in zip(values, labels, strict=True)
        }

    labels = np.arange(5)
    everything = DataLoader((labels, labels), 5, shuffle=True, pipeline=Drawing())
    ((values, of),) = everything
    expected = dict(zip(of.tolist(), values.tolist(), strict=True))
    damaged_images = _Numbered(damaged)
    assert drawn(damaged_images, on_corrupt="skip") == {at: expected[at] for at in (0, 2)}


class _Numbered:
    """Records whose labels are their numbers."""

    def __init__(self, records):
        self.read, self.digest, self.classes = records.read, records.digest, ()
        self.labels = np.arange(len(records))

    def __len__(self):
        return len(self.labels)


def test_stray_bytes_in_a_jpeg_do_not_matter(folder):
    path = folder / "cat" / "c.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\0\0\0\0" + whole[-2:])
    ((images, _),) = DataLoader(LocalFolder(folder), 8)
    assert len(images) == 5


def test_a_state_of_other_images_is_refused(folder):
    loader = DataLoader(LocalFolder(folder), 2)
    state = loader.state_dict()
    (folder / "cat" / "a.jpg").write_bytes((folder / "cat" / "b.jpg").read_bytes())
    with pytest.raises(InvalidRequest, match="the state is one of other data"):
        DataLoader(LocalFolder(folder), 2).load_state_dict(state)
