"""Lines of a log, and when each was written.

A replica writes bytes; its engine notes now and then how long the log was (`LogMarks`). A line is
dated between the two marks around its end, in proportion to its place: so lines keep their order,
and as long as no more than a line a nanosecond is written, no two of them share one. Dates ascend
with offsets, so the lines of a time are found by bisection, without reading those before them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from leptonai.ports.engine import LogChunk, LogMarks

MAX_LINE_BYTES = 64 << 10  # a longer line is told as several
CHARACTER_BYTES = 4  # at most, in UTF-8


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of one log one after the other, each with the offset of its end."""

    ends: list[int]
    texts: list[bytes]  # without the line end

    def __len__(self) -> int:
        return len(self.ends)

    def between(self, first: int, stop: int) -> "Lines":
        """Those with first <= end < stop."""
        here = slice(bisect_left(self.ends, first), bisect_left(self.ends, stop))
        return Lines(self.ends[here], self.texts[here])

    def having(self, text: bytes) -> "Lines":
        kept = [at for at, line in enumerate(self.texts) if text in line]
        return Lines([self.ends[at] for at in kept], [self.texts[at] for at in kept])


def as_text(line: bytes) -> str:
    """Bytes that are no UTF-8 become replacement characters; `\\r\\n` ends a line like `\\n`."""
    return line.removesuffix(b"\r").decode("utf-8", "replace")


class LineSplitter:
    """Cuts chunks into lines. The first chunk must begin at the start of a line."""

    def __init__(self) -> None:
        self._open = b""
        self._end: int | None = None

    def feed(self, chunk: LogChunk) -> Lines:
        if self._end is not None and chunk.offset != self._end:
            self._open = b""  # output was dropped in between: its line is lost
        start = chunk.offset - len(self._open)
        self._end = chunk.offset + len(chunk.data)
        texts = (self._open + chunk.data).split(b"\n")
        self._open = texts.pop()
        ends = list(accumulate([len(text) + 1 for text in texts], initial=start))
        open_at = ends[-1]
        if texts and max(map(len, texts)) > MAX_LINE_BYTES:
            lines = _cut_long(ends, texts)
        else:
            lines = Lines(ends[1:], texts)
        if len(self._open) > MAX_LINE_BYTES:
            *pieces, self._open = _pieces(self._open)
            for piece in pieces:
                open_at += len(piece)
                lines.ends.append(open_at)
                lines.texts.append(piece)
        return lines

    def rest(self) -> Lines:
        """What came after the last line end."""
        left, self._open = self._open, b""
        return Lines([self._end], [left]) if left and self._end is not None else Lines([], [])


def _cut_long(starts: list[int], texts: list[bytes]) -> Lines:
    lines = Lines([], [])
    for start, text in zip(starts, texts, strict=False):
        pieces = _pieces(text)
        ends = list(accumulate([len(piece) for piece in pieces], initial=start))[1:]
        lines.ends.extend([*ends[:-1], start + len(text) + 1])
        lines.texts.extend(pieces)
    return lines


def _pieces(line: bytes) -> list[bytes]:
    """The same ones however the line was cut into chunks, and none begins inside a character."""
    pieces = []
    while len(line) > MAX_LINE_BYTES:
        at = whole_characters(line[: MAX_LINE_BYTES + 1], MAX_LINE_BYTES)
        pieces.append(line[:at])
        line = line[at:]
    return [*pieces, line]


def whole_characters(data: bytes, at: int) -> int:
    """The last place up to `at` that is not inside a character; `at` where the bytes are no UTF-8.
    What follows `data` is not known."""
    for back in range(CHARACTER_BYTES):
        place = at - back
        if place <= 0:
            break
        if place < len(data) and not 0x80 <= data[place] < 0xC0:
            return place
        if place == len(data) and data[place - 1] < 0x80:
            return place
    return at


class LineDates:
    """When the line that ends at an offset was written, in nanoseconds since 1970."""

    def __init__(self, marks: LogMarks, not_before_ns: int, not_after_ns: int | None) -> None:
        """The bounds are those of the attempt: clocks and files differ by some milliseconds."""
        self._offsets, self._times = marks.offsets, marks.at_ns
        self._first_ns, self._last_ns = not_before_ns, not_after_ns
        self.end = marks.end  # what comes after it has no date yet

    def of(self, end: int) -> int:
        return self.of_each((end,))[0]

    def of_each(self, ends: Sequence[int]) -> list[int]:
        """Of ascending ends."""
        dates: list[int] = []
        at = 0
        while at < len(ends):
            index = bisect_left(self._offsets, ends[at])
            stop = bisect_left(ends, self._offsets[index] + 1) if index < len(self._offsets) else 0
            stop = max(at + 1, stop)
            dates += self._in_segment(index, ends[at:stop])
            at = stop
        return dates

    def first_end(self, at_ns: int) -> int:
        """The smallest offset such that a line which ends there is not older than `at_ns`; one more
        than there are where all are."""
        return bisect_left(range(self.end + 1), at_ns, key=self.of)

    def _in_segment(self, index: int, ends: Sequence[int]) -> list[int]:
        if not 0 < index < len(self._offsets):
            there = self._times[min(index, len(self._times) - 1)] if self._times else 0
            return [self._bounded(there)] * len(ends)
        next_offset, next_ns = self._offsets[index], self._times[index]
        bytes_between = next_offset - self._offsets[index - 1]
        ns_between = next_ns - self._times[index - 1]
        # Counted back from the later mark, which is exact where the earlier one is far away.
        dates = [next_ns - ns_between * (next_offset - end) // bytes_between for end in ends]
        if dates[0] < self._first_ns or (self._last_ns is not None and dates[-1] > self._last_ns):
            return [self._bounded(date) for date in dates]
        return dates

    def _bounded(self, at_ns: int) -> int:
        at_ns = max(at_ns, self._first_ns)
        return at_ns if self._last_ns is None else min(at_ns, self._last_ns)
