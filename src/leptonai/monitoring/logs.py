"""Lines of a log, and when each was written.

A replica writes bytes; its engine notes now and then how long the log was (`LogMark`). A line is
dated between the two marks around its end, in proportion to its place: so lines keep their order,
and no two share a nanosecond, which keeps clients that drop repeated lines from dropping real ones.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from leptonai.ports.engine import LogChunk, LogMark

MAX_LINE_BYTES = 64 << 10  # a longer line is told as several


@dataclass(frozen=True, slots=True)
class DatedLine:
    at_ns: int
    text: str


def dated_lines(
    chunks: Iterable[LogChunk],
    marks: tuple[LogMark, ...],
    started_ns: int,
    finished_ns: int | None,
) -> Iterator[DatedLine]:
    """The lines of an attempt's log, in order.

    A last line without an end is told only once the attempt has finished: it may still grow.
    """
    lines, dates = LineSplitter(), LineDates(marks, started_ns, finished_ns)
    for chunk in chunks:
        for end, line in lines.feed(chunk):
            yield DatedLine(dates.of(end), as_text(line))
    if finished_ns is not None:
        for end, line in lines.rest():
            yield DatedLine(dates.of(end), as_text(line))


def as_text(line: bytes) -> str:
    """Bytes that are no UTF-8 become replacement characters; `\\r\\n` ends a line like `\\n`."""
    return line.removesuffix(b"\r").decode("utf-8", "replace")


class LineSplitter:
    """Cuts chunks into lines, each with the offset of its end in the log."""

    def __init__(self, *, skip_first: bool = False) -> None:
        """`skip_first`: reading starts inside a line, whose rest is dropped."""
        self._open = b""
        self._end: int | None = None
        self._skipping = skip_first

    def feed(self, chunk: LogChunk) -> list[tuple[int, bytes]]:
        if not chunk.data:
            return []
        if self._end is not None and chunk.offset != self._end:
            self._open = b""  # output was dropped in between: its line is lost
            self._skipping = True
        start = chunk.offset - len(self._open)
        data = self._open + chunk.data
        self._end = chunk.offset + len(chunk.data)
        lines: list[tuple[int, bytes]] = []
        at = 0
        while (newline := data.find(b"\n", at)) >= 0:
            if self._skipping:
                self._skipping = False
            else:
                lines.extend(_pieces(start + at, data[at:newline], start + newline + 1))
            at = newline + 1
        self._open = data[at:]
        if len(self._open) >= MAX_LINE_BYTES:
            whole = len(self._open) // MAX_LINE_BYTES * MAX_LINE_BYTES
            if not self._skipping:
                lines.extend(_pieces(start + at, self._open[:whole], start + at + whole))
            self._open = self._open[whole:]
        return lines

    def rest(self) -> list[tuple[int, bytes]]:
        """What came after the last line end."""
        left, self._open = self._open, b""
        return [(self._end, left)] if left and self._end is not None and not self._skipping else []


def _pieces(start: int, line: bytes, end: int) -> Iterator[tuple[int, bytes]]:
    for at in range(MAX_LINE_BYTES, len(line), MAX_LINE_BYTES):
        yield start + at, line[at - MAX_LINE_BYTES : at]
    last = (len(line) - 1) // MAX_LINE_BYTES * MAX_LINE_BYTES if line else 0
    yield end, line[last:]


class LineDates:
    """When the line that ends at an offset was written, in nanoseconds since 1970."""

    def __init__(
        self, marks: tuple[LogMark, ...], started_ns: int, finished_ns: int | None
    ) -> None:
        self._started_ns = started_ns
        self._finished_ns = finished_ns
        self._offsets: list[int] = [0]
        self._times: list[int] = [started_ns]
        for mark in marks:
            if mark.offset <= self._offsets[-1]:
                continue
            # The engine may look only after the end: nothing was written later than that.
            at_ns = mark.at_ns if finished_ns is None else min(mark.at_ns, finished_ns)
            at_ns = max(at_ns, started_ns)
            # Each byte gets a nanosecond of its own: marks that are too close to each other for
            # that are taken as one.
            while (
                len(self._offsets) > 1 and at_ns - self._times[-1] < mark.offset - self._offsets[-1]
            ):
                self._offsets.pop()
                self._times.pop()
            self._offsets.append(mark.offset)
            self._times.append(at_ns)

    def of(self, end: int) -> int:
        index = bisect_left(self._offsets, end)
        if index == 0:
            return self._started_ns
        if index == len(self._offsets):
            return self._after_the_last_mark(end)
        return _between(
            end,
            self._offsets[index - 1],
            self._times[index - 1],
            self._offsets[index],
            self._times[index],
        )

    def offset_before(self, at_ns: int) -> int:
        """Every line that ends at or before this offset is older than `at_ns`."""
        index = bisect_left(self._times, at_ns)
        return self._offsets[index - 1] if index else 0

    def offset_after(self, at_ns: int) -> int:
        """Every line that ends after this offset is as old as `at_ns` or younger; or the last mark,
        if the marks do not reach that far."""
        index = bisect_left(self._times, at_ns)
        return self._offsets[min(index, len(self._offsets) - 1)]

    def _after_the_last_mark(self, end: int) -> int:
        behind = end - self._offsets[-1]
        if self._finished_ns is None:
            return self._times[-1] + behind
        # Before the end, as close to the last mark as the order of lines allows.
        return min(self._times[-1] + behind, self._finished_ns)


def _between(end: int, offset: int, at_ns: int, next_offset: int, next_ns: int) -> int:
    """Counted back from the later mark, at least a nanosecond a byte."""
    left = next_offset - end
    span_ns = max(next_ns - at_ns, next_offset - offset)
    return next_ns - span_ns * left // (next_offset - offset)
