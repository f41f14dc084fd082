"""`Admission`: what may come into a pipeline of tables: the columns that it was fitted on, each of
its type. Texts are not taken for numbers, nor 2.5 for an integer: that would hide wrong data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from leptonai.data.coded import is_coded
from leptonai.data.frames import time_of
from leptonai.data.manifest import Field
from leptonai.data.pipeline.tables.table import Row
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

SHOWN = 80  # characters of a wrong value
WHAT = {
    "integer": "an integer", "number": "a number", "boolean": "true or false", "text": "a text",
    "time": "a time as 2026-01-31T12:00:00",
}  # fmt: skip


class Admission:
    def __init__(self, takes: Sequence[Field], target: str | None) -> None:
        self._takes = tuple(takes)
        self._target = target
        self._told: list[tuple[str, Callable[[Any], Any], str, bool]] = [
            (each.name, _AS.get(each.type, lambda value: value), each.type, each.name == target)
            for each in takes
        ]

    @property
    def schema(self) -> "dict[str, pl.DataType]":
        return {each.name: dtype_of(each.type) for each in self._takes}

    def row(self, given: Mapping[str, Any]) -> Row:
        """A new one; None for what is missing.

        Raises:
            InvalidRequest: a column is not there, or not of its type; says which.
        """
        row = {}
        for name, admit, type, is_target in self._told:
            try:
                value = given[name]
            except KeyError:
                if is_target:
                    continue
                raise _missing(name, given) from None
            if value is not None:
                try:
                    value = admit(value)
                except (TypeError, ValueError, OverflowError):
                    raise _wrong(name, value, type) from None
            row[name] = value
        return row

    def frame_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> "pl.DataFrame":
        import polars as pl

        admitted = []
        for at, given in enumerate(rows):
            try:
                admitted.append(self.row(given))
            except InvalidRequest as wrong:
                raise InvalidRequest(f"row {at}: {wrong.message}", hint=wrong.hint) from None
        there = {name for row in admitted for name in row}
        return pl.DataFrame(
            {name: [row.get(name) for row in admitted] for name in self.schema if name in there},
            schema={name: dtype for name, dtype in self.schema.items() if name in there},
            strict=False,
        )

    def frame(self, frame: "pl.DataFrame", at: int) -> "pl.DataFrame":
        """The columns that it knows, of their types. NaN is missing.

        Args:
            at: the number of the first row, for errors.
        """
        made = []
        for each in self._takes:
            if each.name not in frame.columns:
                if each.name == self._target:
                    continue
                raise _missing(each.name, frame.columns)
            made.append(_as_type(frame[each.name], each, at))
        return frame.select(made)


def fields_of(frame: "pl.DataFrame") -> tuple[Field, ...]:
    """What a frame's columns hold."""
    return tuple(Field(name, _type(dtype)) for name, dtype in frame.schema.items())


def in_fields(frame: "pl.DataFrame", takes: Sequence[Field]) -> "pl.DataFrame":
    return frame.select(
        _as_type(frame[each.name], each, 0) for each in takes if each.name in frame.columns
    )


def dtype_of(type: str) -> "pl.DataType":
    import polars as pl

    return {
        "integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(),
        "text": pl.String(), "time": pl.Datetime("us"),
    }.get(type, pl.Object())  # fmt: skip


def _type(dtype: "pl.DataType") -> str:
    name = str(dtype.base_type())
    if dtype.is_integer():
        return "integer"
    if dtype.is_numeric():
        return "number"
    if name in ("Date", "Datetime"):
        return "time"
    return {"Boolean": "boolean", "String": "text", "Categorical": "text", "Enum": "text",
            "Null": "text"}.get(name, "other")  # fmt: skip


def _as_type(column: "pl.Series", field: Field, at: int) -> "pl.Series":
    import polars as pl

    wanted, found = dtype_of(field.type), _type(column.dtype)
    if column.dtype == pl.Null():
        return column.cast(wanted) if field.type != "other" else column
    if field.type == "integer" and found == "number":
        whole = column.fill_nan(None)
        wrong = (whole != whole.floor()) | whole.is_infinite()
        if wrong.fill_null(False).any():
            row = int(wrong.arg_true()[0])
            raise _wrong(field.name, column[row], field.type, f"row {at + row}: ")
        return whole.cast(pl.Int64)
    if field.type == "number" and found in ("integer", "number"):
        return column.cast(pl.Float64).fill_nan(None)
    if field.type == "time" and found == "time":
        if getattr(column.dtype, "time_zone", None):
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return column.cast(pl.Datetime("us"))
    if found == field.type:
        if is_coded(column.dtype):
            return column
        return column.cast(wanted) if field.type != "other" and column.dtype != wanted else column
    first = column.is_not_null().arg_true()
    if not len(first):
        return pl.Series(column.name, [None] * len(column), wanted)
    if field.type == "time" and found == "text":
        return pl.Series(
            column.name,
            [None if v is None else _admitted(field, v, at + n) for n, v in enumerate(column)],
            wanted,
        )
    row = int(first[0])
    raise _wrong(field.name, column[row], field.type, f"row {at + row}: ")


def _admitted(field: Field, value: Any, row: int) -> Any:
    try:
        return _AS[field.type](value)
    except (TypeError, ValueError):
        raise _wrong(field.name, value, field.type, f"row {row}: ") from None


def _integer(value: Any) -> int | None:
    if isinstance(value, bool | str | bytes):
        raise TypeError
    if isinstance(value, float) and math.isnan(value):
        return None
    number = int(value)
    if number != value or not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _number(value: Any) -> float | None:
    if isinstance(value, bool | str | bytes):
        raise TypeError
    number = float(value)
    return None if number != number else number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool) and type(value).__name__ != "bool":
        raise TypeError
    return bool(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _time(value: Any) -> datetime:
    if isinstance(value, str):
        found = time_of(value)
        if found is None:
            raise ValueError
        return found
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    raise TypeError


_AS: dict[str, Callable[[Any], Any]] = {
    "integer": _integer, "number": _number, "boolean": _boolean, "text": _string, "time": _time,
}  # fmt: skip


def _missing(name: str, there: Any) -> InvalidRequest:
    told = ", ".join(map(str, there))[:200]
    return InvalidRequest(
        f"the column {name!a} is not there", hint=f"there are {told or 'none'}; None is missing"
    )


def _wrong(name: str, value: Any, type: str, where: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"{where}{name!a} is {ascii(value)[:SHOWN]}, and not {WHAT.get(type, type)}",
        hint="send what the training data has there, or None if it is missing",
    )
