"""Tables as polars frames: read stretch by stretch, whatever they were written as.

A stretch is a fixed number of rows, so memory is bounded however long a table is, and what is
calculated over stretches in their order does not depend on threads or on memory. Files are read
with `pread` and not mapped: mapped pages would count as ours.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from leptonai.data.ahead import ahead
from leptonai.data.coded import FEW, LOOKED_AT, are_full, decoded, is_coded, new_codes, recoded
from leptonai.data.columns import Array
from leptonai.data.manifest import Field
from leptonai.data.tables import BOM, NEWLINE, delimiter_of, ending_of
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

STRETCH_BYTES = 16 << 20  # of text, about
MAX_STRETCH_ROWS = 1 << 17
MIN_STRETCH_ROWS = 1 << 8
SPARSE = 4  # rows are picked one by one when fewer than one in so many is wanted
HEADER_BYTES = 1 << 20
# What stands for a missing value, in any column. Beyond these, `Clean` has a say.
NULLS = ["", "NA", "N/A", "n/a", "na", "NaN", "nan", "NAN", "NULL", "Null", "null", "None", "none"]
_TIMES = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%dT%H:%M")


class TableRecords(Protocol):
    """Records whose samples are rows of tables."""

    @property
    def type(self) -> str: ...
    @property
    def schema(self) -> tuple[Field, ...]: ...
    @property
    def columns(self) -> Mapping[str, Array]: ...
    def __len__(self) -> int: ...
    def path_of(self, at: int) -> str: ...
    def read_part(self, file: int, start: int, size: int) -> bytes: ...
    def place_of(self, file: int) -> tuple[Path, int, int]: ...


class Stretch(NamedTuple):
    rows: NDArray[np.int64]  # their numbers among the records
    frame: "pl.DataFrame"


class Table:
    """The rows of records, or those chosen, in this order."""

    def __init__(
        self,
        records: TableRecords,
        chosen: NDArray[np.int64] | None = None,
        *,
        coded: bool = False,
    ) -> None:
        """
        Args:
            coded: texts of a CSV's column that has few come as codes (see `data/coded.py`), in
                those frames where it has.
        """
        if "row_file" not in records.columns or records.type not in (
            "tabular", "time series", "text", "text classification",
        ):  # fmt: skip
            raise InvalidRequest(
                f"{records.type} data are no table", hint="give a dataset of tables"
            )
        self.records = records
        self.chosen = chosen
        self.fields = records.schema
        self._delimiters: dict[int, str] = {}
        self._has_nulls = False  # a column of numbers says "NA", say
        # Of columns of texts; None until the first rows were seen.
        self._codes: dict[str, pl.Categorical] | None = None if coded else {}

    def __len__(self) -> int:
        return len(self.records) if self.chosen is None else len(self.chosen)

    @property
    def schema(self) -> "dict[str, pl.DataType]":
        import polars as pl

        types: dict[str, pl.DataType] = {
            "integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(),
            "time": pl.Datetime("us"),
        }  # fmt: skip
        return {each.name: types.get(each.type, pl.String()) for each in self.fields}

    def stretch_rows(self) -> int:
        """Of the rows that are read alone: others do not change where stretches begin."""
        sizes = self.records.columns["row_size"]
        sizes = sizes if self.chosen is None else sizes[self.chosen]
        mean = int(sizes.sum()) // max(1, len(sizes))
        return max(MIN_STRETCH_ROWS, min(MAX_STRETCH_ROWS, STRETCH_BYTES // max(1, mean)))

    def stretches(
        self,
        columns: Sequence[str] | None = None,
        *,
        first: int = 0,
        last: int | None = None,
        rows: int | None = None,
    ) -> Iterator[Stretch]:
        """From row `first` to before `last`, `rows` at a time. The next stretch is read while this
        one is worked on.

        Raises:
            InvalidRequest: a value is not of its column's type; says file, line and column.
        """
        end = len(self) if last is None else last
        step = rows or self.stretch_rows()

        def one(at: int) -> Stretch:
            stop = min(at + step, end)
            wanted = (
                np.arange(at, stop, dtype=np.int64) if self.chosen is None else self.chosen[at:stop]
            )
            return Stretch(wanted, self.frame_of(wanted, columns))

        return ahead(map(one, range(first, end, step)))

    def frame_of(
        self, rows: NDArray[np.int64], columns: Sequence[str] | None = None
    ) -> "pl.DataFrame":
        """These rows, in this order."""
        import polars as pl

        if not len(rows):
            return pl.DataFrame(schema=self.schema).select(columns or pl.all())
        files = self.records.columns["row_file"]
        of_row = files[rows]
        # Neighbours of one file are read together.
        cuts = np.flatnonzero(of_row[1:] != of_row[:-1]) + 1
        parts = [self._of_file(int(files[part[0]]), part, columns) for part in np.split(rows, cuts)]
        if len({tuple(part.dtypes) for part in parts}) > 1:
            parts = [decoded(part) for part in parts]
        return parts[0] if len(parts) == 1 else pl.concat(parts)

    def _of_file(
        self, file: int, rows: NDArray[np.int64], columns: Sequence[str] | None
    ) -> "pl.DataFrame":
        low, high = int(rows.min()), int(rows.max())
        if ending_of(self.records.path_of(low)) == "parquet":
            frame, first = self._parquet(file, low, high, columns), low
        elif high - low + 1 == len(rows) or (high - low + 1 <= SPARSE * len(rows)):
            frame, first = self._text(file, low, high, columns), low
        else:
            distinct, inverse = np.unique(rows, return_inverse=True)
            frame = self._parsed(file, self._joined(file, distinct), distinct, columns)
            return (
                frame if len(distinct) == len(rows) and (distinct == rows).all() else frame[inverse]
            )
        if len(rows) == len(frame) and bool((np.diff(rows) == 1).all()):
            return frame
        if bool((np.diff(rows) > 0).all()):  # picking by a mask is the faster way
            wanted = np.zeros(len(frame), np.bool_)
            wanted[rows - first] = True
            return frame.filter(wanted)
        return frame[rows - first]

    def _text(
        self, file: int, low: int, high: int, columns: Sequence[str] | None
    ) -> "pl.DataFrame":
        told = self.records.columns
        starts, sizes = told["row_at"][low : high + 1], told["row_size"][low : high + 1]
        gaps = starts[1:] - (starts[:-1] + sizes[:-1])
        between = np.arange(low, high + 1)
        if len(gaps) and int(gaps.max()) > 2:  # empty lines, which polars would take for rows
            return self._parsed(file, self._joined(file, between), between, columns)
        start, end = int(starts[0]), int(starts[-1] + sizes[-1])
        return self._parsed(
            file, self.records.read_part(file, start, end - start), between, columns
        )

    def _joined(self, file: int, rows: NDArray[np.int64]) -> bytes:
        told = self.records.columns
        starts, sizes = told["row_at"][rows], told["row_size"][rows]
        first, pieces = 0, []
        # Read in blocks, though few rows of each are wanted.
        while first < len(rows):
            block = int(starts[first])
            upto = int(np.searchsorted(starts, block + STRETCH_BYTES))
            upto = max(upto, first + 1)
            end = int(starts[upto - 1] + sizes[upto - 1])
            if end - block > SPARSE * SPARSE * int(sizes[first:upto].sum()):
                pieces += [
                    self.records.read_part(file, int(at), int(size))
                    for at, size in zip(starts[first:upto], sizes[first:upto], strict=True)
                ]
            else:
                data = self.records.read_part(file, block, end - block)
                pieces += [
                    data[at : at + size]
                    for at, size in zip(
                        (starts[first:upto] - block).tolist(),
                        sizes[first:upto].tolist(),
                        strict=True,
                    )
                ]
            first = upto
        return b"\n".join(pieces) + b"\n"

    def _parsed(
        self, file: int, data: bytes, rows: NDArray[np.int64], columns: Sequence[str] | None
    ) -> "pl.DataFrame":
        import polars as pl

        ending = ending_of(self.records.path_of(int(rows[0])))
        schema = self.schema
        # Times are read as texts: they are written in more ways than polars takes at once.
        raw = {n: pl.String() if t == pl.Datetime("us") else t for n, t in schema.items()}
        read, codes = _read_json, {}
        if ending in ("csv", "tsv"):
            read, codes = self._read_csv, self._codes_for(file, data, raw)
        try:
            frame = read(file, data, raw | codes)
        except (pl.exceptions.PolarsError, ValueError):
            if any(are_full(each) for each in codes.values()):
                self._codes = {n: each for n, each in codes.items() if not are_full(each)}
                return self._parsed(file, data, rows, columns)
            texts = read(file, data, dict.fromkeys(schema, pl.String()))
            frame = self._typed(texts, raw, rows)
        if len(frame) != len(rows):
            raise InvalidRequest(
                f"{self.where(int(rows[0]))}: of {len(rows)} rows {len(frame)} were read",
                hint="is a quote missing?",
            )
        if columns is not None:
            frame = frame.select(columns)
        times = [name for name in frame.columns if schema[name] == pl.Datetime("us")]
        return frame.with_columns(self._times(frame[name], rows) for name in times)

    def _codes_for(
        self, file: int, data: bytes, schema: "dict[str, Any]"
    ) -> "dict[str, pl.Categorical]":
        """Of the columns that have few texts in the rows that were read first."""
        import polars as pl

        codes = self._codes
        if codes is None:
            texts = dict.fromkeys(schema, pl.String())
            sample = self._csv_reader(file, data, texts)(n_rows=LOOKED_AT)
            codes = {
                name: new_codes()
                for name, dtype in self.schema.items()
                if dtype == pl.String() and sample[name].n_unique() <= FEW
            }
            self._codes = codes
        return codes

    def _read_csv(self, file: int, data: bytes, schema: "Mapping[str, Any]") -> "pl.DataFrame":
        import polars as pl

        read = self._csv_reader(file, data, schema)
        if not self._has_nulls:
            try:
                return _with_nulls(read())
            except pl.exceptions.PolarsError:  # where a number should be, say
                if any(is_coded(each) and are_full(each) for each in schema.values()):
                    raise
                self._has_nulls = True
        return read(null_values=NULLS)

    def _csv_reader(
        self, file: int, data: bytes, schema: "Mapping[str, Any]"
    ) -> "Callable[..., pl.DataFrame]":
        import polars as pl

        if file not in self._delimiters:
            head = self.records.read_part(file, 0, min(HEADER_BYTES, self._size(file)))
            line = head.removeprefix(BOM).partition(b"\n")[0].decode(errors="replace")
            path = self.records.path_of(
                int(np.flatnonzero(self.records.columns["row_file"] == file)[0])
            )
            self._delimiters[file] = delimiter_of(path, line)
        return partial(
            pl.read_csv,
            data,
            has_header=False,
            schema=dict(schema),
            separator=self._delimiters[file],
        )

    def _size(self, file: int) -> int:
        return self.records.place_of(file)[2]

    def _typed(
        self, texts: "pl.DataFrame", schema: "Mapping[str, Any]", rows: NDArray[np.int64]
    ) -> "pl.DataFrame":
        """Texts as their types, once more and carefully, to say what is wrong."""
        import polars as pl

        made = []
        for name, dtype in schema.items():
            column = texts[name]
            if dtype != pl.String():
                stripped = column.str.strip_chars()
                stripped = stripped.set(stripped.is_in(NULLS), None)
                if dtype == pl.Boolean():
                    found = stripped.str.to_lowercase().replace_strict(
                        ["true", "false"], [True, False], default=None, return_dtype=pl.Boolean
                    )
                else:
                    found = stripped.cast(dtype, strict=False)
                self._check(name, stripped, found, rows)
                column = found
            made.append(column.alias(name))
        return pl.DataFrame(made)

    def _times(self, column: "pl.Series", rows: NDArray[np.int64]) -> "pl.Series":
        import polars as pl

        column = column.str.strip_chars()
        found = column.str.to_datetime(_TIMES[0], time_unit="us", strict=False)
        for format in _TIMES[1:]:
            if found.null_count() == column.null_count():
                break
            if format == "%Y-%m-%d":
                other = column.str.to_date(format, strict=False).cast(pl.Datetime("us"))
            else:
                other = column.str.to_datetime(format, time_unit="us", strict=False)
            found = found.fill_null(other)
        if found.null_count() > column.null_count():  # with a time zone, say
            rest = column.filter(found.is_null() & column.is_not_null()).unique().to_list()
            parsed = {text: time_of(text) for text in rest}
            other = column.replace_strict(
                list(parsed), list(parsed.values()), default=None, return_dtype=pl.Datetime("us")
            )
            found = found.fill_null(other)
        self._check(column.name, column, found, rows)
        return found.alias(column.name)

    def _check(
        self, name: str, texts: "pl.Series", found: "pl.Series", rows: NDArray[np.int64]
    ) -> None:
        wrong = (found.is_null() & texts.is_not_null()).arg_true()
        if len(wrong):
            type = next(each.type for each in self.fields if each.name == name)
            raise InvalidRequest(
                f"{self.where(int(rows[wrong[0]]))}: {name!a} is {texts[int(wrong[0])]!a}, and the "
                f"column is {type} by the rows that were looked at",
                hint="correct the value, or leave it empty",
            )

    def where(self, row: int) -> str:
        """The file and the line of a row, for people. Reads the file up to there."""
        path, told = self.records.path_of(row), self.records.columns
        if ending_of(path) == "parquet":
            return f"{path}, row {int(told['row_at'][row])}"
        file, end, lines = int(told["row_file"][row]), int(told["row_at"][row]), 1
        for at in range(0, end, STRETCH_BYTES):
            block = self.records.read_part(file, at, min(STRETCH_BYTES, end - at))
            lines += int(np.count_nonzero(np.frombuffer(block, np.uint8) == NEWLINE))
        return f"{path}:{lines}"

    def _parquet(
        self, file: int, low: int, high: int, columns: Sequence[str] | None
    ) -> "pl.DataFrame":
        import polars as pl

        at = self.records.columns["row_at"]
        path, start, size = self.records.place_of(file)
        source: Any = path
        if start or path.stat().st_size != size:
            source = io.BytesIO(self.records.read_part(file, 0, size))
        found = pl.scan_parquet(source).slice(int(at[low]), high - low + 1)
        schema = self.schema
        found = found.select(columns or list(schema))
        frame = found.collect()
        return frame.with_columns(
            pl.col(name).cast(schema[name])
            for name in frame.columns
            if frame.schema[name] != schema[name] and _is_plain(frame.schema[name])
        )


def time_of(text: str) -> datetime | None:
    """In UTC, without a time zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def lazy_frame(table: Table) -> "pl.LazyFrame":
    """Read when it is collected, and only the columns that are asked for."""
    import polars as pl
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None,
        predicate: "pl.Expr | None",
        n_rows: int | None,
        batch_size: int | None,
    ) -> "Iterator[pl.DataFrame]":
        for _, frame in table.stretches(with_columns, last=_least(len(table), n_rows)):
            yield frame if predicate is None else frame.filter(predicate)

    schema = pl.Schema(table.frame_of(np.arange(0)).schema)
    found: pl.LazyFrame = register_io_source(source, schema=schema)
    return found


def read_numbered(records: Any, at: Sequence[int]) -> list[bytes | memoryview]:
    """Rows that have no bytes of their own, as JSON."""
    import msgspec

    rows = np.asarray(at, np.int64)
    if not 0 <= int(rows.min()) <= int(rows.max()) < len(records):
        raise IndexError(f"samples are numbered from 0 to {len(records) - 1}")
    found = Table(records).frame_of(rows)
    return [msgspec.json.encode(row, enc_hook=str) for row in found.iter_rows(named=True)]


def _least(rows: int, wanted: int | None) -> int:
    return rows if wanted is None else min(rows, wanted)


def _with_nulls(frame: "pl.DataFrame") -> "pl.DataFrame":
    """As `read_csv` with null values makes it, in half the time."""
    import polars as pl

    made = []
    for column in frame:
        if column.dtype == pl.String():
            is_null = column.is_in(NULLS)
            made.append(column.set(is_null, None) if is_null.any() else column)
        elif isinstance(column.dtype, pl.Categorical):
            made.append(recoded(column, _without_nulls, column.dtype))
        else:
            made.append(column.fill_nan(None) if column.dtype.is_float() else column)
    return pl.DataFrame(made)


def _without_nulls(texts: "pl.Series") -> "pl.Series":
    return texts.set(texts.is_in(NULLS), None)


def _read_json(file: int, data: bytes, schema: "Mapping[str, Any]") -> "pl.DataFrame":
    import polars as pl

    return pl.read_ndjson(data, schema=dict(schema))


def _is_plain(dtype: "pl.DataType") -> bool:
    return not dtype.is_nested() and str(dtype) not in ("Binary", "Object")
