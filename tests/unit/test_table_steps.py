"""What each table step learns and does, and what it says of bad data."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.data.dataset import Dataset
from leptonai.data.pipeline import (
    Clean,
    ClipOutliers,
    DateFeatures,
    DropColumns,
    DropMissing,
    Impute,
    OneHot,
    Ordinal,
    Pipeline,
    Scale,
    Select,
    TargetEncode,
    ToMatrix,
)
from leptonai.data.pipeline.applying import apply, fit_and_apply
from leptonai.data.pipeline.tables import statistics, table
from leptonai.errors import InvalidRequest


def out(steps, columns, **given):
    frame = pl.DataFrame(columns)
    made = Pipeline(steps, **given).fit(frame).transform(frame)
    return made.to_dict(as_series=False)


# --- statistics ----------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e300, 1e300) | st.integers(-3, 3).map(float), min_size=1, max_size=200),
    st.integers(1, 50),
    st.sampled_from([1, 3, 1 << 20]),
)
def test_quantiles_are_exact_however_the_values_come(values, at_once, sorted_at_once):
    array = np.array(values)
    parts = [[array[at : at + at_once]] for at in range(0, len(array), at_once)]
    before, statistics.SORTED_AT_ONCE = statistics.SORTED_AT_ONCE, sorted_at_once
    try:
        [found] = statistics.quantiles(lambda: iter(parts), 1, [0.0, 0.5, 1.0])
    finally:
        statistics.SORTED_AT_ONCE = before
    ordered = sorted(values)
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    assert found == [ordered[0], low if low == high else low + (high - low) * 0.5, ordered[-1]]


# --- steps ---------------------------------------------------------------------------------------


def test_cleaning_strips_finds_what_is_missing_and_drops_what_says_nothing():
    columns = {
        "name": [" a ", "N/A", "b"],
        "number": ["1", " 2.5", "NULL"],
        "infinite": [1.0, float("inf"), 2.0],
        "same": [7, 7, 7],
        "copy": [" a ", "N/A", "b"],
        "empty": [None, None, None],
    }
    assert out([Clean()], columns) == {
        "name": ["a", None, "b"],
        "number": [1.0, 2.5, None],
        "infinite": [1.0, None, 2.0],
    }


def test_a_text_where_all_were_numbers_is_refused_by_row_and_column():
    pipeline = Pipeline([Clean()]).fit(pl.DataFrame({"n": ["1", "2"], "m": [1, 2]}))
    message = "^row 1: 'n' is 'x', and was a number in the training data"
    with pytest.raises(InvalidRequest, match=message):
        pipeline.transform(pl.DataFrame({"n": ["3", "x"], "m": [1, 2]}))
    with pytest.raises(InvalidRequest, match=message):
        pipeline.transform([{"n": "3", "m": 1}, {"n": "x", "m": 1}])


@pytest.mark.parametrize(
    ("strategy", "number", "text"),
    [("mean", 3.0, "a"), ("median", 2.0, "a"), ("mode", 1.0, "a")],
)
def test_missing_values_are_filled_in_and_marked(strategy, number, text):
    columns = {"n": [1.0, 1.0, 3.0, 7.0, None], "t": ["b", "b", "a", "a", None]}
    made = out([Impute(strategy=strategy, indicator=True)], columns)
    assert (made["n"][-1], made["t"][-1]) == (number, text)
    assert made["n_missing"] == made["t_missing"] == [0, 0, 0, 0, 1]


def test_a_constant_fills_the_columns_of_its_type():
    columns = {"n": [1.0, None], "t": ["x", None]}
    steps = [Impute(strategy="constant", value=0)]
    assert out(steps, columns) == {"n": [1, 0], "t": ["x", None]}


@pytest.mark.parametrize(
    ("step", "most"),
    [
        (ClipOutliers(), 4 + 1.5 * 2),
        (ClipOutliers(method="mad", factor=2), 3 + 2 * 1.4826),
        (
            ClipOutliers(method="z", factor=1),
            float(np.mean([1, 2, 3, 4, 90]) + np.std([1, 2, 3, 4, 90])),
        ),
    ],
)
def test_outliers_become_the_limit(step, most):
    assert out([step], {"n": [1, 2, 3, 4, 90]})["n"][-1] == pytest.approx(most)


@pytest.mark.parametrize(
    ("method", "made"),
    [("standard", [-1, 1, None]), ("min_max", [0, 1, None]), ("robust", [-1, 1, None])],
)
def test_numbers_are_scaled_and_what_is_missing_stays_so(method, made):
    columns = {"n": [2.0, 4.0, None], "flat": [5.0, 5.0, 5.0]}
    assert out([Scale(method=method)], columns) == {"n": made, "flat": [0, 0, 0]}


def test_categories_become_columns_or_places():
    columns = {"t": ["b", "a", None]}
    assert out([OneHot()], columns) == {"t=a": [0, 1, 0], "t=b": [1, 0, 0]}
    assert out([Ordinal()], columns) == {"t": [1, 0, None]}


@pytest.mark.parametrize("kind", [OneHot, Ordinal])
def test_a_category_that_was_never_seen_is_ignored_or_refused(kind):
    seen, new = pl.DataFrame({"t": ["a", "b"]}), pl.DataFrame({"t": ["a", "z"]})
    ignored = Pipeline([kind()]).fit(seen).transform(new).row(1)
    assert {*ignored} in ({0.0}, {-1.0})
    refusing = Pipeline([kind(unseen="refuse")]).fit(seen)
    for form in (new, new.to_dicts()):
        with pytest.raises(InvalidRequest, match=r"^row 1: 't' is 'z', which the"):
            refusing.transform(form)


def test_dates_become_numbers():
    made = out(
        [DateFeatures(features=("year", "weekday", "days"))], {"t": [datetime(1970, 1, 2, 12)]}
    )
    assert made == {"t_year": [1970], "t_weekday": [5], "t_days": [1.5]}


def test_columns_are_dropped_and_selected():
    columns = {"a": [1, 2], "b": [None, None], "c": ["x", "y"], "y": [0, 1]}
    assert list(out([DropColumns()], columns)) == ["a", "c", "y"]
    assert list(out([Select(columns=("c", "a"))], columns, target="y")) == ["c", "a", "y"]


def test_rows_with_missing_values_go_and_errors_still_name_the_given_row():
    frame = pl.DataFrame({"a": [None, 1.0, 2.0], "b": [1.0, 1.0, None]})
    pipeline = Pipeline([DropMissing(columns=("a",)), ToMatrix()]).fit(frame)
    with pytest.raises(InvalidRequest, match="row 2: 'b' is missing"):
        pipeline.transform(frame)
    with pytest.raises(InvalidRequest, match="'a' is missing, and rows without it are dropped"):
        pipeline.transform({"a": None, "b": 1.0})


def test_a_number_too_large_for_a_model_is_refused():
    pipeline = Pipeline([ToMatrix()]).fit([{"a": 1.0}])
    for form in ({"a": 1e300}, {"a": float("inf")}):
        with pytest.raises(InvalidRequest, match="'a' is infinite, or too large"):
            pipeline.transform(form)


# --- files ---------------------------------------------------------------------------------------


def test_a_value_of_another_type_is_named_by_file_line_and_column(tmp_path):
    lines = ["a,b", *(f"{n},x" for n in range(100_000))]
    lines[90_001] = "ninety,x"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    dataset = Dataset.from_local(tmp_path / "t.csv")
    assert [each.type for each in dataset.schema] == ["integer", "text"]
    with pytest.raises(
        InvalidRequest, match=r"t\.csv:90002: 'a' is 'ninety', and the column is int"
    ):
        Pipeline([Scale()]).fit(dataset)


def test_blank_lines_quotes_and_other_ends_of_lines_are_read_as_the_rows_they_are(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n1,"x\r\ny"\r\n\r\n2,"z,z"\r\n\r\n\r\n3,')
    dataset = Dataset.from_local(tmp_path / "t.csv")
    assert dataset.frame().collect().rows() == [(1, "x\r\ny"), (2, "z,z"), (3, None)]
    assert dataset.only([2, 0]).frame().collect().rows() == [(3, None), (1, "x\r\ny")]


def test_rows_of_parquet_are_samples(tmp_path):
    pl.DataFrame({"a": [1, 2, 3], "s": ["x", None, "z"]}).write_parquet(tmp_path / "t.parquet")
    dataset = Dataset.from_local(tmp_path)
    assert [bytes(data) for data, _ in dataset[1:]] == [b'{"a":2,"s":null}', b'{"a":3,"s":"z"}']
    assert dataset.only([2, 0]).frame().collect().rows() == [(3, "z"), (1, "x")]


def test_any_number_of_workers_writes_the_same_files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=3000), "b": rng.choice(["x", "y"], 3000)})
    frame.write_csv(tmp_path / "t.csv")
    monkeypatch.setattr("leptonai.data.frames.STRETCH_BYTES", 1)
    parts = Dataset.from_local(tmp_path / "t.csv").split(train=0.8, test=0.2)
    pipeline = Pipeline([Scale(), OneHot(), ToMatrix()]).fit(parts["train"])
    made = []
    for workers in (1, 3):
        into = tmp_path / str(workers)
        files = apply(pipeline, parts, into, workers=workers)
        made.append({path.relative_to(into): path.read_bytes() for path in files})
    assert made[0] == made[1] and len(made[0]) > 4


@pytest.mark.parametrize("memory_limit_bytes", [1, 1 << 30])
@pytest.mark.parametrize("stretch_bytes", [1, 1 << 14])
def test_fitting_and_applying_at_once_gives_the_same_bytes_as_one_after_the_other(
    tmp_path, monkeypatch, memory_limit_bytes, stretch_bytes
):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "a": pl.Series(rng.normal(size=3000)).set(pl.Series(rng.random(3000) < 0.1), None),
            "t": rng.choice([" x", "y", "NA", "null "], 3000),
            "s": rng.choice(["1", " 2", "nan", ""], 3000),
            "y": rng.integers(0, 2, 3000),
        }
    )
    frame.write_csv(tmp_path / "t.csv")
    steps = [Clean(), TargetEncode(columns=("t",)), Impute(), ClipOutliers(), Scale(), ToMatrix()]
    parts = Dataset.from_local(tmp_path / "t.csv").split(train=0.8, test=0.2)
    fitted = Pipeline(steps, target="y").fit(parts["train"])
    monkeypatch.setattr("leptonai.data.frames.STRETCH_BYTES", stretch_bytes)
    apply(fitted, parts, tmp_path / "one")
    at_once = Pipeline(steps, target="y")
    fit_and_apply(at_once, parts, tmp_path / "other", memory_limit_bytes=memory_limit_bytes)
    one, other = (
        {path.name + path.parent.name: path.read_bytes() for path in into.rglob("*.parquet")}
        for into in (tmp_path / "one", tmp_path / "other")
    )
    assert (at_once.to_bytes(), other) == (fitted.to_bytes(), one)
    assert len(one) > 2


def test_a_row_that_is_refused_while_all_are_written_is_named_by_its_number(tmp_path):
    frame = pl.DataFrame({"n": [str(at) for at in range(50)], "m": range(50)})
    frame.with_columns(n=pl.when(pl.col("m") == 41).then(pl.lit("x")).otherwise("n")).write_csv(
        tmp_path / "t.csv", quote_style="always"
    )
    dataset = Dataset.from_local(tmp_path / "t.csv", type="tabular")
    rows = np.arange(50)
    parts = {"train": dataset.only(rows[rows != 41]), "test": dataset.only([41])}
    with pytest.raises(InvalidRequest, match="row 41: 'n' is 'x', and was a number"):
        fit_and_apply(Pipeline([Clean(), Scale()]), parts, tmp_path / "out")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(1, 400))
def test_what_is_added_up_does_not_depend_on_where_a_table_was_cut(values, at_once):
    frame = pl.DataFrame({"a": values})
    before, table.BLOCK_VALUES = table.BLOCK_VALUES, 64
    try:
        cut = table.Stretches(lambda: map(pl.DataFrame.lazy, frame.iter_slices(at_once)), {}, None)
        whole = table.Stretches(lambda: iter([frame.lazy()]), {}, None)
        one, other = (
            statistics.moments(lambda each=each: each.numbers(["a"]), 1) for each in (cut, whole)
        )
        assert [block.height for _, block in cut.blocks(["a"])][:-1] == [64] * (
            -(-len(values) // 64) - 1
        )
    finally:
        table.BLOCK_VALUES = before
    assert one == other


def test_what_does_not_fit_into_memory_is_learnt_from_all_the_same(tmp_path):
    rng = np.random.default_rng(0)
    pl.DataFrame({"a": rng.normal(size=3000), "b": rng.integers(0, 9, 3000)}).write_csv(
        tmp_path / "t.csv"
    )
    dataset = Dataset.from_local(tmp_path / "t.csv")
    steps = [ClipOutliers(), Scale(), ToMatrix()]
    spilled = Pipeline(steps).fit(dataset, memory_limit_bytes=1)
    assert spilled.to_bytes() == Pipeline(steps).fit(dataset).to_bytes()
