"""A checkpoint is whole or not there; it is read back to the bit, on any number of ranks."""

import json
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest, NotFound, StorageFull, Unavailable
from leptonai.training import checkpoints
from leptonai.training.checkpoints import Part, Snapshot, Writer, newest, open_checkpoint, steps_in

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8,
         torch.bool]  # fmt: skip


def saved(root, step, tensors, facts=None):
    writer = Writer(root, rank=0, writers=1, attempt=f"{step:x}", after=lambda _: None)
    parts = {name: Part.all_of(tensor) for name, tensor in tensors.items()}
    writer.begin(Snapshot(step, facts or {}, parts))
    writer.wait()


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (5, 7)])
def test_tensors_come_back_to_the_bit(tmp_path, type, shape):
    tensor = (torch.randn(shape) * 3).to(type)
    saved(tmp_path, 3, {"w": tensor}, {"epoch": 2})
    found = open_checkpoint(tmp_path / "step-000000003")
    assert (found.step, found.facts) == (3, {"epoch": 2})
    assert found.read("w").dtype == type
    assert torch.equal(found.read("w"), tensor)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 23), columns=st.integers(1, 5), writers=st.integers(1, 5),
    readers=st.integers(1, 6),
)  # fmt: skip
def test_parts_of_one_number_of_ranks_are_read_by_another(
    tmp_path_factory, rows, columns, writers, readers
):
    root = tmp_path_factory.mktemp("sharded")
    whole = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    bounds = [(r * rows // writers, (r + 1) * rows // writers) for r in range(writers)]
    ranks = [
        Writer(root, rank=rank, writers=writers, attempt="a", after=lambda _: None)
        for rank in range(writers)
    ]
    for rank, (start, end) in enumerate(bounds):
        part = Part(whole[start:end].clone(), (start, 0), (rows, columns))
        ranks[rank].begin(Snapshot(1, {}, {"w": part}))
    for writer in ranks:
        writer.wait()
    found = newest(root, pytest.fail)
    assert found is not None and found.shape("w") == (rows, columns)
    for reader in range(readers):
        start, end = reader * rows // readers, (reader + 1) * rows // readers
        if end > start:
            block = found.read("w", (start, 0), (end - start, columns))
            assert torch.equal(block, whole[start:end])
    assert torch.equal(found.read("w"), whole)


@pytest.mark.parametrize("damage", ["a bit", "the end", "the index", "a file"])
def test_a_torn_checkpoint_is_passed_over_and_told(tmp_path, damage):
    saved(tmp_path, 1, {"w": torch.ones(100)})
    saved(tmp_path, 2, {"w": torch.zeros(100)})
    latest = tmp_path / "step-000000002"
    data = latest / "rank-00000.safetensors"
    match damage:
        case "a bit":
            content = bytearray(data.read_bytes())
            content[-1] ^= 1
            data.write_bytes(content)
        case "the end":
            data.write_bytes(data.read_bytes()[:-50])
        case "the index":
            index = latest / "checkpoint.json"
            index.write_bytes(index.read_bytes()[:-5])
        case "a file":
            data.unlink()
    told = []
    found = newest(tmp_path, told.append)
    assert found is not None and found.step == 1
    assert len(told) == 1 and "step-000000002" in told[0] and "before" in told[0]


def test_one_of_a_newer_format_is_refused_by_name(tmp_path):
    saved(tmp_path, 1, {"w": torch.ones(1)})
    index = tmp_path / "step-000000001" / "checkpoint.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 99}))
    with pytest.raises(InvalidRequest, match="99"):
        open_checkpoint(tmp_path / "step-000000001")


def test_nothing_of_a_checkpoint_that_is_not_complete_is_seen(tmp_path):
    """A rank that never writes its part."""
    first = Writer(tmp_path, rank=0, writers=2, attempt="a", after=pytest.fail)
    first.begin(Snapshot(1, {}, {"w": Part(torch.ones(1), (0,), (2,))}))
    assert steps_in(tmp_path) == []
    second = Writer(tmp_path, rank=1, writers=2, attempt="b", after=pytest.fail)
    second.begin(Snapshot(1, {}, {"w": Part(torch.ones(1), (1,), (2,))}))
    second.wait()
    assert steps_in(tmp_path) == []  # of another attempt: not ours
    assert first.is_busy
    third = Writer(tmp_path, rank=1, writers=2, attempt="a", after=pytest.fail)
    first._after = lambda step: None
    third.begin(Snapshot(1, {}, {"w": Part(torch.ones(1), (1,), (2,))}))
    third.wait()
    first.wait()
    assert steps_in(tmp_path) == [1]


def test_a_rank_that_does_not_come_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "OTHERS_S", 0.2)
    writer = Writer(tmp_path, rank=0, writers=2, attempt="a", after=pytest.fail)
    writer.begin(Snapshot(1, {}, {"w": Part.all_of(torch.ones(1))}))
    with pytest.raises(Unavailable, match="worker 1"):
        writer.wait()
    assert [each.name for each in tmp_path.iterdir()] == []


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    saved(tmp_path, 1, {"w": torch.ones(1)})

    def full(path, parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_safetensors", full)
    with pytest.raises(StorageFull, match="the one before"):
        saved(tmp_path, 2, {"w": torch.ones(1)})
    assert [each.name for each in tmp_path.iterdir()] == ["step-000000001"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".step-000000009.dead").mkdir(parents=True)
    saved(tmp_path, 1, {"w": torch.ones(1)})
    assert [each.name for each in tmp_path.iterdir()] == ["step-000000001"]


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_old_one(tmp_path):
    saved(tmp_path, 1, {"w": torch.ones(1)})
    (tmp_path / "step-000000001" / "checkpoint.json").unlink()  # torn
    saved(tmp_path, 1, {"w": torch.zeros(1)})
    found = newest(tmp_path, pytest.fail)
    assert found is not None and found.read("w").tolist() == [0.0]


def test_there_is_none_where_nothing_was_saved(tmp_path):
    assert newest(tmp_path / "nowhere", pytest.fail) is None
    with pytest.raises(NotFound):
        open_checkpoint(tmp_path / "nowhere")


def test_writing_happens_in_another_thread(tmp_path):
    names = []
    writer = Writer(
        tmp_path, rank=0, writers=1, attempt="a",
        after=lambda _: names.append(threading.current_thread().name),
    )  # fmt: skip
    writer.begin(Snapshot(1, {}, {"w": Part.all_of(torch.ones(1))}))
    writer.wait()
    assert names == ["leptonai-checkpoint"]
