"""Logs: live as a stream of text, and of the past in the shape of Loki's answer."""

import asyncio
import codecs
import heapq
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from leptonai.control.actions.endpoints import find_endpoint
from leptonai.control.actions.jobs import find_job
from leptonai.control.api.context import World
from leptonai.control.api.routing import Call, Parameter, Route
from leptonai.core.records import Node, Phase, Record, Replica
from leptonai.errors import InvalidRequest, TooLarge
from leptonai.monitoring.logs import MAX_LINE_BYTES, DatedLine, LineDates, LineSplitter, as_text
from leptonai.ports.engine import LogChunk
from leptonai.ports.store import Query
from leptonai.spec.replicas import LogAnswer, LogData, LogStream

CHUNK_BYTES = 256 << 10
FIRST_PAUSE_S = 0.02  # between two looks at a log that did not grow
LONGEST_PAUSE_S = 0.25
MAX_LINES = 10_000  # of one answer
MAX_ANSWER_BYTES = 64 << 20
NS_PER_MS = 1_000_000
REPLACEMENT = "\ufffd"  # shown for what is no UTF-8
FORWARD, BACKWARD = "forward", "backward"
FOLLOW = Parameter("follow", bool, "false: only what there is by now.")


async def follow_log(
    world: World, replica: Replica, *, follow: bool = True
) -> AsyncIterator[bytes]:
    """The output of all attempts, oldest first, as UTF-8 text that is never cut inside a
    character. It ends when the replica has; without `follow`, at the end of what there is."""
    attempt = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset, pause_s = 0, FIRST_PAUSE_S
    node = ""
    while True:
        # Known before reading: what an ended attempt wrote is all there to be read.
        over = attempt < replica.attempt or replica.phase in (Phase.ENDED, Phase.DONE)
        node = node or await _node_of(world, replica, attempt)
        chunk = await _read(world, node, replica, attempt, offset)
        if chunk is not None and chunk.data:
            offset, pause_s = chunk.offset + len(chunk.data), FIRST_PAUSE_S
            text = decoder.decode(chunk.data)
            if text:
                yield text.encode()
            continue
        if over or not follow:
            rest = decoder.decode(b"", final=True)
            if rest:
                yield rest.encode()
        if attempt < replica.attempt:
            attempt, offset, node = attempt + 1, 0, ""
            decoder.reset()
            continue
        if replica.phase is Phase.DONE or not follow:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        fresh = await world.store.get(Replica, replica.workspace, replica.id)
        if fresh is None:
            return
        replica = fresh


async def history(call: Call) -> LogAnswer:
    """Lines with start <= time < end: the earliest of them, or the latest where backward."""
    replicas, since_ms = await _asked_replicas(call)
    wanted = call.text("replica")
    if wanted:
        replicas = [replica for replica in replicas if replica.id == wanted]
    start_ns = call.number("start", since_ms * NS_PER_MS)
    end_ns = call.number("end", (call.world.clock.now_ms() + 1) * NS_PER_MS)
    if end_ns < start_ns:
        raise InvalidRequest(
            "the parameter end: is before start", hint="Both are nanoseconds since 1970."
        )
    window = _Window(
        start_ns,
        end_ns,
        call.number("limit", MAX_LINES),
        call.one_of("direction", (FORWARD, BACKWARD), FORWARD) == FORWARD,
        call.text("q"),
    )
    found: list[tuple[DatedLine, Replica]] = []
    for replica in sorted(replicas, key=lambda r: (r.created_at_ms, r.index, r.id)):
        lines = await _lines_of(call.world, replica, window)
        found = _first_of([*found, *((line, replica) for line in lines)], window)
        if _bytes_of(line for line, _ in found) > MAX_ANSWER_BYTES:
            raise _too_large()
    return LogAnswer(data=LogData(result=_streams(found)))


@dataclass(frozen=True, slots=True)
class _Window:
    start_ns: int
    end_ns: int  # exclusive
    limit: int
    forward: bool
    having: str

    def shows(self, line: DatedLine) -> bool:
        return self.start_ns <= line.at_ns < self.end_ns and self.having in line.text


def _bytes_of(lines: Iterable[DatedLine]) -> int:
    return sum(len(line.text) for line in lines)


def _too_large() -> TooLarge:
    return TooLarge("the answer would be too large", hint="Ask for fewer lines at once.")


def _first_of(
    found: list[tuple[DatedLine, Replica]], window: _Window
) -> list[tuple[DatedLine, Replica]]:
    """Those that the limit leaves, in the order of their times."""
    choose = heapq.nsmallest if window.forward else heapq.nlargest
    if len(found) > window.limit:
        numbered = choose(
            window.limit, enumerate(found), key=lambda each: (each[1][0].at_ns, each[0])
        )
        found = [each for _, each in numbered]
    return sorted(found, key=lambda each: each[0].at_ns)


def _streams(found: list[tuple[DatedLine, Replica]]) -> list[LogStream]:
    by_replica: dict[str, LogStream] = {}
    for line, replica in found:
        stream = by_replica.get(replica.id)
        if stream is None:
            labels = {
                replica.owner_kind.value: replica.owner_id,
                "replica": replica.id,
                "index": str(replica.index),
            }
            stream = by_replica[replica.id] = LogStream(stream=labels, values=[])
        stream.values.append((str(line.at_ns), line.text))
    return list(by_replica.values())


async def _asked_replicas(call: Call) -> tuple[list[Replica], int]:
    """Of the one workload that is asked for; and since when it exists, in ms since 1970."""
    job = call.text("job") or call.text("job_history_name")
    endpoint = call.text("deployment") or call.text("endpoint")
    if bool(job) == bool(endpoint):
        raise InvalidRequest(
            "the parameters name no workload, or two", hint="Send job=ID or deployment=NAME."
        )
    owner: Record
    if job:
        owner = await find_job(call.world, call.principal, call.workspace, job)
        parent = f"job/{owner.id}"
    else:
        owner = await find_endpoint(call.world, call.principal, call.workspace, endpoint)
        parent = f"endpoint/{owner.id}"
    query = Query(workspace=call.workspace, parent=parent)
    return await call.world.store.find(Replica, query), owner.created_at_ms


async def _lines_of(world: World, replica: Replica, window: _Window) -> list[DatedLine]:
    attempts = list(range(replica.attempt + 1))
    lines: list[DatedLine] = []
    for attempt in attempts if window.forward else reversed(attempts):
        found = await _lines_of_attempt(world, replica, attempt, window)
        lines = [*lines, *found] if window.forward else [*found, *lines]
        if len(lines) >= window.limit:
            break
    return lines[: window.limit] if window.forward else lines[-window.limit :]


async def _lines_of_attempt(
    world: World, replica: Replica, attempt: int, window: _Window
) -> list[DatedLine]:
    started_ns, finished_ns = _times(replica, attempt)
    if started_ns >= window.end_ns or (finished_ns or window.start_ns) < window.start_ns:
        return []
    node = await _node_of(world, replica, attempt)
    marks = await world.engine.log_marks(node, f"{replica.id}.{attempt}") if node else ()
    dates = LineDates(marks, started_ns, finished_ns)
    if window.forward:
        offset = dates.offset_before(window.start_ns)
        return await _read_lines(world, node, replica, attempt, dates, window, offset, finished_ns)
    # Backward: from a place not far before the end, and from ever further back until it suffices.
    stop = dates.offset_after(window.end_ns)
    span = CHUNK_BYTES
    while True:
        offset = max(0, stop - span)
        lines = await _read_lines(world, node, replica, attempt, dates, window, offset, finished_ns)
        if len(lines) >= window.limit or offset == 0:
            return lines[-window.limit :]
        span *= 4


async def _read_lines(
    world: World,
    node: str,
    replica: Replica,
    attempt: int,
    dates: LineDates,
    window: _Window,
    offset: int,
    finished_ns: int | None,
) -> list[DatedLine]:
    """From around an offset on: forward at most `limit`, backward the last ones up to the end."""
    offset = max(0, offset - MAX_LINE_BYTES)
    splitter = LineSplitter(skip_first=offset > 0)
    lines: list[DatedLine] = []
    # Looked for in the bytes first: dating and decoding is most of the work. What is no UTF-8 is
    # shown, and so may be asked for, as something else than its bytes.
    having = b"" if REPLACEMENT in window.having else window.having.encode()

    def take(ended: list[tuple[int, bytes]]) -> bool:
        for end, raw in ended:
            if having not in raw:
                continue
            line = DatedLine(dates.of(end), as_text(raw))
            if line.at_ns >= window.end_ns:
                return True
            if window.shows(line):
                lines.append(line)
                if window.forward and len(lines) == window.limit:
                    return True
        if not window.forward and len(lines) > 2 * window.limit:
            del lines[: -window.limit]
        return False

    while True:
        chunk = await _read(world, node, replica, attempt, offset)
        if chunk is None or not chunk.data:
            if finished_ns is not None:
                take(splitter.rest())
            return lines
        offset = chunk.offset + len(chunk.data)
        if take(splitter.feed(chunk)):
            return lines
        if len(lines) * MAX_LINE_BYTES > MAX_ANSWER_BYTES and _bytes_of(lines) > MAX_ANSWER_BYTES:
            raise _too_large()
        await asyncio.sleep(0)  # a log may be long, and others wait for their turn


def _times(replica: Replica, attempt: int) -> tuple[int, int | None]:
    """When an attempt started and finished, in nanoseconds; the whole last millisecond is its."""
    for end in replica.terminations:
        if end.attempt == attempt:
            started_ms = end.started_at_ms or replica.created_at_ms
            return started_ms * NS_PER_MS, (end.finished_at_ms + 1) * NS_PER_MS - 1
    if attempt == replica.attempt:
        return (replica.started_at_ms or replica.created_at_ms) * NS_PER_MS, None
    return replica.created_at_ms * NS_PER_MS, None  # so long ago that its end is forgotten


async def _node_of(world: World, replica: Replica, attempt: int) -> str:
    """Where an attempt ran: most often where the replica is now."""
    id = f"{replica.id}.{attempt}"
    if replica.node and await _has_log(world, replica.node, id):
        return replica.node
    if attempt == replica.attempt:
        return replica.node
    for node in await world.store.find(Node, Query()):
        if await _has_log(world, node.id, id):
            return node.id
    return ""


async def _has_log(world: World, node: str, attempt: str) -> bool:
    return await world.engine.read_log(node, attempt, offset=0, limit=1) is not None


async def _read(
    world: World, node: str, replica: Replica, attempt: int, offset: int
) -> LogChunk | None:
    if not node:
        return None
    return await world.engine.read_log(
        node, f"{replica.id}.{attempt}", offset=offset, limit=CHUNK_BYTES
    )


ROUTES = (
    Route(
        method="GET",
        path="/logs",
        handler=history,
        summary="Lines of the past, in the shape of Loki's answer",
        answer=LogAnswer,
        query=(
            Parameter("job", about="Id of the job."),
            Parameter("job_history_name", about="The same."),
            Parameter("deployment", about="Name of the endpoint."),
            Parameter("endpoint", about="The same."),
            Parameter("replica", about="Only this replica."),
            Parameter("start", int, "Nanoseconds since 1970."),
            Parameter("end", int, "Nanoseconds since 1970, exclusive."),
            Parameter("direction", about="forward: the earliest lines; backward: the latest."),
            Parameter("limit", int, "How many lines.", least=1, most=MAX_LINES),
            Parameter("q", about="A text that the lines hold."),
        ),
    ),
)
