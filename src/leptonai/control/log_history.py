"""Lines of the past: found by their time, read from there, merged over replicas.

Nothing is read that is not asked for, and never more than a chunk of each replica's log is held.
"""

import asyncio
import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from leptonai.core.records import Node, Replica
from leptonai.monitoring.logs import LineDates, Lines, LineSplitter, as_text
from leptonai.ports.engine import Engine, LogChunk
from leptonai.ports.store import Query, Store

CHUNK_BYTES = 256 << 10
SEEK_BYTES = 4 << 10  # how far to look back for the start of a line at first
MAX_SEEK_BYTES = 1 << 20
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
REPLACEMENT = "\ufffd"  # shown for what is no UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which lines are asked for: those with start <= time < end that hold a text."""

    start_ns: int
    end_ns: int
    having: str = ""
    forward: bool = True  # the earliest first, else the latest


@dataclass(slots=True)
class DatedLines:
    """Of one replica, in the order that was asked for."""

    replica: Replica
    times_ns: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.times_ns)

    def cut(self, at: int) -> tuple["DatedLines", "DatedLines"]:
        return (
            DatedLines(self.replica, self.times_ns[:at], self.texts[:at]),
            DatedLines(self.replica, self.times_ns[at:], self.texts[at:]),
        )


async def find_lines(
    store: Store, engine: Engine, replicas: Sequence[Replica], window: Window, limit: int
) -> AsyncIterator[DatedLines]:
    """At most `limit` lines in the order of their times, a few at once."""
    left = limit
    async for lines in _merged(
        [_lines_of(store, engine, replica, window, limit) for replica in replicas], window
    ):
        if len(lines) >= left:
            yield lines.cut(left)[0]
            return
        left -= len(lines)
        yield lines


async def count_lines(
    store: Store, engine: Engine, replica: Replica, window: Window, step_ns: int
) -> dict[int, int]:
    """How many lines were written in each step from the window's start on; steps without are left
    out."""
    counts: dict[int, int] = {}
    async for log in _logs_of(store, engine, replica, window):
        async for lines in log.forward(window):
            for at_ns in log.dates.of_each(lines.ends):
                step = (at_ns - window.start_ns) // step_ns
                counts[step] = counts.get(step, 0) + 1
    return counts


async def tail_offset(engine: Engine, node: str, attempt: str, lines: int) -> int:
    """Where the last lines of a log begin, one that is still open among them."""
    marks = await engine.log_marks(node, attempt)
    log = _Log(engine, node, attempt, LineDates(marks, 0, None), over=False)
    offset = log.dates.end
    for _ in range(lines):
        if offset == 0:
            break
        begins = await log.line_start(offset - 1)
        if begins >= offset:
            break
        offset = begins
    return offset


async def node_of(store: Store, engine: Engine, replica: Replica, attempt: int) -> str:
    """Where an attempt ran: most often where the replica is now."""
    id = f"{replica.id}.{attempt}"
    if replica.node and await _has_log(engine, replica.node, id):
        return replica.node
    if attempt == replica.attempt:
        return replica.node
    for node in await store.find(Node, Query()):
        if await _has_log(engine, node.id, id):
            return node.id
    return ""


async def _has_log(engine: Engine, node: str, attempt: str) -> bool:
    return await engine.read_log(node, attempt, offset=0, limit=1) is not None


# --- of several replicas -------------------------------------------------------------------------


async def _merged(
    sources: Sequence[AsyncIterator[DatedLines]], window: Window
) -> AsyncIterator[DatedLines]:
    sign = 1 if window.forward else -1
    waiting: list[tuple[int, int, DatedLines]] = []

    async def refill(number: int) -> None:
        async for lines in sources[number]:
            if len(lines):
                heapq.heappush(waiting, (sign * lines.times_ns[0], number, lines))
                return

    for number in range(len(sources)):
        await refill(number)
    while waiting:
        _, number, lines = heapq.heappop(waiting)
        count = len(lines)
        if waiting:  # as far as nobody else comes before
            count = _up_to(lines.times_ns, sign * waiting[0][0], window)
        now, later = lines.cut(count)
        yield now
        if len(later):
            heapq.heappush(waiting, (sign * later.times_ns[0], number, later))
        else:
            await refill(number)


def _up_to(times_ns: list[int], other_ns: int, window: Window) -> int:
    """How many come before another replica's line; at least one, which was chosen to."""
    if window.forward:
        return max(1, bisect_right(times_ns, other_ns))
    return max(1, bisect_right(times_ns, -other_ns, key=lambda at_ns: -at_ns))


# --- of one replica ------------------------------------------------------------------------------


async def _lines_of(
    store: Store, engine: Engine, replica: Replica, window: Window, limit: int
) -> AsyncIterator[DatedLines]:
    async for log in _logs_of(store, engine, replica, window):
        found = log.forward(window) if window.forward else log.backward(window, limit)
        async for lines in found:
            texts = [as_text(line) for line in lines.texts]
            times_ns = log.dates.of_each(lines.ends)
            if not window.forward:
                texts.reverse()
                times_ns.reverse()
            dated = DatedLines(replica, times_ns, texts)
            # What is no UTF-8 is shown, and so may be asked for, as something else than its bytes.
            if REPLACEMENT in window.having:
                kept = [at for at, text in enumerate(texts) if window.having in text]
                dated = DatedLines(
                    replica, [times_ns[at] for at in kept], [texts[at] for at in kept]
                )
            yield dated


async def _logs_of(
    store: Store, engine: Engine, replica: Replica, window: Window
) -> AsyncIterator["_Log"]:
    """Of its attempts that ran in that time, in the order that is asked for."""
    attempts = range(replica.attempt + 1)
    for attempt in attempts if window.forward else reversed(attempts):
        created_ns = replica.created_at_ms * NS_PER_MS
        finished_ns = _finished_ns(replica, attempt)
        if created_ns >= window.end_ns or (
            finished_ns is not None and finished_ns < window.start_ns
        ):
            continue
        node = await node_of(store, engine, replica, attempt)
        if not node:
            continue
        over = finished_ns is not None or attempt < replica.attempt
        id = f"{replica.id}.{attempt}"
        dates = LineDates(await engine.log_marks(node, id), created_ns, finished_ns)
        yield _Log(engine, node, id, dates, over)


def _finished_ns(replica: Replica, attempt: int) -> int | None:
    """The whole last millisecond is the attempt's. None where it runs, or its end is forgotten."""
    for end in replica.terminations:
        if end.attempt == attempt:
            return (end.finished_at_ms + 1) * NS_PER_MS - 1
    return None


# --- of one attempt ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Log:
    engine: Engine
    node: str
    attempt: str
    dates: LineDates
    over: bool  # nothing more comes, so a last line without an end is whole

    async def forward(self, window: Window) -> AsyncIterator[Lines]:
        first, stop = self._bounds(window)
        if first >= stop:
            return
        begin = await self.line_start(max(0, first - 1))
        async for lines in self._from(begin):
            if len(lines) and lines.ends[0] >= stop:
                return
            yield _chosen(lines.between(first, stop), window)
            if len(lines) and lines.ends[-1] >= stop:
                return

    async def backward(self, window: Window, limit: int) -> AsyncIterator[Lines]:
        """The last lines first, a block at a time; in a block they ascend."""
        first, stop = self._bounds(window)
        while first < stop:
            begin = await self.line_start(max(0, stop - CHUNK_BYTES))
            block: deque[tuple[int, bytes]] = deque(maxlen=limit)
            async for lines in self._from(begin):
                chosen = _chosen(lines.between(first, stop), window)
                block.extend(zip(chosen.ends, chosen.texts, strict=True))
                if len(lines) and lines.ends[-1] >= stop:
                    break
            yield Lines([end for end, _ in block], [text for _, text in block])
            if begin == 0 or begin + 1 >= stop:
                return
            stop = begin + 1  # a line that ends where the block begins is of the one before

    async def line_start(self, offset: int) -> int:
        """Of the line that the byte at this offset belongs to."""
        stop, span = offset, SEEK_BYTES
        while stop > 0:
            begin = max(0, stop - span)
            chunk = await self._read(begin, stop - begin)
            if chunk is None or chunk.offset >= stop:
                return offset if chunk is None else chunk.offset  # all before it was dropped
            newline = chunk.data.rfind(b"\n", 0, stop - chunk.offset)
            if newline >= 0:
                return chunk.offset + newline + 1
            if chunk.offset > begin:
                return chunk.offset
            stop, span = begin, min(4 * span, MAX_SEEK_BYTES)
        return 0

    async def _from(self, offset: int) -> AsyncIterator[Lines]:
        """From the start of a line to the last that has a date."""
        splitter = LineSplitter()
        while offset < self.dates.end:
            chunk = await self._read(offset, min(CHUNK_BYTES, self.dates.end - offset))
            if chunk is None or not chunk.data:
                break
            if chunk.offset >= self.dates.end:
                return
            chunk = LogChunk(chunk.offset, chunk.data[: self.dates.end - chunk.offset])
            offset = chunk.offset + len(chunk.data)
            yield splitter.feed(chunk)
            await asyncio.sleep(0)  # a log may be long, and others wait for their turn
        if self.over:
            yield splitter.rest()

    async def _read(self, offset: int, limit: int) -> LogChunk | None:
        return await self.engine.read_log(self.node, self.attempt, offset=offset, limit=limit)

    def _bounds(self, window: Window) -> tuple[int, int]:
        """Lines of that time have first <= end < stop."""
        return self.dates.first_end(window.start_ns), self.dates.first_end(window.end_ns)


def _chosen(lines: Lines, window: Window) -> Lines:
    if not window.having or REPLACEMENT in window.having:
        return lines
    return lines.having(window.having.encode())
