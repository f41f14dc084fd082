"""Tables that people bring as CSV: every complaint names file and line, and what was expected."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from leptonai.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Column:
    """What a reader calls a column, and the headers that mean it: the first that is there."""

    name: str
    headers: tuple[str, ...] = ()  # none: as it is called
    optional: bool = False

    def __str__(self) -> str:
        return " or ".join(self.headers or (self.name,))


@dataclass(frozen=True, slots=True)
class Row:
    source: str
    line: int
    cells: Mapping[str, str]  # by header
    headers: Mapping[str, str] = field(default_factory=dict)  # by column, where called otherwise

    def __contains__(self, column: str) -> bool:
        return self.header(column) in self.cells

    def header(self, column: str) -> str:
        return self.headers.get(column, column)

    def cell(self, column: str) -> str:
        return self.cells[self.header(column)].strip()

    def text(self, column: str) -> str:
        cell = self.cell(column)
        if not cell:
            raise self.wrong(f"{self.header(column)} is empty", expected="a name")
        return cell

    def number(self, column: str, *, zero: bool = False) -> float:
        """Finite and more than zero, or also zero."""
        expected = "a number, 0 or above" if zero else "a number above 0"
        try:
            number = float(self.cell(column))
        except ValueError:
            raise self.is_not(column, expected) from None
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
            raise self.wrong(f"{self.header(column)} is {number:g}", expected=expected)
        return number

    def whole(self, column: str, *, zero: bool = False) -> int:
        number = self.number(column, zero=zero)
        if not number.is_integer():
            raise self.wrong(f"{self.header(column)} is {number:g}", expected="a whole number")
        return int(number)

    def instant(self, column: str) -> float | datetime:
        """A number, 0 or above, in the table's own unit, or a date and time, in UTC if without a
        time zone."""
        cell = self.cell(column)
        if cell[4:5] == "-":  # 2017-09-04 10:30:41, not 1e-04
            try:
                moment = datetime.fromisoformat(cell)
            except ValueError:
                raise self.is_not(column, "a time such as 2017-09-04 10:30:41") from None
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return self.number(column, zero=True)

    def is_not(self, column: str, expected: str) -> InvalidRequest:
        return self.wrong(f"{self.header(column)} is {self.cell(column)!r}", expected=expected)

    def wrong(self, what: str, *, expected: str) -> InvalidRequest:
        return InvalidRequest(f"{self.source}:{self.line}: {what}", hint=f"expected {expected}")


def read_table(
    lines: Iterable[str], *, source: str, columns: Sequence[str | Column]
) -> Iterator[Row]:
    """The rows below a header that has these columns, in any order; at least one."""
    wanted = [Column(column) if isinstance(column, str) else column for column in columns]
    needed = [str(column) for column in wanted if not column.optional]
    expected = f"a header with {', '.join(needed)}"
    reader = csv.reader(lines)
    rows = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise InvalidRequest(f"{source}:1: the file is empty", hint=f"expected {expected}")
        found = {
            column.name: name
            for column in wanted
            for name in reversed(column.headers or (column.name,))
            if name in header
        }
        missing = [str(c) for c in wanted if not c.optional and c.name not in found]
        if missing:
            what = f"{source}:1: there is no column {', '.join(missing)}"
            raise InvalidRequest(what, hint=f"expected {expected}")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            what = f"{source}:1: the column {twice!r} is there twice"
            raise InvalidRequest(what, hint="expected each column once")
        for cells in reader:
            if not cells:  # a blank line
                continue
            row = Row(source, reader.line_num, dict(zip(header, cells, strict=False)), found)
            if len(cells) != len(header):
                raise row.wrong(f"{len(cells)} cells", expected=f"{len(header)}, as in the header")
            rows += 1
            yield row
    except csv.Error as wrong:
        what = f"{source}:{reader.line_num}: {wrong}"
        raise InvalidRequest(what, hint="expected comma-separated values") from wrong
    if not rows:
        what = f"{source}:{reader.line_num}: there is no row below the header"
        raise InvalidRequest(what, hint="expected at least one")
