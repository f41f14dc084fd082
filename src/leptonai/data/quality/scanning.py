"""How the files of a table become columns of its types, and what does not fit is kept beside."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.data.frames import NULLS, TableRecords
from leptonai.data.tables import delimiter_of, ending_of

if TYPE_CHECKING:
    import polars as pl

TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")


def scanned(
    files: Sequence[tuple[str, Path | bytes]], types: Mapping[str, str]
) -> tuple["pl.LazyFrame", dict[str, str]]:
    """All rows of all files; and of a CSV, by column, the column beside it that holds the texts
    that are not of its type."""
    import polars as pl

    parts = []
    unfit = {
        name: f"__unfit{at}"
        for at, (name, type) in enumerate(types.items())
        if type != "text" and ending_of(files[0][0]) in ("csv", "tsv")
    }
    for path, source in files:
        scan = source if isinstance(source, Path) else io.BytesIO(source)
        match ending_of(path):
            case "csv" | "tsv":
                with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as text:
                    header = text.readline().decode(errors="replace")
                raw = pl.scan_csv(
                    scan,
                    infer_schema=False,
                    separator=delimiter_of(path, header),
                    empty_string_is_null=False,
                    with_column_names=lambda names: [name.strip() for name in names],
                )
                # A line without anything is no row.
                raw = raw.filter(~pl.all_horizontal(pl.all().is_null()))
                part = raw.select(
                    *(_typed(name, type).alias(name) for name, type in types.items()),
                    *(
                        pl.when(_typed(name, types[name]).is_null())
                        .then(_present(name))
                        .alias(beside)
                        for name, beside in unfit.items()
                    ),
                )
            case "parquet":
                part = _as_types(pl.scan_parquet(scan), types)
            case _:
                as_read = {
                    "integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(),
                }  # fmt: skip
                schema = {name: as_read.get(type, pl.String()) for name, type in types.items()}
                part = pl.scan_ndjson(scan, schema=schema).with_columns(
                    _time(pl.col(name)).alias(name)
                    for name, type in types.items()
                    if type == "time"
                )
        parts.append(part)
    return pl.concat(parts) if len(parts) > 1 else parts[0], unfit


def source_of(records: "TableRecords", file: int) -> Path | bytes:
    """Where a file lies, for Polars to read piece by piece; of one in a pack its bytes, which are
    few."""
    path, start, size = records.place_of(file)
    if start == 0 and path.stat().st_size == size:
        return path
    return records.read_part(file, 0, size)


def _as_types(lazy: "pl.LazyFrame", types: Mapping[str, str]) -> "pl.LazyFrame":
    import polars as pl

    to: dict[str, Any] = {
        "integer": pl.Int64, "number": pl.Float64, "boolean": pl.Boolean, "text": pl.String,
        "time": pl.Datetime("us"),
    }  # fmt: skip
    found = lazy.collect_schema()
    casts = []
    for name, type in types.items():
        column = pl.col(name)
        if getattr(found[name], "time_zone", None):
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        elif isinstance(found[name], (pl.Duration, pl.Time)):
            column = column.cast(pl.Int64)
        casts.append(column.cast(to[type], strict=False).alias(name))
    return lazy.select(casts)


def _present(name: str) -> "pl.Expr":
    import polars as pl

    text = pl.col(name).str.strip_chars()
    return pl.when(~text.is_in(NULLS)).then(text)


def _typed(name: str, type: str) -> "pl.Expr":
    import polars as pl

    text = _present(name)
    match type:
        case "integer":
            return text.cast(pl.Int64, strict=False)
        case "number":
            return text.cast(pl.Float64, strict=False)
        case "boolean":
            lower = text.str.to_lowercase()
            return pl.when(lower.is_in(["true", "false"])).then(lower == "true")
        case "time":
            return _time(text)
        case _:
            return text


def _time(text: "pl.Expr") -> "pl.Expr":
    """ISO 8601; what names an offset becomes UTC."""
    import polars as pl

    joined = text.str.replace(" ", "T", literal=True)
    zoned = joined.str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us", time_zone="UTC"
    )
    return pl.coalesce(
        *(joined.str.to_datetime(each, strict=False, time_unit="us") for each in TIME_FORMATS),
        zoned.dt.replace_time_zone(None),
        text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )
