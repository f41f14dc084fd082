"""Series: windows of one entity and one part, without gaps, and nothing that knows of later."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.data import DataLoader
from leptonai.data.pipeline.series import StandardiseSeries
from leptonai.data.series.frames import lagged, ordered, regular, rolled, split_by_time
from leptonai.data.series.windows import Windowing
from leptonai.errors import InvalidRequest

START = datetime(2024, 3, 1)


def hours(*numbers: int) -> list[datetime]:
    return [START + timedelta(hours=number) for number in numbers]


def table(rows: int, **more) -> pl.DataFrame:
    """The value of a row is its number."""
    return pl.DataFrame(
        {"hour": hours(*range(rows)), "x": np.arange(rows, dtype=float), **more},
        schema_overrides={"hour": pl.Datetime("us"), "who": pl.String},
    )


def every_window(windows):
    """As lists: the first column, and targets."""
    made = windows.make(np.arange(len(windows))).batch
    series, targets = made if isinstance(made, tuple) else (made, None)
    return series[:, :, 0].tolist(), None if targets is None else targets.tolist()


# --- windows -------------------------------------------------------------------------------------


def test_a_window_is_followed_by_its_targets():
    windows = Windowing(time="hour", length=3, horizon=2, stride=2, target="x").of(table(8))
    assert every_window(windows) == ([[0, 1, 2], [2, 3, 4]], [[3, 4], [5, 6]])


def test_without_a_horizon_the_target_is_of_the_last_row():
    frame = table(4, kind=[5, 6, 7, 8])
    windows = Windowing(time="hour", length=2, target="kind").of(frame)
    assert windows.columns == ("x",)
    assert every_window(windows) == ([[0, 1], [1, 2], [2, 3]], [6, 7, 8])


def test_the_order_of_the_rows_does_not_matter():
    windowing = Windowing(time="hour", length=3, horizon=1, target="x")
    shuffled = table(9).sample(fraction=1, shuffle=True, seed=1)
    assert every_window(windowing.of(shuffled)) == every_window(windowing.of(table(9)))


def test_a_window_with_a_missing_value_or_period_is_left_out():
    frame = table(9).with_columns(pl.when(pl.col("x") != 1).then(pl.col("x")).name.keep())
    windowing = Windowing(time="hour", length=2, horizon=1, target="x")
    assert every_window(windowing.of(frame))[0] == [[2, 3], [3, 4], [4, 5], [5, 6], [6, 7]]
    gap = frame.filter(pl.col("x") != 5)
    spaced = Windowing(time="hour", length=2, horizon=1, target="x", every="1h")
    assert every_window(spaced.of(gap)) == ([[2, 3], [6, 7]], [[4], [8]])


@given(
    rows=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    length=st.integers(1, 4),
    horizon=st.integers(0, 3),
    stride=st.integers(1, 3),
)
@settings(deadline=None)
def test_windows_are_all_stretches_of_one_entity(rows, length, horizon, stride):
    frame = pl.concat(
        table(count, who=[f"e{number}"] * count).with_columns(x=pl.col("x") + 100 * number)
        for number, count in enumerate(rows)
    ).with_columns(y=pl.col("x") + 0.5)
    expected = [
        (
            [100.0 * number + start + at for at in range(length)],
            [100.0 * number + start + length + at + 0.5 for at in range(horizon)]
            or 100.0 * number + start + length - 0.5,
        )
        for number, count in enumerate(rows)
        for start in range(0, count - length - horizon + 1, stride)
    ]
    windowing = Windowing(
        time="hour",
        entity="who",
        length=length,
        horizon=horizon,
        stride=stride,
        target="y",
        columns=("x",),
        every="1h",
    )
    if not expected:
        with pytest.raises(InvalidRequest, match=f"there is no window of {length} "):
            windowing.of(frame)
        return
    assert [*zip(*every_window(windowing.of(frame)), strict=True)] == expected


@given(rows=st.integers(2, 40), cut=st.floats(0.1, 0.9), length=st.integers(1, 4))
@settings(deadline=None)
def test_parts_are_one_after_the_other_and_no_window_reaches_into_another(rows, cut, length):
    frame = pl.concat([table(rows, who=["a"] * rows), table(rows, who=["b"] * rows)])
    train, test = split_by_time(frame, time="hour", train=cut, test=1 - cut).values()
    assert len(train) + len(test) == len(frame) and min(len(train), len(test)) >= 2
    assert train["hour"].max() < test["hour"].min()
    windowing = Windowing(time="hour", entity="who", length=length)
    last = train["x"].max()
    for part, is_right in ((train, lambda x: x <= last), (test, lambda x: x > last)):
        if len(part) >= 2 * length:
            series, _ = every_window(windowing.of(part))
            assert all(is_right(value) for window in series for value in window)


def test_the_latest_window_of_each_entity_is_what_to_predict_from():
    frame = pl.concat(
        [table(4, who=["b"] * 4), table(1, who=["c"]), table(3, who=["a"] * 3)], how="vertical"
    )
    who, series = Windowing(time="hour", entity="who", length=2, horizon=5, target="x").latest(
        frame
    )
    assert who == ["a", "b"] and series[:, :, 0].tolist() == [[1, 2], [2, 3]]


def test_a_loader_reads_windows():
    windows = Windowing(time="hour", length=3, horizon=2, target="x").of(table(20))
    batches = list(DataLoader(windows, 4, shuffle=True, seed=1))
    assert [tuple(series.shape) for series, _ in batches] == [(4, 3, 1)] * 4
    assert all((series[:, -1:, 0] + 1 == targets[:, :1]).all() for series, targets in batches)


# --- what comes before ---------------------------------------------------------------------------


def test_periods_without_a_row_get_one():
    frame = pl.DataFrame(
        {
            "hour": [*hours(3, 0), START + timedelta(minutes=30), *hours(1)],
            "who": ["a", "a", "a", "b"],
            "x": [9.0, 1.0, 2.0, 7.0],
            "name": ["d", "c", "c2", "e"],
        }
    )
    made = regular(frame, time="hour", every="1h", entity="who")
    assert made.rows() == [
        (START, "a", 1.5, "c2"),
        (hours(1)[0], "a", 1.5, "c2"),
        (hours(2)[0], "a", 1.5, "c2"),
        (hours(3)[0], "a", 9.0, "d"),
        (hours(1)[0], "b", 7.0, "e"),
    ]
    zero = regular(frame.drop("name"), time="hour", every="1h", entity="who", fill="zero")
    assert zero["x"].to_list() == [1.5, 0, 0, 9, 7]
    none = regular(frame.drop("who", "name"), time="hour", every="1h", fill=None)
    assert none["x"].to_list() == [1.5, 7.0, None, 9.0]


def test_features_of_the_past_are_of_the_same_entity():
    frame = pl.concat([table(4, who=["a"] * 4), table(3, who=["b"] * 3)])
    made = lagged(frame, ["x"], [1, 3], time="hour", entity="who")
    assert made["x_lag1"].to_list() == [None, 0, 1, 2, None, 0, 1]
    assert made["x_lag3"].to_list() == [None, None, None, 0, None, None, None]
    made = rolled(frame, ["x"], 2, time="hour", entity="who", statistics=["mean", "max"])
    assert made["x_mean2"].to_list() == [None, None, 0.5, 1.5, None, None, 0.5]
    assert made["x_max2"].to_list() == [None, None, 1, 2, None, None, 1]


@given(rows=st.integers(3, 20), at=st.integers(0, 19), lag=st.integers(1, 4))
@settings(deadline=None)
def test_no_row_knows_of_what_is_at_its_time_or_later(rows, at, lag):
    at %= rows
    frame = table(rows)
    changed = frame.with_columns(
        x=pl.when(pl.int_range(pl.len()) >= at).then(pl.lit(-99.0)).otherwise(pl.col("x"))
    )

    def features(frame):
        made = lagged(frame, ["x"], [lag], time="hour")
        made = rolled(made, ["x"], lag, time="hour", statistics=["mean", "std", "sum"])
        return made.drop("x").head(at + 1)

    assert features(frame).equals(features(changed))
    filled = regular(frame, time="hour", every="30m").filter(pl.col("hour") < hours(at)[0])
    again = regular(changed, time="hour", every="30m").filter(pl.col("hour") < hours(at)[0])
    assert filled.equals(again)


# --- standardising -------------------------------------------------------------------------------


def test_columns_are_standardised_by_the_training_windows():
    series = np.random.default_rng(0).normal(3, 5, (40, 6, 2)).astype(np.float32)
    series[:, :, 1] = 4
    step = StandardiseSeries()
    learnt = step.fit(lambda: iter([series[:7], series[7:8], series[8:]]))
    made = step.transform(series, learnt)
    assert made.dtype == np.float32
    assert made.mean((0, 1)) == pytest.approx([0, 0], abs=1e-5)
    assert made.std((0, 1)) == pytest.approx([1, 0], abs=1e-5)


# --- bad input -----------------------------------------------------------------------------------

W = Windowing(time="hour", length=2)
LEARNT = StandardiseSeries().fit(lambda: iter([np.zeros((1, 2, 2))]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: W.of(pl.concat([table(2), table(2)])),
            "2024-03-01 00:00:00 is there more than on",
        ),
        (lambda: W.of(table(2).with_columns(hour=None)), "row 0: 'hour' is missing"),
        (lambda: W.of(table(2).with_columns(pl.col("hour").cast(pl.String))), "'hour' is String"),
        (lambda: W.of(table(0)), "in 0 rows there is no window"),
        (lambda: W.of(table(2).with_columns(x=float("inf"))), "'x' is infinite at 2024-03-01"),
        (lambda: W.of(table(2).with_columns(x=float("nan"))), "in 2 rows there is no window of 2 "),
        (lambda: W.of(table(2).drop("x")), "there is no column of numbers"),
        (lambda: W.of([1]), "a list is no table"),
        (lambda: Windowing(time="t", length=2).of(table(3)), "there is no column 't'"),
        (
            lambda: Windowing(time="hour", length=5).of(table(4)),
            "in 4 rows there is no window of 5",
        ),
        (lambda: Windowing(time="hour", length=5).latest(table(4)), "there are no last 5 rows"),
        (lambda: Windowing(time="hour", length=0), "length is a number from 1 to"),
        (lambda: Windowing(time="hour", length=1, horizon=1), "a horizon is of a target"),
        (
            lambda: Windowing(time="hour", length=1, target="x", columns=("x",)),
            "'x' is in the very row that it is to be predicted for",
        ),
        (
            lambda: Windowing(time="hour", length=1, every="soon").of(table(2)),
            "'soon' is no period",
        ),
        (
            lambda: Windowing(time="hour", length=1, columns=("s",)).of(table(1, s=["a"])),
            "'s' is String, not numbers",
        ),
        (lambda: regular(table(2), time="x", every="1h"), "'x' is Float64, not a date or time"),
        (lambda: regular(table(2), time="hour", every="soon"), "'soon' is no period"),
        (lambda: regular(table(2), time="hour", every="0h"), "'0h' is no period"),
        (lambda: regular(table(900), time="hour", every="1us"), "periods of 1us"),
        (lambda: lagged(table(2), ["x"], [0], time="hour"), "a lag is from 1 to"),
        (lambda: rolled(table(2), ["y"], 2, time="hour"), "there is no column 'y'"),
        (lambda: split_by_time(table(2), time="hour", a=0.5), "do not add up to|that add up to 1"),
        (lambda: split_by_time(table(1), time="hour", a=0.5, b=0.5), "1 times are too few for 2"),
        (lambda: StandardiseSeries().transform(np.zeros((2, 2)), LEARNT), r"not \[2, 2\] of float"),
        (
            lambda: StandardiseSeries().transform(np.full((1, 2, 2), np.nan), LEARNT),
            "window 0, row 0, column 0 is nan",
        ),
        (lambda: StandardiseSeries().transform(np.zeros((1, 2, 3)), LEARNT), "series of 3 columns"),
        (lambda: StandardiseSeries().fit(lambda: iter([])), "there are no windows to learn from"),
    ],
)
def test_what_cannot_be_done_is_said(make, message):
    with pytest.raises(InvalidRequest, match=message):
        make()


def test_rows_come_by_entity_and_time():
    frame = pl.DataFrame({"t": [2, 1, 1], "who": ["a", "b", "a"]})
    assert ordered(frame, time="t", entity="who").rows() == [(1, "a"), (2, "a"), (1, "b")]
