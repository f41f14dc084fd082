"""A dataset's table as Polars sees it, read piece by piece however large it is.

`Dataset.frame` refuses a value that is not of its column's type; here such values are counted. So
files are scanned by Polars itself, a CSV as texts. Every pass over it streams. What is kept of all
rows is a few bytes a row; what needs values side by side, a median say, is taken of a sample of
rows, and the report says of how many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from leptonai.data.kinds import LABEL_COLUMNS, TABLES
from leptonai.data.quality.columns import Counts, Fence
from leptonai.data.quality.drift import Profile
from leptonai.data.quality.report import MAX_EXAMPLES, Example, shortened
from leptonai.data.quality.scanning import scanned, source_of
from leptonai.data.tables import ending_of
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

    from leptonai.data.dataset import Dataset

HELD_BYTES = 256 << 20  # a table that is smaller is parsed once and held
SAMPLED_ROWS = 200_000
SAMPLED_CELLS = 20_000_000  # fewer rows of a table with many columns: 160 MB
MAX_CATEGORIES = 1_000  # a column of more different values is no category
EXAMPLE_ROWS = 10_000  # looked at for examples
MAX_DISTINCT_TIMES = 0.6  # of all, where several series are in one table
ROW = "__row"
KNUTH = 2_654_435_761  # multiplicative hashing: scatters row numbers evenly


@dataclass(frozen=True)
class Frame:
    """Columns of the types integer, number, boolean, text and time. A value of a CSV that is not of
    its column's type is missing there, and stands in a column beside it."""

    lazy: "pl.LazyFrame"
    types: Mapping[str, str]
    rows: int
    paths: Sequence[str]  # of the files, in order
    ends: NDArray[np.int64]  # [files]: rows until the end of each
    numbers: NDArray[np.int64] | None  # of the rows among those of the files, if not all are meant
    header: bool
    splits: NDArray[Any] | None  # [rows]
    unfit: Mapping[str, str] = field(default_factory=dict)  # column → column
    left_out: tuple[str, ...] = ()  # columns of other types
    label: str = ""  # the column that is the label; "" if there is none

    def where(self, row: int) -> str:
        """`sales.csv:17`: the line, where every row has one of its own."""
        number = row if self.numbers is None else int(self.numbers[row])
        file = int(np.searchsorted(self.ends, number, side="right"))
        first = int(self.ends[file - 1]) if file else 0
        return f"{self.paths[file]}:{number - first + 1 + self.header}"

    def collect(self, lazy: "pl.LazyFrame") -> "pl.DataFrame":
        import polars as pl

        try:
            return lazy.collect(engine="streaming")
        except pl.exceptions.PolarsError as wrong:
            raise InvalidRequest(
                f"the table cannot be read: {wrong}", hint="see that its files are whole"
            ) from wrong


def frame_of(dataset: "Dataset") -> Frame | None:
    """None of what is no table."""
    records, columns = dataset.records, dataset.records.columns
    if "row_file" not in columns or ending_of(records.path_of(0)) not in TABLES:
        return None
    files, first, rows = np.unique(columns["row_file"], return_index=True, return_counts=True)
    names = [records.path_of(int(row)) for row in first]
    numbers = None if dataset.chosen is None else np.sort(dataset.chosen)
    splits = columns.get("split")
    types = {each.name: "text" if each.type == "class" else each.type for each in records.schema}
    used = {
        name: type
        for name, type in types.items()
        if type in ("integer", "number", "boolean", "text", "time")
    }
    sources = [source_of(records, int(file)) for file in files]
    lazy, unfit = scanned([*zip(names, sources, strict=True)], used)
    if numbers is not None:
        chosen = _numbered(lazy).filter(_among(numbers))
        lazy = chosen.drop(ROW)
        splits = None if splits is None else splits[numbers]
    label = next((each.name for each in records.schema if each.type == "class"), "")
    found = Frame(
        lazy=lazy,
        types=used,
        rows=int(rows.sum()) if numbers is None else len(numbers),
        paths=names,
        ends=np.cumsum(rows),
        numbers=numbers,
        header=ending_of(names[0]) in ("csv", "tsv"),
        splits=splits,
        unfit=unfit,
        left_out=tuple(name for name in types if name not in used),
        label=label or _label_among(used),
    )
    size = max(
        sum(records.place_of(int(file))[2] for file in files),
        8 * found.rows * len(used),  # packed, they are smaller than their values
    )
    return replace(found, lazy=found.collect(lazy).lazy()) if size <= HELD_BYTES else found


# --- what is taken of a table --------------------------------------------------------------------


def counted(frame: Frame) -> dict[str, Counts]:
    """One pass over all rows."""
    import polars as pl

    wanted = [pl.len().alias("rows")]
    for at, (name, type) in enumerate(frame.types.items()):
        column = pl.col(name)
        wanted.append(_missing(name, type).sum().alias(f"missing{at}"))
        if type == "number":
            wanted.append(column.is_infinite().sum().alias(f"infinite{at}"))
        if type == "text":
            wanted.append(_lost(name).sum().alias(f"lost{at}"))
            wanted.append(_is_number(name).sum().alias(f"numbers{at}"))
        if name in frame.unfit:
            wanted.append(pl.col(frame.unfit[name]).count().alias(f"unfit{at}"))
    row = frame.collect(frame.lazy.select(wanted)).row(0, named=True)
    return {
        name: Counts(
            row["rows"],
            row[f"missing{at}"] - (row.get(f"unfit{at}") or 0),
            row.get(f"infinite{at}") or 0,
            row.get(f"unfit{at}") or 0,
            row.get(f"lost{at}") or 0,
            row.get(f"numbers{at}") or 0,
        )
        for at, name in enumerate(frame.types)
    }


def sampled_numbers(frame: Frame) -> tuple[dict[str, NDArray[np.float64]], int]:
    """The finite values of each column of numbers; and of how many rows. All, of a small table."""
    import polars as pl

    names = [name for name, type in frame.types.items() if type in ("integer", "number")]
    if not names:
        return {}, frame.rows
    most = max(1_000, min(SAMPLED_ROWS, SAMPLED_CELLS // len(names)))
    lazy = frame.lazy.select(names)
    taken = frame.collect(_scattered(lazy, most / max(1, frame.rows)))
    values = {
        name: _finite(taken[name].cast(pl.Float64, strict=False).drop_nulls().to_numpy())
        for name in names
    }
    return values, taken.height


def categories(frame: Frame) -> dict[str, dict[str, int]]:
    """How often each value of a text or boolean column is there, of columns that have few."""
    import polars as pl

    names = [name for name, type in frame.types.items() if type in ("text", "boolean")]
    if not names:
        return {}
    distinct = frame.collect(frame.lazy.select(pl.col(names).approx_n_unique())).row(0, named=True)
    found = {}
    for name in names:
        if 0 < distinct[name] <= min(MAX_CATEGORIES, max(20, frame.rows // 2)):
            counts = frame.collect(
                frame.lazy.select(pl.col(name).cast(pl.String))
                .drop_nulls()
                .group_by(name)
                .agg(pl.len().alias(ROW))
            )
            if 0 < counts.height <= MAX_CATEGORIES:
                found[name] = dict(sorted(zip(counts[name], counts[ROW], strict=True)))
    return found


def profile_of(frame: Frame, counts: Mapping[str, Counts]) -> Profile:
    import polars as pl

    numbers, _ = sampled_numbers(frame)
    found = categories(frame)
    texts = [name for name, type in frame.types.items() if type == "text" and name not in found]
    if texts:
        lazy = frame.lazy.select(pl.col(texts).str.len_chars())
        lengths = frame.collect(_scattered(lazy, SAMPLED_ROWS / max(1, frame.rows)))
        for name in texts:
            of = lengths[name].drop_nulls().cast(pl.Float64).to_numpy()
            numbers[f"length of {name}"] = of
    missing = {name: of.missing / max(1, of.rows) for name, of in counts.items()}
    return Profile(numbers, found, missing, frame.rows)


def outside(frame: Frame, fences: Mapping[str, Fence]) -> dict[str, int]:
    """How many values of each column are beyond its fence."""
    if not fences:
        return {}
    wanted = [_beyond(name, fence).sum().alias(name) for name, fence in fences.items()]
    found = frame.collect(frame.lazy.select(wanted)).row(0, named=True)
    return {name: count or 0 for name, count in found.items()}


def labels_of(frame: Frame) -> tuple[NDArray[np.int64], tuple[str, ...]] | None:
    """[rows], by their place among the names; None if there is no label, or too many."""
    import polars as pl

    if not frame.label:
        return None
    label = pl.col(frame.label).cast(pl.String)
    counts = frame.collect(frame.lazy.select(label).group_by(frame.label).agg(pl.len()))
    names = sorted(name for name in counts[frame.label] if name is not None)
    if not 0 < len(names) <= MAX_CATEGORIES:
        return None
    numbers = label.replace_strict(names, range(len(names)), default=len(names)).cast(pl.Int32)
    found = frame.collect(frame.lazy.select(numbers))[frame.label].to_numpy().astype(np.int64)
    if counts[frame.label].null_count():
        names.append("(missing)")
    return found, tuple(names)


def contents(frame: Frame) -> tuple[NDArray[np.uint64], tuple[str, ...]]:
    """[rows]: a number drawn from all columns but the label and those that only count the rows;
    and the latter. Of a billion different rows two have the same number in 1 of 40 tables."""
    import polars as pl

    names = [name for name in frame.types if name != frame.label]
    counters = _counters(frame, [name for name in names if frame.types[name] == "integer"])
    if len(counters) < len(names):
        names = [name for name in names if name not in counters]
    else:
        counters = ()
    if not names:
        return np.zeros(frame.rows, np.uint64), ()
    drawn = frame.collect(frame.lazy.select(pl.struct(names).hash(0).alias(ROW)))
    return drawn[ROW].to_numpy(), counters


def times_of(
    frame: Frame,
) -> tuple[str, tuple[str, ...], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]] | None:
    """The first column of times, the columns that tell series apart, and of the rows that have a
    time: time, series, number."""
    import polars as pl

    name = next((name for name, type in frame.types.items() if type == "time"), "")
    if not name:
        return None
    stamped = frame.lazy.select(name).drop_nulls()
    distinct, count = frame.collect(
        stamped.select(pl.col(name).n_unique(), pl.len().alias(ROW))
    ).row(0)
    # Series side by side share their times; in one series a text is just another value.
    keys = tuple(categories(frame)) if distinct <= MAX_DISTINCT_TIMES * count else ()
    series = pl.struct(keys).hash(0) if keys else pl.lit(0, pl.UInt64)
    taken = frame.collect(
        _numbered(frame.lazy)
        .select(pl.col(name).dt.epoch("us").alias("time"), series.alias("series"), ROW)
        .drop_nulls("time")
    )
    return (
        name,
        keys,
        taken["time"].to_numpy(),
        taken["series"].to_numpy(),
        taken[ROW].to_numpy().astype(np.int64),
    )


def examples_of(
    frame: Frame, wanted: Sequence[tuple[str, str]], fences: Mapping[str, Fence]
) -> dict[tuple[str, str], tuple[Example, ...]]:
    """The first rows that make up a finding, by gate and column; in one pass, which ends early."""
    import polars as pl

    tests: dict[tuple[str, str], pl.Expr] = {}
    for gate, name in wanted:
        match gate:
            case "missing":
                test = _missing(name, frame.types[name])
                if name in frame.unfit:
                    test &= pl.col(frame.unfit[name]).is_null()
                tests[gate, name] = test
            case "infinite":
                tests[gate, name] = pl.col(name).is_infinite()
            case "encoding":
                tests[gate, name] = _lost(name)
            case "types":
                told = frame.unfit.get(name)
                of_text = ~(_missing(name, "text") | _is_number(name))
                tests[gate, name] = pl.col(told).is_not_null() if told else of_text
            case "outliers":
                tests[gate, name] = _beyond(name, fences[name])
    if not tests:
        return {}
    flags = [test.fill_null(False).alias(f"is{at}") for at, test in enumerate(tests.values())]
    shown = [
        pl.col(frame.unfit.get(name, name) if gate == "types" else name)
        .cast(pl.String)
        .alias(f"value{at}")
        for at, (gate, name) in enumerate(tests)
    ]
    rows = frame.collect(
        _numbered(frame.lazy)
        .select(ROW, *flags, *shown)
        .filter(pl.any_horizontal([f"is{at}" for at in range(len(tests))]))
        .head(EXAMPLE_ROWS)
    )
    found = {}
    for at, key in enumerate(tests):
        some = rows.filter(pl.col(f"is{at}")).head(MAX_EXAMPLES)
        found[key] = tuple(
            Example(frame.where(row), shortened(value))
            for row, value in zip(some[ROW], some[f"value{at}"], strict=True)
        )
    return found


def _missing(name: str, type: str) -> "pl.Expr":
    import polars as pl

    column = pl.col(name)
    if type == "number":
        return column.is_null() | column.is_nan().fill_null(False)
    return column.is_null() | (column == "") if type == "text" else column.is_null()


def _lost(name: str) -> "pl.Expr":
    import polars as pl

    return pl.col(name).str.contains("[\ufffd\x00]").fill_null(False)


def _is_number(name: str) -> "pl.Expr":
    import polars as pl

    return pl.col(name).cast(pl.Float64, strict=False).is_not_null()


def _beyond(name: str, fence: Fence) -> "pl.Expr":
    import polars as pl

    value = pl.col(name).cast(pl.Float64)
    return (value.is_finite() & ~value.is_between(fence.low, fence.high)).fill_null(False)


def _counters(frame: Frame, names: Sequence[str]) -> tuple[str, ...]:
    """Columns whose values are as many, and all different, as the rows: 0, 1, 2, … in any order."""
    import polars as pl

    if not names or frame.rows < 2:
        return ()
    ends = [(pl.col(name).max() - pl.col(name).min()).alias(name) for name in names]
    spans = frame.collect(frame.lazy.select(ends)).row(0, named=True)
    maybe = [name for name in names if spans[name] == frame.rows - 1]
    if not maybe:
        return ()
    distinct = frame.collect(frame.lazy.select(pl.col(maybe).n_unique())).row(0, named=True)
    return tuple(name for name in maybe if distinct[name] == frame.rows)


def _scattered(lazy: "pl.LazyFrame", share: float) -> "pl.LazyFrame":
    """About this share of the rows, the same ones each time."""
    import polars as pl

    if share >= 1:
        return lazy
    drawn = pl.col(ROW).cast(pl.UInt64) * KNUTH % 2**32
    return _numbered(lazy).filter(drawn < int(share * 2**32)).drop(ROW)


def _numbered(lazy: "pl.LazyFrame") -> "pl.LazyFrame":
    return lazy.with_row_index(ROW)


def _among(numbers: NDArray[np.int64]) -> "pl.Expr":
    import polars as pl

    return pl.col(ROW).is_in(pl.Series(numbers, dtype=pl.UInt32).implode())


def _label_among(types: Mapping[str, str]) -> str:
    plain = {name.lower(): name for name in types}
    found = next((plain[name] for name in LABEL_COLUMNS if name in plain), "")
    return found if found and types[found] in ("integer", "boolean", "text") else ""


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]
