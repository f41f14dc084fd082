"""A pipeline learns from training data alone, is one file, and treats all forms of a row alike."""

import json
import pickle
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.data.dataset import Dataset
from leptonai.data.pipeline import (
    PCA,
    Clean,
    ClipOutliers,
    DateFeatures,
    DropMissing,
    HashEncode,
    Impute,
    OneHot,
    Ordinal,
    Pipeline,
    Scale,
    TargetEncode,
    ToMatrix,
)
from leptonai.data.pipeline.pipeline import from_spec, spec_of
from leptonai.errors import InvalidRequest, NotFound

STEPS = (
    Clean(),
    DateFeatures(features=("year", "weekday", "days")),
    Impute(indicator=True),
    ClipOutliers(),
    Scale(),
    TargetEncode(columns=("shop",), folds=3),
    HashEncode(columns=("town",), buckets=3),
    OneHot(),
    PCA(columns=("a", "b"), components=2),
    ToMatrix(),
)
number = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan")))
a_row = st.fixed_dictionaries(
    {
        "a": number,
        "b": st.one_of(st.none(), st.integers(-1000, 1000)),
        "shop": st.sampled_from(["x", " x ", "y", "NA", "never seen before", None]),
        "town": st.one_of(st.none(), st.text(max_size=3)),
        "new": st.sampled_from([True, False, None]),
        "at": st.one_of(st.none(), st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1))),
    }
)


def training_rows(count=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "a": None if draw < 0.1 else float(rng.normal()),
            "b": int(rng.integers(0, 9)),
            "shop": ["x", " x ", "y", "NA", "z"][rng.integers(5)],
            "town": ["Ulm", "Bonn", "Kiel"][rng.integers(3)],
            "new": bool(rng.integers(2)),
            "at": datetime(2024, 1 + int(rng.integers(12)), 3, 4, 5),
            "price": float(rng.normal() + (draw > 0.5)),
        }
        for draw in rng.uniform(size=count)
    ]


FITTED = Pipeline(STEPS, target="price").fit(training_rows())


def csv_of(path, rows):
    names = sorted({name for row in rows for name in row})
    pl.DataFrame(rows, infer_schema_length=None).select(names).write_csv(path)
    return Dataset.from_local(path)


# --- one object for every form -------------------------------------------------------------------


@given(st.lists(a_row, min_size=1, max_size=8))
@settings(deadline=None, max_examples=150)
def test_a_row_alone_gives_exactly_the_numbers_that_it_gives_in_a_table(rows):
    alone = np.stack([FITTED.transform(row) for row in rows])
    together = FITTED.transform(pl.DataFrame(rows, schema=dict(SCHEMA)))
    assert alone.tobytes() == together.tobytes() == FITTED.transform(rows).tobytes()
    assert alone.dtype == np.float32


SCHEMA = {
    "a": pl.Float64, "b": pl.Int64, "shop": pl.String, "town": pl.String, "new": pl.Boolean,
    "at": pl.Datetime("us"),
}  # fmt: skip


def test_a_dataset_a_frame_and_rows_come_out_alike(tmp_path):
    """But that in text files NA and the like stand for what is missing."""
    train, other = training_rows(), training_rows(300, seed=1)
    pipeline = Pipeline([Impute(), Scale(), Ordinal()], target="price").fit(
        csv_of(tmp_path / "train.csv", [leave_out(row, "at") for row in train])
    )
    other = [leave_out(row, "at") | {"shop": row["shop"].replace("NA", "w")} for row in other]
    of_rows = pipeline.transform(other)
    assert pipeline.transform(pl.DataFrame(other)).rows(named=True) == of_rows
    assert pipeline.transform(csv_of(tmp_path / "o.csv", other)).rows(named=True) == of_rows
    assert sorted(of_rows[0]) == ["a", "b", "new", "price", "shop", "town"]


def leave_out(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def test_with_the_target_come_its_numbers_and_without_it_x_alone():
    rows = [{"a": 1.0, "kind": "dog"}, {"a": 2.0, "kind": "cat"}]
    pipeline = Pipeline([ToMatrix()], target="kind").fit(rows)
    x, y = pipeline.transform(rows)
    assert (x.tolist(), y.tolist(), pipeline.classes) == ([[1], [2]], [1, 0], ("cat", "dog"))
    assert pipeline.transform([{"a": 3}]).tolist() == [[3]]
    one, label = pipeline.transform(rows[0])
    assert (one.tolist(), int(label)) == ([1], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": "1.5"}, "'a' is '1.5', and not a number"),
        ({"a": True}, "'a' is True, and not a number"),
        ({"b": 2.5}, "'b' is 2.5, and not an integer"),
        ({"town": 7}, "'town' is 7, and not a text"),
        ({"at": "yesterday"}, "'at' is 'yesterday', and not a time"),
        ({"new": 1}, "'new' is 1, and not true or false"),
    ],
)
def test_a_value_of_another_type_is_refused_by_column_and_row(change, message):
    good = leave_out(training_rows(1)[0], "price")
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        FITTED.transform(good | change)
    with pytest.raises(InvalidRequest, match=f"^row 1: {message}"):
        FITTED.transform([good, good | change])
    bad = pl.Series(next(iter(change)), list(change.values()))
    with pytest.raises(InvalidRequest, match=f"^row 0: {message}"):
        FITTED.transform(pl.DataFrame([good]).with_columns(bad))


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(InvalidRequest, match="the column 'b' is not there"):
        FITTED.transform({"a": 1.0})
    with pytest.raises(InvalidRequest, match="the column 'a' is not there"):
        FITTED.transform(pl.DataFrame({"x": [1]}))


def test_what_a_pipeline_does_not_know_is_left_out():
    good = leave_out(training_rows(1)[0], "price")
    assert (FITTED.transform(good | {"more": object()}) == FITTED.transform(good)).all()


# --- no leakage ----------------------------------------------------------------------------------


@given(st.lists(a_row, min_size=1, max_size=20), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_nothing_that_is_learnt_changes_when_held_out_rows_change(tmp_path_factory, others, random):
    folder = tmp_path_factory.mktemp("data")
    train, learnt = training_rows(), []
    places = sorted(random.sample(range(len(train) + len(others)), len(train)))
    for number, held_out in enumerate((training_rows(len(others), seed=5), others)):
        rows = iter(train)
        rest = iter([leave_out(row, "price") | {"price": 1.0} for row in held_out])
        mixed = [
            next(rows) if at in places else next(rest) for at in range(len(train) + len(others))
        ]
        dataset = csv_of(folder / f"{number}.csv", [leave_out(row, "at", "town") for row in mixed])
        steps = [step for step in STEPS if not isinstance(step, DateFeatures | HashEncode)]
        fitted = Pipeline(steps, target="price").fit(dataset.only(places)).fitted
        learnt.append(
            [
                (dict(each.facts), {name: array.tolist() for name, array in each.arrays.items()})
                for each in fitted.learnt
            ]
        )
    assert learnt[0] == learnt[1]


def test_of_data_with_parts_the_training_part_alone_teaches(tmp_path, caplog):
    for part, value in (("train", 1.0), ("test", 100.0)):
        (tmp_path / part).mkdir()
        csv_of(tmp_path / part / "rows.csv", [{"a": value}, {"a": value + 2}])
    dataset = Dataset.from_local(tmp_path)
    pipeline = Pipeline([Scale(method="min_max")]).fit(dataset)
    assert pipeline.transform({"a": 2.0}) == {"a": 0.5}
    assert "fitted on the part train: 2 of 4 samples" in caplog.text
    assert pipeline.fitted.on.part == "train"
    parts = dataset.split()
    with pytest.raises(InvalidRequest, match="the part 'test' is there to examine"):
        pipeline.fit(parts["test"])
    with pytest.raises(InvalidRequest, match="the part 'test' is there to examine"):
        pipeline.fit(parts["test"].split(train=0.5, other=0.5)["train"])
    pipeline.check_unseen(parts["test"])
    with pytest.raises(InvalidRequest, match="fitted on 2 of these 4 samples"):
        pipeline.check_unseen(dataset)


def test_the_training_data_meets_target_encodings_of_the_other_folds(tmp_path):
    """With a category for each row, the encoding of all would be the target itself."""
    rows = [{"id": f"n{n}", "y": float(n % 2)} for n in range(200)]
    dataset = csv_of(tmp_path / "rows.csv", rows)
    train, test = dataset.split(train=0.8, test=0.2).values()
    pipeline = Pipeline([TargetEncode(smoothing=0.01), ToMatrix()], target="y").fit(train)
    again = Pipeline.from_bytes(pipeline.to_bytes())
    x, y = again.transform(train)
    assert abs(np.corrcoef(x[:, 0], y)[0, 1]) < 0.5
    assert {*again.transform(test)[0].ravel()} == {np.float32(y.mean())}  # nobody has seen them
    frame = train.frame().collect()  # nobody knows where these rows come from
    assert np.corrcoef(pipeline.transform(frame)[0][:, 0], y)[0, 1] > 0.9
    assert (pipeline.fit_transform(train)[0] == x).all()


# --- one file ------------------------------------------------------------------------------------


def test_equal_fits_give_equal_bytes_and_what_is_loaded_is_the_same(tmp_path):
    data = FITTED.to_bytes()
    assert Pipeline(STEPS, target="price").fit(training_rows()).to_bytes() == data
    FITTED.save(tmp_path / "p.lepton")
    loaded = Pipeline.load(tmp_path / "p.lepton")
    assert (loaded.to_bytes(), loaded.steps, loaded.digest) == (data, STEPS, FITTED.digest)
    row = training_rows(1)[0]
    assert (loaded.transform(row)[0] == FITTED.transform(row)[0]).all()
    assert pickle.loads(pickle.dumps(FITTED)).digest == FITTED.digest
    assert [path.name for path in tmp_path.iterdir()] == ["p.lepton"]


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_are_an_error_of_ours_or_still_a_pipeline(at, damage):
    data = FITTED.to_bytes()
    at %= len(data)
    try:
        loaded = Pipeline.from_bytes(data[:at] + damage + data[at + len(damage) :])
        loaded.transform(training_rows(1)[0])
    except InvalidRequest:
        pass


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_refused(size):
    with pytest.raises(InvalidRequest, match="not a pipeline, or a damaged one"):
        Pipeline.from_bytes(FITTED.to_bytes()[:size])


def test_a_foreign_and_a_newer_file_are_refused(tmp_path):
    from safetensors.numpy import save

    with pytest.raises(InvalidRequest, match="a safetensors file, but not of a pipeline"):
        Pipeline.from_bytes(save({"x": np.zeros(3)}))
    newer = json.dumps({"format": 2, "wings": True})
    with pytest.raises(InvalidRequest, match="saved by a newer Lepton"):
        Pipeline.from_bytes(save({}, metadata={"lepton.pipeline": newer}))
    with pytest.raises(NotFound, match="does not exist"):
        Pipeline.load(tmp_path / "nothing")
    with pytest.raises(NotFound, match="directory"):
        FITTED.save(tmp_path / "no" / "p")


# --- how it is made ------------------------------------------------------------------------------


def test_a_spec_is_json_and_comes_back():
    told = spec_of(FITTED)
    assert from_spec(json.loads(json.dumps(told))).steps == STEPS
    assert told["steps"][0] == {"type": "clean"}
    assert told["target"] == "price"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"steps": []}, "1 to 100 steps"),
        ({"steps": [{"type": "wash"}]}, "there is no step 'wash'"),
        ({"steps": [{"type": "scale", "metod": "x"}]}, "unknown field `metod`"),
        ({"steps": [{"type": "scale", "method": "x"}]}, "the step scale: Invalid enum value 'x'"),
        ({"steps": [{"type": "pca", "components": 0}]}, "components are 1 to"),
        ({"steps": [{"type": "to_matrix"}, {"type": "scale"}]}, "Scale takes table, and ToMatrix"),
        ({"step": []}, "an object with its steps"),
        ({"steps": [{}]}, "a step is an object with its type"),
    ],
)
def test_a_spec_that_is_none_is_refused(spec, message):
    with pytest.raises(InvalidRequest, match=message):
        from_spec(spec)


@pytest.mark.parametrize(
    ("steps", "rows", "message"),
    [
        ([Scale()], [], "there are no rows|no row of the training data"),
        ([Scale(columns=("b",))], [{"a": 1}], "there is no column 'b'"),
        ([Scale(columns=("a",))], [{"a": "x"}], "does not work on 'a': it is text"),
        ([Scale(columns=("y",))], [{"a": 1, "y": 1}], "'y' is the target"),
        ([Scale()], [{"a": float("inf"), "y": 1}], "row 0 of the training data: 'a' is infinite"),
        ([Impute()], [{"a": None, "b": 1.0, "y": 1}], "'a' is missing in every row"),
        ([ToMatrix()], [{"a": "x", "y": 1}], "'a' is text, not a number"),
        ([ToMatrix()], [{"a": 1, "y": None}], "row 0 .* the target 'y' is missing"),
        ([DropMissing()], [{"a": None, "b": 1, "y": 1}], "no row of the training data is left"),
        ([PCA(components=3)], [{"a": 1, "b": 2, "y": 1}], "3 components of 2 columns"),
    ],
)
def test_training_data_that_teaches_nothing_is_refused(steps, rows, message):
    frame = pl.DataFrame(
        rows, schema_overrides={"a": pl.Float64} if rows and rows[0].get("a", 1) is None else {}
    )
    with pytest.raises(InvalidRequest, match=message):
        Pipeline(steps, target="y" if rows and "y" in rows[0] else None).fit(frame)


@pytest.mark.parametrize(
    ("step", "told"),
    [(Impute(strategy="bogus"), "Impute: Invalid enum value 'bogus'"),
     (Scale(columns="age"), r"Scale: Expected `array \| null`, got `str`")],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_where_the_pipeline_is_made(step, told):
    with pytest.raises(InvalidRequest, match=told):
        Pipeline([step])


def test_no_rows_are_no_rows_of_as_many_columns():
    pipeline = Pipeline([Impute(), Scale(), OneHot(), ToMatrix()], target="price")
    rows = [{"age": 1, "town": "Ulm", "price": 2.0}, {"age": 2, "town": "Bonn", "price": 3.0}]
    assert pipeline.fit(rows).transform([]).shape == (0, 3)


def test_steps_are_found_by_who_looks_for_them():
    from leptonai.data import pipeline

    assert {"Impute", "Flip", "Tokenise", "Pipeline"} <= {*dir(pipeline)}


def test_what_has_not_learnt_transforms_nothing():
    with pytest.raises(InvalidRequest, match="not learnt anything yet"):
        Pipeline([Scale()]).transform({"a": 1})
