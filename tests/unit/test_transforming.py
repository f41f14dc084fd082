"""A transformation divided among workers makes the files of an undivided one."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai import Dataset, Pipeline
from leptonai.data.pipeline import OneHot, Scale, TargetEncode, ToMatrix
from leptonai.data.pipeline.applying import Divided, apply
from leptonai.data.transforming.portions import MAX_PORTIONS, name_of, of_worker, portions
from leptonai.data.transforming.sending import transform_in_job
from leptonai.data.transforming.shipping import Order, open_pipeline, pack
from leptonai.errors import InvalidRequest

ORDER = Order(
    name="ready", source="t@1", digest="sha256:0", shares={"train": 0.5, "test": 0.5}, seed=3,
    threads=2, memory_limit_bytes=None, steps=None,
)  # fmt: skip


@given(st.integers(0, 3000), st.integers(1, 300))
def test_each_chunk_is_made_by_one_worker_and_where_it_is_kept_depends_on_no_worker(
    chunks, workers
):
    every = portions(chunks)
    assert [chunk for portion in every for chunk in portion] == [*range(chunks)]
    assert len(every) <= MAX_PORTIONS and all(every)
    assert len({name_of(portion) for portion in every}) == len(every)
    dealt = [portion for rank in range(workers) for portion in of_worker(every, rank, workers)]
    assert sorted(dealt, key=lambda portion: portion.start) == every


def test_portions_made_one_by_one_are_the_files_of_all_at_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "a": rng.normal(size=4000),
            "b": rng.choice(["x", "y"], 4000),
            "t": rng.choice(["u", "v"], 4000),
            "y": rng.integers(0, 2, 4000),
        }
    )
    frame.write_csv(tmp_path / "t.csv")
    monkeypatch.setattr("leptonai.data.frames.STRETCH_BYTES", 1)
    monkeypatch.setattr("leptonai.data.transforming.portions.MAX_PORTIONS", 3)
    parts = Dataset.from_local(tmp_path / "t.csv").split(train=0.8, test=0.2)
    # Of its own training rows, each is encoded by other folds: that must not depend on who does it.
    steps = [Scale(), OneHot(columns=("b",)), TargetEncode(columns=("t",)), ToMatrix()]
    pipeline = Pipeline(steps, target="y").fit(parts["train"])
    apply(pipeline, parts, tmp_path / "whole")
    every = portions(Divided(pipeline, parts).chunks)
    for rank in (1, 0):
        divided = Divided(Pipeline.from_bytes(pipeline.to_bytes()), parts)
        for portion in of_worker(every, rank, 2):
            divided.apply(portion, tmp_path / "portions", workers=rank + 1)
    whole, made = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.parquet")}
        for root in (tmp_path / "whole", tmp_path / "portions")
    )
    assert made == whole and len(whole) > 2 * len(every) == 6


@pytest.mark.parametrize("is_fitted", [True, False])
def test_a_worker_is_told_what_was_asked(tmp_path, is_fitted):
    pipeline = Pipeline([Scale(), ToMatrix()], target="y")
    if is_fitted:
        pipeline.fit(pl.DataFrame({"a": [1.0, 2.0], "y": [1, 0]}))
    pack(tmp_path, ORDER, pipeline)
    order = Order.read(tmp_path)
    arrived = open_pipeline(order, tmp_path)
    assert (order.source, order.shares, order.seed) == ("t@1", ORDER.shares, 3)
    assert (arrived.is_fitted, arrived.target) == (is_fitted, "y")
    assert arrived.steps == pipeline.steps


def test_a_directory_that_does_not_say_what_to_do_is_refused(tmp_path):
    for content in (None, b"{", b"{}"):
        if content is not None:
            (tmp_path / Order.FILE).write_bytes(content)
        with pytest.raises(InvalidRequest, match="does not say what to do"):
            Order.read(tmp_path)


def test_a_job_is_not_asked_for_what_it_could_not_find_or_do(tmp_path):
    pl.DataFrame({"a": [1, 2]}).write_csv(tmp_path / "t.csv")
    asked = {
        "shares": {}, "seed": 0, "threads": 1, "memory_limit_bytes": None, "client": None,
        "tell": print,
    }  # fmt: skip
    local = Dataset.from_local(tmp_path / "t.csv")
    for resources, workers, why in (
        ({}, 1, "not in the workspace"),
        ({"cpus": 1}, 1, "no resource cpus"),
        ({}, 0, "0 workers"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            transform_in_job(
                local, Pipeline([Scale()]), "x", resources=resources, job_workers=workers, **asked
            )
