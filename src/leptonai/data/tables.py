"""Tables as files: where each row begins, and what the columns hold. CSV, TSV, JSON lines, Parquet.

Rows of text are found by arithmetic on all bytes at once; only a sample is parsed to guess the
types. Memory: what the file is mapped with, and 12 bytes a row.
"""

import codecs
import csv
import io
import mmap
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from leptonai.data.columns import Array
from leptonai.data.manifest import Field
from leptonai.data.walk import Listing
from leptonai.errors import InvalidRequest

BLOCK_BYTES = 4 << 20  # of a table looked at at once
SCANNED_BYTES = 256 << 10  # the same, where several passes are made: what the cache holds
SCANNING_THREADS = 4
BLOCKS_A_RETURN = 16  # scanned, then their pages are given back
GUESSED_ROWS = 1000  # of each file, that the types are guessed by
GUESSED_AT_ONCE = 32  # rows from all over: with each the system maps up to 2 MiB around it
MAX_COLUMNS = 10_000
MAX_FIELD_CHARS = 1 << 30
JSON_LINES = ("jsonl", "ndjson")
NEWLINE, QUOTE, RETURN = 10, 34, 13
BOM = b"\xef\xbb\xbf"

Content = bytes | memoryview


@dataclass(frozen=True)
class Table:
    schema: tuple[Field, ...]
    header: bool
    columns: dict[str, Array]


def describe_tables(listing: Listing, files: Sequence[int], read: Any) -> Table:
    """The files as one table.

    Raises:
        InvalidRequest: a row, or a file's columns, do not fit; says which.
    """
    schema: tuple[Field, ...] | None = None
    starts: list[Array] = []
    sizes: list[Array] = []
    of_file: list[Array] = []
    first = listing.paths[files[0]]
    for file in files:
        path, content = listing.paths[file], read(file)
        found, start, size = _rows_of(path, content)
        if schema is not None and ending_of(path) in JSON_LINES:  # its fields have no order
            place = {name: at for at, name in enumerate(_names(schema))}
            found = tuple(sorted(found, key=lambda each: place.get(each.name, len(place))))
        if schema is not None and _names(found) != _names(schema):
            raise InvalidRequest(
                f"{path} has the columns {', '.join(_names(found))[:200]}, and {first} has "
                f"{', '.join(_names(schema))[:200]}",
                hint="make the files of one dataset alike",
            )
        schema = found if schema is None else _merged(schema, found, path)
        starts.append(start)
        sizes.append(size)
        of_file.append(np.full(len(start), file, np.uint32))
    assert schema is not None
    columns = {
        "row_file": np.concatenate(of_file),
        "row_at": _joined(starts),
        "row_size": _joined(sizes),
    }
    return Table(schema, ending_of(first) in ("csv", "tsv"), columns)


def _joined(parts: list[Array]) -> Array:
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return joined.view(np.uint64) if joined.dtype == np.int64 else joined.astype(np.uint64)


def check_text(path: str, content: Content) -> None:
    """Raises:
    InvalidRequest: it is not UTF-8; says the line.
    """
    view = memoryview(content)
    check = _Utf8(path, view)
    for at in range(0, len(view), SCANNED_BYTES):
        check.block(at)
        _give_back(view)


class _Utf8:
    """Looks at blocks of a text, in their order."""

    def __init__(self, path: str, view: memoryview) -> None:
        self._path, self._view = path, view
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._pending = 0  # bytes of a character that the last block ended inside of

    def block(self, at: int, *, is_ascii: bool = False) -> None:
        """
        Args:
            is_ascii: known to be, where it was looked at for something else.
        """
        if is_ascii and not self._pending:
            return
        end = at + SCANNED_BYTES
        try:
            self._decoder.decode(self._view[at:end], end >= len(self._view))
        except UnicodeDecodeError as wrong:
            line = 1 + _count(self._view[: max(0, at - self._pending + wrong.start)], NEWLINE)
            raise InvalidRequest(
                f"{self._path}:{line}: the text is not UTF-8", hint="save it as UTF-8"
            ) from None
        self._pending = len(self._decoder.getstate()[0])


def read_table(path: str, content: Content) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header, and each row with its line. For tables that describe others: Python reads them.

    Raises:
        InvalidRequest: a row has more or fewer fields than the header; says which.
    """
    check_text(path, content)
    text = bytes(content).removeprefix(BOM).decode()
    header_line = text.partition("\n")[0]
    reader = _reader(io.StringIO(text, newline=""), delimiter_of(path, header_line))
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise InvalidRequest(f"{path} is empty", hint="fill it or remove it")

    def rows() -> Iterator[tuple[int, list[str]]]:
        line = reader.line_num + 1
        try:
            for row in reader:
                if row:
                    _check_fields(path, line, len(row), len(header))
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as wrong:
            raise InvalidRequest(f"{path}:{line}: {wrong}", hint="is it CSV?") from wrong

    return header, rows()


def values_of(path: str, content: Content, column: str) -> Iterator[tuple[int, str]]:
    """One column of a table of text: each row's line, and its value there; "" for what is null."""
    if ending_of(path) in ("csv", "tsv"):
        header, rows = read_table(path, content)
        at = header.index(column)
        yield from ((line, row[at]) for line, row in rows)
    else:
        for line, row in _json_rows(path, content):
            value = row.get(column)
            yield line, "" if value is None else str(value)


# --- rows ----------------------------------------------------------------------------------------


def _rows_of(path: str, content: Content) -> tuple[tuple[Field, ...], Array, Array]:
    """Schema, and where each row begins and how long it is."""
    match ending_of(path):
        case "csv" | "tsv":
            return _csv_rows(path, content)
        case "parquet":
            return _parquet_rows(path, content)
        case _:
            return _json_lines(path, content)


def _csv_rows(path: str, content: Content) -> tuple[tuple[Field, ...], Array, Array]:
    view = memoryview(content)
    first = bytes(view[:BLOCK_BYTES]).removeprefix(BOM).partition(b"\n")[0].decode(errors="replace")
    delimiter = delimiter_of(path, first)
    header: list[str] = []
    all_starts, all_sizes = _Growing(), _Growing()
    for begins, lengths, counts, lines in _rows_by_block(path, view, ord(delimiter)):
        filled = lengths > 0
        if not header:
            header = [name.strip() for name in _fields(path, view, 0, int(lengths[0]), delimiter)]
            _check_header(path, header)
            filled[0] = False
        wrong = np.flatnonzero(filled & (counts + 1 != len(header)))
        if len(wrong):
            row = int(wrong[0])
            _check_fields(path, int(lines[row]), int(counts[row]) + 1, len(header))
        all_starts.add(begins[filled])
        all_sizes.add(lengths[filled])
    starts, sizes = all_starts.whole(), all_sizes.whole()
    if not len(starts):
        raise InvalidRequest(f"{path} has a header and no rows", hint="fill it or remove it")
    # The first rows, and as many from all over the file.
    spread = np.linspace(0, len(starts) - 1, GUESSED_ROWS).astype(np.int64)
    looked_at = np.union1d(np.arange(min(GUESSED_ROWS, len(starts))), spread)
    sample = []
    for at, size in zip(starts[looked_at].tolist(), sizes[looked_at].tolist(), strict=True):
        sample.append(_fields(path, view, at, size, delimiter))
        if len(sample) % GUESSED_AT_ONCE == 0:
            _give_back(view)
    schema = tuple(
        Field(name, _type_of_texts([row[at] for row in sample])) for at, name in enumerate(header)
    )
    return schema, starts, sizes


def _fields(path: str, view: memoryview, at: int, size: int, delimiter: str) -> list[str]:
    """Of one row."""
    text = bytes(view[at : at + size]).removeprefix(BOM).decode()
    try:
        return next(_reader([text], delimiter))
    except csv.Error as wrong:
        raise InvalidRequest(
            f"{path}:{1 + _count(view[:at], NEWLINE)}: a line ends in a carriage return alone"
            if "\r" in text
            else f"{path}:{1 + _count(view[:at], NEWLINE)}: {wrong}",
            hint="end lines in a newline, and put quotes around a field that has more than one",
        ) from wrong


def _reader(lines: Iterable[str], delimiter: str) -> Any:
    csv.field_size_limit(MAX_FIELD_CHARS)  # of this process: some texts are longer than usual
    return csv.reader(lines, delimiter=delimiter)


class _Growing:
    """Numbers that come piece by piece, in one place that grows where it is: joined in the end,
    they would be there twice."""

    def __init__(self) -> None:
        self._numbers = np.empty(1 << 16, np.int64)
        self._count = 0

    def add(self, piece: Array) -> None:
        end = self._count + len(piece)
        if end > len(self._numbers):
            self._numbers.resize(max(end, len(self._numbers) * 5 // 4), refcheck=False)
        self._numbers[self._count : end] = piece
        self._count = end

    def whole(self) -> Array:
        self._numbers.resize(self._count, refcheck=False)
        return self._numbers


class _Marks(NamedTuple):
    """Of one block: delimiters and ends of rows outside of quotes."""

    marks: int
    ends: Array  # where rows end
    nth: Array  # which of the marks those are
    newlines: Array | None  # all that there are, where some end no row
    inside: bool  # the block ends within quotes
    last: int  # its last byte
    before: Array  # the byte before each end of a row; wrong for an end at 0
    is_ascii: bool
    stray: int  # a quote that neither begins nor ends a field; -1 if there is none


def _marks(view: memoryview, at: int, delimiter: int, inside: bool) -> _Marks:
    """
    Args:
        inside: the block begins within quotes.
    """
    block = np.frombuffer(view[at : at + SCANNED_BYTES], np.uint8)
    newline = block == NEWLINE
    marked = newline | (block == delimiter)
    quotes = block == QUOTE
    newlines: Array | None = None
    stray = -1
    if inside or quotes.any():
        stray = _stray_quote(view, at, np.flatnonzero(quotes), delimiter, inside)
        within = ((np.cumsum(quotes, dtype=np.uint8) + inside) & 1).astype(bool)
        inside = bool(within[-1])
        marked &= ~within
        newlines = np.flatnonzero(newline)
    marks = np.flatnonzero(marked)
    nth = np.flatnonzero(newline[marks])
    ends = marks[nth]
    before = block[np.maximum(ends - 1, 0)]
    is_ascii = int(block.max()) < 128
    return _Marks(len(marks), ends, nth, newlines, inside, int(block[-1]), before, is_ascii, stray)


def _stray_quote(view: memoryview, at: int, quotes: Array, delimiter: int, inside: bool) -> int:
    """Where the first of these quotes of a block is that on its outer side has neither a border of
    its field nor another quote; -1 if there is none."""
    before, after = max(0, at - 1), at + SCANNED_BYTES + 1
    around = np.frombuffer(bytes(view[before:after]) + b"\n", np.uint8)  # the last: after the text
    border = np.zeros(256, bool)
    border[[delimiter, NEWLINE, RETURN, QUOTE]] = True
    opening, closing = quotes[int(inside) :: 2], quotes[1 - int(inside) :: 2]
    stray = [
        *opening[~border[around[opening + (at - before - 1)]]][:2],
        *closing[~border[around[closing + (at - before + 1)]]][:1],
    ]
    first = len(BOM) if at == 0 and bytes(view[: len(BOM)]) == BOM else 0
    return int(min((each for each in stray if at + each != first), default=-1))


def _marks_ahead(view: memoryview, delimiter: int) -> Iterator[tuple[int, _Marks]]:
    """Of each block, from where on it is. Blocks are looked at by several threads as if none began
    within quotes; those that do are looked at once more.

    Source: Ge et al. 2019, "Speculative Distributed CSV Data Parsing for Big Data Analytics".
    """
    inside = False
    blocks = iter(range(0, len(view), SCANNED_BYTES))
    coming: deque[tuple[int, Future[_Marks]]] = deque()
    threads = min(SCANNING_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, "leptonai-rows") as pool:
        while True:
            for at in islice(blocks, 2 * threads - len(coming)):
                coming.append((at, pool.submit(_marks, view, at, delimiter, False)))
            if not coming:
                return
            at, future = coming.popleft()
            found = future.result()
            if inside:
                found = _marks(view, at, delimiter, True)
            inside = found.inside
            yield at, found
            if at // SCANNED_BYTES % BLOCKS_A_RETURN == 0:
                _give_back(view)


def _rows_by_block(
    path: str, view: memoryview, delimiter: int
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Of the rows that end in each block of bytes: where they begin, how long they are, how many
    delimiters they have, and the line they begin on. What stands between quotes is neither a
    delimiter nor an end. A row of nothing has the length 0.

    Raises:
        InvalidRequest: the text is not UTF-8, or its quotes are not around fields; says the line.
    """
    check = _Utf8(path, view)
    carried, line, before_block = 0, 1, 0
    start, start_line = 0, 1  # of the row that the block begins inside of
    for at, found in _marks_ahead(view, delimiter):
        check.block(at, is_ascii=found.is_ascii)
        end, nth, last = found.ends, found.nth, found.before
        lines = len(end) if found.newlines is None else len(found.newlines)
        size = min(SCANNED_BYTES, len(view) - at)
        if found.stray >= 0:
            raise InvalidRequest(
                f"{path}:{line + _count(view[at : at + found.stray], NEWLINE)}: a quote within a "
                "field that has none around it",
                hint='write 5" as "5""": quotes around the whole field, and each within it twice',
            )
        if at + size == len(view) and (not len(end) or end[-1] != size - 1):  # its row has no end
            end, nth, last = (
                np.append(end, size),
                np.append(nth, found.marks),
                np.append(last, found.last),
            )
        if len(end):
            count = np.diff(nth, prepend=-1) - 1
            count[0] += carried
            carried = found.marks - int(nth[-1]) - 1
            begins = np.concatenate([[start], end[:-1] + (at + 1)])
            if end[0] == 0:
                last[0] = before_block
            lengths = end + at - begins
            lengths -= (last == RETURN) & (lengths > 0)
            before = (
                np.arange(len(end))
                if found.newlines is None
                else np.searchsorted(found.newlines, end)
            )
            next_lines = line + before + 1
            lines_of_rows = np.concatenate([[start_line], next_lines[:-1]])
            if found.inside and at + size == len(view):
                raise InvalidRequest(
                    f"{path}:{lines_of_rows[-1]}: a quote is opened in this row, and never closed",
                    hint="close it",
                )
            yield begins, lengths, count, lines_of_rows
            start, start_line = int(end[-1]) + at + 1, int(next_lines[-1])
        else:
            carried += found.marks
        line += lines
        before_block = found.last


def _give_back(view: memoryview) -> None:
    """Pages of a mapped file that were read count as our memory until we say that we are done."""
    if isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)


def _json_lines(path: str, content: Content) -> tuple[tuple[Field, ...], Array, Array]:
    check_text(path, content)
    starts: list[int] = []
    sizes: list[int] = []
    types: dict[str, str] = {}
    view = memoryview(content)
    line_of: dict[str, int] = {}
    start = 0
    for number, end in enumerate(_newlines(view), start=1):
        line = bytes(view[start:end])
        if line.strip():
            for name, value in _json_object(path, number, line).items():
                type = _type_of_value(value)
                known = types.get(name, "")
                if known and type and (merged := _wider(known, type)) == "":
                    raise InvalidRequest(
                        f"{path}:{number}: {name!a} is {type}, and was {known} on line "
                        f"{line_of[name]}",
                        hint="give each field one type",
                    )
                types[name] = merged if known and type else type or known
                line_of.setdefault(name, number)
            starts.append(start)
            sizes.append(len(line.rstrip(b"\r")))
        start = end + 1
    if not starts:
        raise InvalidRequest(f"{path} has no rows", hint="fill it or remove it")
    schema = tuple(Field(name, type or "text") for name, type in types.items())
    return schema, np.array(starts, np.int64), np.array(sizes, np.int64)


def _json_rows(path: str, content: Content) -> Iterator[tuple[int, dict[str, Any]]]:
    start, view = 0, memoryview(content)
    for number, end in enumerate(_newlines(view), start=1):
        line = bytes(view[start:end])
        if line.strip():
            yield number, _json_object(path, number, line)
        start = end + 1


def _json_object(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise InvalidRequest(
            f"{path}:{number}: not a JSON object: {wrong}", hint="one object a line"
        ) from wrong


def _parquet_rows(path: str, content: Content) -> tuple[tuple[Field, ...], Array, Array]:
    """Rows by their numbers: they have no place of their own, so the size of each is 0."""
    import polars

    try:
        found = polars.scan_parquet(io.BytesIO(_parquet_without_rows(content)))
        schema = found.collect_schema()
        rows = int(found.select(polars.len()).collect().item())
    except Exception as wrong:
        raise InvalidRequest(f"{path} is not Parquet: {wrong}", hint="write it again") from wrong
    if not rows:
        raise InvalidRequest(f"{path} has no rows", hint="fill it or remove it")
    fields = tuple(Field(name, _type_of_polars(type)) for name, type in schema.items())
    return fields, np.arange(rows), np.zeros(rows, np.int64)


def _parquet_without_rows(content: Content) -> bytes:
    """Its end, which says what it holds: the rest may be larger than memory."""
    size = int.from_bytes(content[-8:-4], "little") + 8
    return bytes(content[:4]) + bytes(content[-min(size, max(0, len(content) - 4)) :])


def _newlines(view: memoryview) -> Iterator[int]:
    """Where each line ends."""
    for at in range(0, len(view), BLOCK_BYTES):
        block = np.frombuffer(view[at : at + BLOCK_BYTES], np.uint8)
        yield from (np.flatnonzero(block == NEWLINE) + at).tolist()
    if len(view) and view[-1] != NEWLINE:
        yield len(view)


# --- types ---------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
MISSING = frozenset({"", "na", "nan", "null", "none", "n/a"})
_WIDER = {("integer", "number"): "number", ("time", "text"): "text"}


def _type_of_texts(values: Sequence[str]) -> str:
    present = [value.strip() for value in values if value.strip().lower() not in MISSING]
    if not present:
        return "text"
    for type, fits in (
        ("boolean", lambda text: text.lower() in ("true", "false")),
        ("integer", lambda text: _INTEGER.fullmatch(text) is not None),
        ("number", _is_number),
        ("time", is_time),
    ):
        if all(fits(value) for value in present):
            return type
    return "text"


def _type_of_value(value: object) -> str:
    """ "" for null."""
    match value:
        case None:
            return ""
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "time" if is_time(value) else "text"
        case list():
            return "list"
        case _:
            return "object"


def _type_of_polars(type: Any) -> str:
    if type.is_integer():
        return "integer"
    if type.is_numeric():
        return "number"
    if type.is_temporal():
        return "time"
    return {"Boolean": "boolean", "String": "text", "Binary": "bytes", "List": "list"}.get(
        str(type.base_type()), "text" if str(type).startswith(("Categ", "Enum")) else "object"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _wider(one: str, other: str) -> str:
    """The type that holds both; "" if there is none."""
    if one == other:
        return one
    return _WIDER.get((one, other)) or _WIDER.get((other, one)) or ""


def _merged(known: tuple[Field, ...], found: tuple[Field, ...], path: str) -> tuple[Field, ...]:
    fields = []
    for one, other in zip(known, found, strict=True):
        type = _wider(one.type, other.type) or ("text" if {one.type, other.type} & {"text"} else "")
        if not type:
            raise InvalidRequest(
                f"{path}: the column {one.name!a} is {other.type}, and was {one.type} before",
                hint="give each column one type",
            )
        fields.append(Field(one.name, type))
    return tuple(fields)


# --- checks --------------------------------------------------------------------------------------


def _check_header(path: str, header: Sequence[str]) -> None:
    if len(header) > MAX_COLUMNS:
        raise InvalidRequest(f"{path}:1: {len(header)} columns", hint=f"at most {MAX_COLUMNS}")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise InvalidRequest(
            f"{path}:1: the column {min(twice)!a} is there twice", hint="give each its own name"
        )


def _check_fields(path: str, line: int, fields: int, expected: int) -> None:
    if fields != expected:
        raise InvalidRequest(
            f"{path}:{line}: {fields} fields, and the header has {expected}",
            hint="put fields that hold a delimiter in quotes",
        )


def delimiter_of(path: str, header: str) -> str:
    if ending_of(path) == "tsv":
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _names(schema: Sequence[Field]) -> tuple[str, ...]:
    return tuple(each.name for each in schema)


def _count(view: memoryview, byte: int) -> int:
    return int(np.count_nonzero(np.frombuffer(view, np.uint8) == byte))


def ending_of(path: str) -> str:
    return path.rpartition(".")[2].lower()
