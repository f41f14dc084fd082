"""Tables whose rows have a time: what is done to them before they are cut into windows.

`entity` is the column that says whose row it is (a shop, a sensor), where a table holds several
series. All take a polars frame, lazy or not, and give one in memory, by entity and time.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

    Frame: TypeAlias = pl.DataFrame | pl.LazyFrame

Statistic: TypeAlias = Literal["mean", "std", "min", "max", "sum"]
STATISTICS = ("mean", "std", "min", "max", "sum")
PERIOD = re.compile(r"[1-9]\d{0,8}(us|ms|s|m|h|d|w|mo|q|y)")  # as polars understands it
MOST_ROWS_BACK = 1 << 20
MOST_PERIODS = 1 << 28  # of all series together


def ordered(frame: "Frame", *, time: str, entity: str | None = None) -> "pl.DataFrame":
    """By entity and time.

    Raises:
        InvalidRequest: a time is missing, or there twice; or it is no such table.
    """
    table = _collected(frame)
    keys = [time] if entity is None else [entity, time]
    for name in keys:
        _check_there(table, name)
        if table[name].null_count():
            row = int(table[name].is_null().arg_max() or 0)
            raise InvalidRequest(
                f"row {row}: {name!a} is missing", hint="drop such rows, or fill it in"
            )
    if not (table[time].dtype.is_temporal() or table[time].dtype.is_integer()):
        raise InvalidRequest(
            f"{time!a} is {table[time].dtype}, not a time",
            hint="parse it: frame.with_columns(pl.col(…).str.to_datetime())",
        )
    table = table.sort(keys, maintain_order=True)
    twice = table.select(keys).is_duplicated()
    if twice.any():
        found = table.row(int(twice.arg_max() or 0), named=True)
        of = "" if entity is None else f" of {found[entity]!r}"
        raise InvalidRequest(
            f"the time {found[time]}{of} is there more than once",
            hint="keep one of each: frame.unique([…]), or regular(…) takes their mean",
        )
    return table


def regular(
    frame: "Frame",
    *,
    time: str,
    every: str,
    entity: str | None = None,
    fill: Literal["previous", "zero"] | None = "previous",
) -> "pl.DataFrame":
    """A row for each period from an entity's first to its last, with the mean of the numbers in it
    and the last of anything else.

    Args:
        every: how long a period is, as polars says it: "15m", "1h", "1d", "1w", "1mo".
        fill: what a period without a value gets. There is no interpolation: it would look ahead.

    Raises:
        InvalidRequest: the column is no time, or there would be too many periods.
    """
    import polars as pl
    import polars.selectors as cs

    table = _collected(frame)
    check_period(every)
    _check_temporal(table, time)
    keys = [] if entity is None else [entity]
    table = (
        table.with_columns(cs.float().fill_nan(None))
        .drop_nulls([*keys, time])
        .sort([*keys, time], maintain_order=True)
    )
    periods = table.group_by_dynamic(time, every=every, group_by=keys or None).agg(
        cs.numeric().exclude(*keys, time).mean(),
        cs.exclude(cs.numeric(), *keys, time).last(),
    )
    _check_count(periods, time, every, keys)
    whole = periods.upsample(time, every=every, group_by=keys or None, maintain_order=True)
    values = [name for name in whole.columns if name not in (*keys, time)]
    whole = whole.with_columns(pl.col(name).forward_fill() for name in keys)
    if fill == "previous":
        last: Any = pl.col(values).forward_fill()
        whole = whole.with_columns(last.over(keys) if keys else last)
    elif fill == "zero":
        whole = whole.with_columns(cs.numeric().exclude(*keys, time).fill_null(0))
    return whole.select(table.columns)


def lagged(
    frame: "Frame",
    columns: Sequence[str],
    lags: Sequence[int],
    *,
    time: str,
    entity: str | None = None,
) -> "pl.DataFrame":
    """With columns ``NAME_lag7``: the value of so many rows before; missing in an entity's first
    ones."""
    import polars as pl

    table = ordered(frame, time=time, entity=entity)
    for lag in lags:
        _check_back("a lag", lag)
    made = []
    for name in columns:
        _check_there(table, name)
        for lag in lags:
            value = pl.col(name).shift(lag)
            made.append((value.over(entity) if entity else value).alias(f"{name}_lag{lag}"))
    return table.with_columns(made)


def rolled(
    frame: "Frame",
    columns: Sequence[str],
    rows: int,
    *,
    time: str,
    entity: str | None = None,
    statistics: Sequence[Statistic] = ("mean", "std"),
) -> "pl.DataFrame":
    """With columns ``NAME_mean7``: of the seven rows before, its own not included; missing in an
    entity's first ones. So a row's features do not know what it has itself."""
    import polars as pl

    table = ordered(frame, time=time, entity=entity)
    _check_back("a number of rows", rows)
    made = []
    for name in columns:
        _check_there(table, name)
        for statistic in statistics:
            if statistic not in STATISTICS:
                raise InvalidRequest(f"{statistic!a} is none of {', '.join(STATISTICS)}")
            before = pl.col(name).shift(1)
            value = getattr(before, f"rolling_{statistic}")(rows)
            made.append(
                (value.over(entity) if entity else value).alias(f"{name}_{statistic}{rows}")
            )
    return table.with_columns(made)


def split_by_time(frame: "Frame", *, time: str, **shares: float) -> "dict[str, pl.DataFrame]":
    """``train, test = split_by_time(frame, time="day", train=0.8, test=0.2).values()``: the first
    share of the times, then the next; all series are cut at the same times. Windows of one part do
    not reach into another.

    Raises:
        InvalidRequest: the shares do not add up to 1, or a part would be empty.
    """
    import polars as pl

    table = _collected(frame)
    _check_there(table, time)
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise InvalidRequest(
            f"the shares {shares} are not positive numbers that add up to 1",
            hint="for example train=0.8, test=0.2",
        )
    times = table[time].drop_nulls().unique().sort()
    if len(times) < len(shares):
        raise InvalidRequest(f"{len(times)} times are too few for {len(shares)} parts")
    parts, first, until = {}, 0, 0.0
    for number, (name, share) in enumerate(shares.items()):
        until += share
        later = len(shares) - number - 1  # parts, each of which gets a time at least
        end = max(first + 1, min(round(until * len(times)), len(times) - later))
        low, high = times[first], times[end - 1]
        parts[name] = table.filter(pl.col(time).is_between(low, high))
        first = end
    return parts


def check_period(every: str) -> None:
    if PERIOD.fullmatch(every) is None:
        raise InvalidRequest(f"{every!a} is no period", hint='for example "15m", "1h", "1d", "1mo"')


def _collected(frame: "Frame") -> "pl.DataFrame":
    import polars as pl

    found = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    if not isinstance(found, pl.DataFrame):
        raise InvalidRequest(
            f"a {type(frame).__name__} is no table", hint="give a polars frame: pl.read_csv(…)"
        )
    return found


def _check_there(frame: "pl.DataFrame", name: str) -> None:
    if name not in frame.columns:
        raise InvalidRequest(
            f"there is no column {name!a}", hint=f"there are {', '.join(frame.columns)[:200]}"
        )


def _check_temporal(frame: "pl.DataFrame", time: str) -> None:
    _check_there(frame, time)
    if str(frame[time].dtype).partition("(")[0] not in ("Date", "Datetime"):
        raise InvalidRequest(
            f"{time!a} is {frame[time].dtype}, not a date or time",
            hint="parse it: frame.with_columns(pl.col(…).str.to_datetime())",
        )


def _check_back(what: str, rows: int) -> None:
    if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= MOST_ROWS_BACK:
        raise InvalidRequest(f"{what} is from 1 to {MOST_ROWS_BACK}, not {rows!r}")


def _check_count(periods: "pl.DataFrame", time: str, every: str, keys: list[str]) -> None:
    import polars as pl

    spans = pl.col(time).max() - pl.col(time).min()
    span = (periods.group_by(keys).agg(spans) if keys else periods.select(spans))[time]
    instant = pl.Series([0]).cast(pl.Datetime("us"))
    period = (instant.dt.offset_by(every) - instant)[0]
    count = span.dt.total_microseconds().sum() / max(1.0, period.total_seconds() * 1e6)
    if count > MOST_PERIODS:
        raise InvalidRequest(
            f"{count:.0f} periods of {every}; {MOST_PERIODS} are the most", hint="a longer period"
        )
