"""Parts of datasets: deterministic, by content, complete."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.cli.dataset_preview import _cell
from leptonai.cli.progress import progress_line
from leptonai.data.dataset import Dataset
from leptonai.data.split import divide
from leptonai.errors import InvalidRequest, NotFound


def keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 63, count, dtype=np.uint64)


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(-5, 1 << 70), st.booleans())
def test_every_sample_is_on_one_side_and_equal_ones_on_the_same(contents, seed, stratify):
    given = np.array(contents, np.uint64)
    labels = given.astype(np.int64) % 3 if stratify else None
    sides = divide(given, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=seed, labels=labels)
    assert sorted(np.concatenate([*sides.values()]).tolist()) == list(range(len(given)))
    found = [{*given[at].tolist()} for at in sides.values()]
    assert sum(map(len, found)) == len({*contents})


def test_the_order_of_the_samples_does_not_matter():
    drawn, shuffled = keys(1000), np.random.default_rng(1).permutation(1000)
    one = divide(drawn, {"a": 0.5, "b": 0.5}, seed=3)
    other = divide(drawn[shuffled], {"a": 0.5, "b": 0.5}, seed=3)
    assert {*drawn[one["a"]]} == {*drawn[shuffled][other["a"]]}
    assert {*drawn[divide(drawn, {"a": 0.5, "b": 0.5}, seed=4)["a"]]} != {*drawn[one["a"]]}


def test_shares_are_met_for_every_class_where_asked():
    labels = np.repeat([0, 1], [900, 100])
    sides = divide(keys(1000), {"train": 0.8, "test": 0.2}, seed=0, labels=labels)
    assert [np.bincount(labels[at]).tolist() for at in sides.values()] == [[720, 80], [180, 20]]


def test_samples_that_come_later_move_few_of_the_others():
    drawn = keys(10_000)
    before = {*drawn[:9000][divide(drawn[:9000], {"a": 0.8, "b": 0.2}, seed=0)["a"]].tolist()}
    after = {*drawn[divide(drawn, {"a": 0.8, "b": 0.2}, seed=0)["a"]].tolist()}
    assert len(before - after) < 100


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_shares_that_are_none_are_refused(shares, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"1")
    with pytest.raises(InvalidRequest, match="not positive numbers that add up to 1"):
        Dataset.from_local(tmp_path).split(**shares)


def test_parts_that_the_data_has_are_its_own(tmp_path):
    for path in ("train/a/1.png", "train/b/2.png", "test/a/3.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    parts = Dataset.from_local(tmp_path).split()
    assert {name: [bytes(data) for data, _ in part] for name, part in parts.items()} == {
        "train": [b"train/a/1.png", b"train/b/2.png"],
        "test": [b"test/a/3.png"],
    }
    assert parts["train"].labels.tolist() == [0, 1]
    assert parts["train"].digest != parts["test"].digest
    halves = parts["train"].split(one=0.5, other=0.5, stratify=False)
    assert sorted(len(each) for each in halves.values()) == [1, 1]
    with pytest.raises(InvalidRequest, match="no parts of its own"):
        Dataset.from_local(tmp_path / "train").split()


def test_there_is_nothing_to_stratify_by_without_labels(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"1")
    with pytest.raises(InvalidRequest, match="no labels to stratify by"):
        Dataset.from_local(tmp_path).split(stratify=True, a=0.5, b=0.5)


def test_neither_a_file_nor_a_name(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        Dataset.from_local(tmp_path / "nope")


def test_progress_says_rate_and_time_left():
    line = progress_line("storing", 30 << 20, 90 << 20, 10.0)
    assert line == "storing  33%  30.0 of 90.0 MiB  3.0 MiB/s  20s left"
    assert progress_line("storing", 0, 0, 0.0) == "storing  0.0 MiB  0.0 MiB/s"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (2.5, "2.5"), (95.26000213623047, "95.260002"),
     (12_345_678.25, "12345678.25"), (7, "7")],
)  # fmt: skip
def test_a_preview_shows_no_more_digits_than_tell_something(value, shown):
    assert _cell(value) == shown


def test_an_address_is_to_be_committed_first():
    with pytest.raises(InvalidRequest, match="s3://bucket/pets is not on this machine") as refused:
        Dataset.from_local("s3://bucket/pets")
    assert "--source s3://bucket/pets" in refused.value.hint
