"""Tables in a DataLoader: transformed once, picked from, resumed exactly."""

import numpy as np
import polars as pl
import pytest

from leptonai.data import DataLoader
from leptonai.data.dataset import Dataset
from leptonai.data.loader import tables
from leptonai.data.pipeline import DropMissing, Impute, OneHot, Pipeline, Scale, ToMatrix
from leptonai.errors import InvalidRequest, StorageFull


def csv(path, **columns):
    pl.DataFrame(columns).write_csv(path)
    return Dataset.from_local(path)


@pytest.fixture
def people(tmp_path):
    rng = np.random.default_rng(0)
    return csv(
        tmp_path / "people.csv",
        age=rng.integers(0, 99, 200),
        town=rng.choice(["Ulm", "Bonn"], 200),
        label=rng.choice(["no", "yes"], 200),
    )


def test_a_pipeline_makes_x_and_y_of_a_table_in_the_order_of_the_epoch(people):
    train = people.split(train=0.8, test=0.2)["train"]
    pipeline = Pipeline([Impute(), Scale(), OneHot(), ToMatrix()], target="label").fit(train)
    x, y = pipeline.transform(train)
    batches = list(DataLoader(train, 32, pipeline=pipeline))
    assert np.concatenate([each.numpy() for each, _ in batches]).tobytes() == x.tobytes()
    assert np.concatenate([each.numpy() for _, each in batches]).tolist() == y.tolist()


def test_a_run_that_is_resumed_goes_on_exactly(people):
    pipeline = Pipeline([Scale(), OneHot(), ToMatrix()], target="label").fit(people)
    whole, first, second = (
        DataLoader(people, 16, True, seed=3, pipeline=pipeline) for _ in range(3)
    )
    running = iter(first)
    read = [next(running)[0].tolist() for _ in range(4)]
    second.load_state_dict(first.state_dict())
    assert read + [x.tolist() for x, _ in second] == [x.tolist() for x, _ in whole]
    other = Pipeline([OneHot(), ToMatrix()], target="label").fit(people)
    with pytest.raises(InvalidRequest, match="the state is one of other data"):
        DataLoader(people, 16, pipeline=other).load_state_dict(first.state_dict())


def test_a_table_larger_than_the_memory_for_it_is_mapped_from_the_cache(
    people, tmp_path, monkeypatch
):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    pipeline = Pipeline([Scale(), OneHot(), ToMatrix()], target="label").fit(people)
    in_memory = tables.TableRows(people, pipeline)
    mapped = tables.TableRows(people, pipeline, memory_bytes=1)
    at = np.arange(len(people))
    for one, other in zip(mapped.make(at).batch, in_memory.make(at).batch, strict=True):
        assert one.tobytes() == other.tobytes()
    monkeypatch.setattr(tables, "_write", None)  # it is there: nothing is written again
    assert len(tables.TableRows(people, pipeline, memory_bytes=1)) == 200


def test_a_full_disk_leaves_nothing_of_the_cache_behind(people, tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tables, "write_all", full)
    pipeline = Pipeline([Scale(), OneHot(), ToMatrix()], target="label").fit(people)
    with pytest.raises(StorageFull):
        tables.TableRows(people, pipeline, memory_bytes=1)
    assert list((tmp_path / "home" / "cache" / "tables").iterdir()) == []


def test_a_table_of_numbers_needs_no_pipeline(tmp_path):
    dataset = csv(tmp_path / "n.csv", a=[1, 2, 3], label=[0, 1, 0], b=[0.5, 1.5, 2.5])
    [(x, y)] = DataLoader(dataset, 8)
    assert (x.tolist(), y.tolist()) == ([[1, 0.5], [2, 1.5], [3, 2.5]], [0, 1, 0])
    [x] = DataLoader(csv(tmp_path / "m.csv", a=[1, 2], b=[3, 4]), 8)
    assert x.tolist() == [[1, 3], [2, 4]]


def test_texts_without_a_pipeline_are_refused_with_a_way_out(people):
    with pytest.raises(InvalidRequest, match="the column 'town' is text") as refused:
        DataLoader(people)
    assert "pipeline" in refused.value.hint


def test_a_pipeline_that_gives_a_table_and_one_that_drops_all_are_refused(people, tmp_path):
    with pytest.raises(InvalidRequest, match="gives a table"):
        DataLoader(people, pipeline=Pipeline([Scale()]).fit(people))
    dropping = Pipeline([DropMissing(), ToMatrix()]).fit([{"a": 1.0}])
    empty = csv(tmp_path / "e.csv", a=[None, None], b=[1, 2])
    with pytest.raises(InvalidRequest, match="drop every row"):
        DataLoader(empty, pipeline=dropping)
