"""Tables that people bring as CSV: every complaint names file and line, and what was expected."""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from leptonai.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Row:
    source: str
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        cell = self.cells[column].strip()
        if not cell:
            raise self.wrong(f"{column} is empty", expected="a name")
        return cell

    def number(self, column: str) -> float:
        """More than zero and finite."""
        expected = "a number above 0"
        try:
            number = float(self.cells[column])
        except ValueError:
            raise self.wrong(f"{column} is {self.cells[column]!r}", expected=expected) from None
        if not math.isfinite(number) or number <= 0:
            raise self.wrong(f"{column} is {number:g}", expected=expected)
        return number

    def wrong(self, what: str, *, expected: str) -> InvalidRequest:
        return InvalidRequest(f"{self.source}:{self.line}: {what}", hint=f"expected {expected}")


def read_table(lines: Iterable[str], *, source: str, columns: Sequence[str]) -> Iterator[Row]:
    """The rows below a header that has these columns, in any order; at least one."""
    expected = f"a header with {', '.join(columns)}"
    reader = csv.reader(lines)
    rows = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise InvalidRequest(f"{source}:1: the file is empty", hint=f"expected {expected}")
        missing = [name for name in columns if name not in header]
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
            row = Row(source, reader.line_num, dict(zip(header, cells, strict=False)))
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
