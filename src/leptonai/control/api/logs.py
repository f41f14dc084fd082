"""Logs: live as a stream of text, and of the past in the shape of Loki's answer."""

from collections.abc import AsyncIterator

import msgspec

from leptonai.control.actions.endpoints import find_endpoint
from leptonai.control.actions.jobs import find_job
from leptonai.control.actions.rayclusters import find_raycluster
from leptonai.control.api.job_modes import BOTH, MODE, job_in_mode
from leptonai.control.api.routing import TEXT, Answer, Call, Parameter, Route
from leptonai.control.log_history import (
    NS_PER_MS,
    NS_PER_S,
    DatedLines,
    Window,
    count_lines,
    find_lines,
)
from leptonai.core.records import OwnerKind, Replica, Workload, kind_of
from leptonai.errors import InvalidRequest, NotFound
from leptonai.ports.store import Query
from leptonai.spec.replicas import LogAnswer, LogCounts, LogSeries, LogStream, LogTimeseries

MAX_LINES = 10_000  # of one answer
MAX_STEPS = 11_000  # of a time series, as Loki has it
PART_BYTES = 1 << 20  # of an answer, held before it is sent
FORWARD, BACKWARD = "forward", "backward"
FOLLOW = Parameter("follow", bool, "false: only what there is by now.")
TAIL = Parameter("tail", int, "Begin with so many last lines.", least=0, most=MAX_LINES)


def live_log(call: Call, replica: Replica) -> Answer:
    world = call.world
    follow = call.flag("follow", default=True)
    tail = call.number("tail", 0) if call.text("tail") else None
    return Answer(
        stream=world.tails.follow(world.store, world.engine, replica, follow=follow, tail=tail),
        media=TEXT,
    )


async def history(call: Call) -> Answer:
    """Lines with start <= time < end: the earliest first, or the latest first where backward."""
    replicas, window = await _asked(call)
    limit = call.number("limit", MAX_LINES)
    found = find_lines(call.world.store, call.world.engine, replicas, window, limit)
    parts = _parts(found)
    # What fails does so before the answer begins, if it is not a long one.
    first = await anext(parts)
    second = await anext(parts, None)
    if second is None:
        return Answer(body=first)
    return Answer(stream=_after(first, second, parts))


async def timeseries(call: Call) -> LogTimeseries:
    """How many lines were written, over time."""
    replicas, window = await _asked(call)
    span_ns = window.end_ns - window.start_ns
    step_ns = call.number("interval_ms", 0) * NS_PER_MS or max(1, span_ns // 100)
    if span_ns // step_ns > MAX_STEPS:
        raise InvalidRequest(
            f"the parameter interval_ms: {span_ns // step_ns} steps are too many",
            hint=f"Ask for at most {MAX_STEPS}.",
        )
    result = []
    for replica in replicas:
        counts = await count_lines(call.world.store, call.world.engine, replica, window, step_ns)
        if counts:
            values = [
                ((window.start_ns + step * step_ns) / NS_PER_S, str(count))
                for step, count in sorted(counts.items())
            ]
            result.append(LogSeries(metric=_labels(replica), values=values))
    return LogTimeseries(data=LogCounts(result=result))


async def _asked(call: Call) -> tuple[list[Replica], Window]:
    replicas, since_ms = await _asked_replicas(call)
    start_ns = _moment_ns(call.number("start", since_ms * NS_PER_MS))
    end_ns = _moment_ns(call.number("end", (call.world.clock.now_ms() + 1) * NS_PER_MS))
    if end_ns < start_ns:
        raise InvalidRequest(
            "the parameter end: is before start",
            hint="Both are times since 1970: in s, ms, us or ns.",
        )
    forward = call.one_of("direction", (FORWARD, BACKWARD), FORWARD) == FORWARD
    window = Window(start_ns=start_ns, end_ns=end_ns, forward=forward, having=call.text("q"))
    return sorted(replicas, key=lambda r: (r.created_at_ms, r.index, r.id)), window


def _moment_ns(since_1970: int) -> int:
    """Seconds, milliseconds, microseconds or nanoseconds: told apart by their size, which fits
    all times from 1973 to 5138."""
    for digits, factor in ((11, NS_PER_S), (14, NS_PER_MS), (17, 1_000)):
        if since_1970 < 10**digits:
            return since_1970 * factor
    return since_1970


async def _parts(found: AsyncIterator[DatedLines]) -> AsyncIterator[bytes]:
    """Of the answer's JSON. What is held of a long one does not grow with it."""
    before, held = b'{"data":{"result":[', 0
    streams: dict[str, LogStream] = {}
    async for lines in found:
        stream = streams.get(lines.replica.id)
        if stream is None:
            labels = _labels(lines.replica)
            stream = streams[lines.replica.id] = LogStream(stream=labels, values=[])
        stream.values.extend(zip(map(str, lines.times_ns), lines.texts, strict=True))
        held += sum(map(len, lines.texts))
        if held > PART_BYTES:
            yield before + _json_of(streams)
            before, held, streams = b",", 0, {}
    last = _json_of(streams) if streams else b""
    yield (before if last or before != b"," else b"") + last + b"]}}"


def _json_of(streams: dict[str, LogStream]) -> bytes:
    return msgspec.json.encode([*streams.values()])[1:-1]


async def _after(first: bytes, second: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    async for part in parts:
        yield part


def _labels(replica: Replica) -> dict[str, str]:
    return {
        replica.owner_kind.value: replica.owner_id,
        "replica": replica.id,
        "index": str(replica.index),
    }


async def _asked_replicas(call: Call) -> tuple[list[Replica], int]:
    """Of the one workload that is asked for; and since when it exists, in ms since 1970."""
    job = call.text("job") or call.text("job_history_name")
    endpoint = call.text("deployment") or call.text("endpoint")
    replica = call.text("replica")
    if (job and endpoint) or not (job or endpoint or replica):
        raise InvalidRequest(
            "the parameters name no workload, or two",
            hint="Send job=ID, deployment=NAME or replica=ID.",
        )
    owner: Workload
    if job:
        owner = await job_in_mode(call, job, BOTH)
    elif endpoint:
        owner = await find_endpoint(call.world, call.principal, call.workspace, endpoint)
    else:
        owner = await _owner_of(call, replica)
    query = Query(workspace=call.workspace, parent=f"{kind_of(owner)}/{owner.id}")
    found = await call.world.store.find(Replica, query)
    return [each for each in found if replica in ("", each.id)], owner.created_at_ms


async def _owner_of(call: Call, replica: str) -> Workload:
    world = call.world
    found = await world.store.get(Replica, call.workspace, replica)
    if found is None:
        raise NotFound(
            f"there is no replica {replica[:100]!r}", hint="Name the job or endpoint instead."
        )
    if found.owner_kind is OwnerKind.JOB:
        return await find_job(world, call.principal, call.workspace, found.owner_id)
    if found.owner_kind is OwnerKind.RAYCLUSTER:
        return await find_raycluster(world, call.principal, call.workspace, found.owner_name)
    return await find_endpoint(world, call.principal, call.workspace, found.owner_name)


_ASKED = (
    Parameter("job", about="Id of the job."),
    Parameter("job_history_name", about="The same."),
    Parameter("deployment", about="Name of the endpoint."),
    Parameter("endpoint", about="The same."),
    Parameter("replica", about="Only this replica."),
    Parameter("start", int, "Since 1970, in s, ms, us or ns."),
    Parameter("end", int, "Since 1970, in s, ms, us or ns; exclusive."),
    Parameter("direction", about="forward: the earliest lines first; backward: the latest first."),
    Parameter("limit", int, "How many lines.", least=1, most=MAX_LINES),
    Parameter("q", about="A text that the lines hold."),
    Parameter("timestamps", about="Ignored: every line has its time."),
    MODE,
)

ROUTES = (
    Route(
        method="GET",
        path="/logs",
        handler=history,
        summary="Lines of the past, in the shape of Loki's answer",
        answer=LogAnswer,
        query=_ASKED,
    ),
    Route(
        method="GET",
        path="/logs/timeseries",
        handler=timeseries,
        summary="How many lines were written over time, in the shape of Prometheus' answer",
        answer=LogTimeseries,
        query=(*_ASKED, Parameter("interval_ms", int, "Of one step.", least=0)),
    ),
)
